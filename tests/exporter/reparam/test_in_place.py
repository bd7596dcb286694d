"""Writes in place: those into fresh memory become pure ops; the others are left to torch.export's decompositions."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from plainconv.exporter.errors import CheckFailedError
from plainconv.exporter.reparam import reparameterize
from plainconv.exporter.reparam.in_place import write_out_of_place, writes


class Net(nn.Module):
    def __init__(self, body: Callable[[Tensor, nn.Module, nn.Module], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.body = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x, self.a, self.b)


def residual(x: Tensor, a: nn.Module, b: nn.Module) -> Tensor:
    y = F.relu(a(x), inplace=True)
    z = b(y)
    z += y
    return z.relu_()


def read_again(x: Tensor, a: nn.Module, b: nn.Module) -> Tensor:
    y = a(x)
    z = y.sigmoid()
    y.mul_(2.0)
    return z + y + b(y)


def view_before(x: Tensor, a: nn.Module, b: nn.Module) -> Tensor:
    y = a(x)
    half = y[:, :2]
    y.mul_(2.0)
    return torch.cat([half, b(y)], 1)


def through_an_identity(x: Tensor, a: nn.Module, b: nn.Module) -> Tensor:
    y = a(x)
    same = F.dropout(y, training=False)
    y.mul_(2.0)
    return b(same)


def into_the_input(x: Tensor, a: nn.Module, b: nn.Module) -> Tensor:
    x = x.clone().mul_(2.0)
    return b(a(x))


def into_itself(x: Tensor, a: nn.Module, b: nn.Module) -> Tensor:
    y = a(x)
    y += y
    return b(y)


@pytest.mark.parametrize(
    ("body", "fresh"),
    [
        (residual, True),
        (read_again, True),
        (view_before, False),
        (into_the_input, False),
        (into_itself, True),
    ],
)
def test_writes_are_followed(body: Callable[..., Tensor], fresh: bool) -> None:
    module = Net(body).double().eval()
    x = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    graph = torch.export.export(module, (x.clone(),), strict=False).module().graph
    assert any(map(writes, graph.nodes))
    assert write_out_of_place(graph) is fresh
    plain, _ = reparameterize(module, x.clone(), tracer="export")
    for size in ((8, 8), (5, 7)):
        x = torch.randn(3, 4, *size, dtype=torch.float64)
        assert (plain(x.clone()) - module(x.clone())).abs().max() < 1e-12


def test_a_write_that_torch_export_loses_is_found_end_to_end() -> None:
    """Given a write into a value that dropout handed on as it is → Result an error, not another function.

    torch.export takes dropout for an op that gives fresh memory. No region is wrong by itself.
    """
    with pytest.raises(CheckFailedError, match="off by"):
        reparameterize(Net(through_an_identity).double().eval(), torch.randn(2, 4, 8, 8, dtype=torch.float64))
