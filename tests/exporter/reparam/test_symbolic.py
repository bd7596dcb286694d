"""torch.fx as the tracer: what it takes that torch.export does not, and the writes in place that it may not follow."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from plainconv.exporter.errors import ReparamError
from plainconv.exporter.reparam import reparameterize
from plainconv.exporter.source.randomize import randomized

library = torch.library.Library("plainconv_tests", "DEF")
library.define("opaque(Tensor x) -> Tensor")
library.impl("opaque", lambda x: x.sin(), "CPU")


class Net(nn.Module):
    """Two 1×1 convs with norms, and something after them."""

    def __init__(self, after: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
        self.b = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
        self.after = after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.b(self.a(x)))


def check(module: nn.Module, convs: int = 1) -> None:
    """Given the module → Result the same numbers at two sizes, with so many convolutions and no norm."""
    module = randomized(module, 0).double().eval()
    plain, report = reparameterize(module, torch.randn(1, 4, 8, 8, dtype=torch.float64), tracer="fx")
    for size in ((8, 8), (5, 7)):
        x = torch.randn(3, 4, *size, dtype=torch.float64)
        assert (plain(x.clone()) - module(x)).abs().max() < 1e-10
    assert report.counts_after["conv"] == convs and report.counts_after["norm"] == 0 and report.tracer == "torch.fx"


def test_an_op_without_a_shape_function_is_traced_by_fx() -> None:
    module = randomized(Net(torch.ops.plainconv_tests.opaque), 0).eval()
    plain, report = reparameterize(module, torch.randn(2, 4, 8, 8))
    assert report.tracer == "torch.fx" and report.counts_after["conv"] == 1
    x = torch.randn(3, 4, 6, 7)
    assert torch.allclose(plain(x), module(x), atol=1e-5)
    with pytest.raises(ReparamError, match=r"torch\.export \("):
        reparameterize(module, torch.randn(2, 4, 8, 8), tracer="export")


@pytest.mark.parametrize(
    "after",
    [
        lambda x: F.relu(x, inplace=True),
        lambda x: F.interpolate(x, scale_factor=2.0),
        lambda x: F.adaptive_avg_pool2d(x, 1).flatten(1),
        lambda x: x.view(x.size(0), -1).mean(1),
        lambda x: torch.cat([F.max_pool2d(x, 3, 1, 1), x], 1).relu_(),
    ],
)
def test_what_follows_a_region_keeps_its_sizes_open(after: Callable[[Tensor], Tensor]) -> None:
    check(Net(after))


def test_layers_left_as_they_are_get_weights_of_their_own() -> None:
    module = randomized(nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.GroupNorm(2, 4)), 0).eval()
    plain, _ = reparameterize(module, torch.randn(1, 4, 8, 8), tracer="fx")
    shared = {t.data_ptr() for t in module.state_dict().values()}
    assert not shared & {t.data_ptr() for t in plain.state_dict().values()}


def write_then_read_the_result(x: Tensor) -> Tensor:
    y = x.relu_()
    return y + 1.0


def write_then_read_the_old(x: Tensor) -> Tensor:
    y = x * 1.0
    z = y.relu_()
    return z + y


def write_through_a_view(x: Tensor) -> Tensor:
    x[:, :2].mul_(2.0)
    return x


def test_a_write_that_nobody_sees_is_followed() -> None:
    check(Net(write_then_read_the_result))


@pytest.mark.parametrize("after", [write_then_read_the_old, write_through_a_view])
def test_a_write_that_shows_elsewhere_is_refused(after: Callable[[Tensor], Tensor]) -> None:
    module = Net(after).eval()
    with pytest.raises(ReparamError, match=r"writes in place and overwrites what .* reads later"):
        reparameterize(module, torch.randn(1, 4, 8, 8), tracer="fx")
    reparameterize(module, torch.randn(1, 4, 8, 8), tracer="export")  # which follows it
