"""Layers of the user's own, declared affine."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from plainconv.exporter.errors import ReparamError
from plainconv.exporter.reparam import affine_leaf, reparameterize
from plainconv.exporter.reparam.leaves import LEAVES
from plainconv.exporter.source.randomize import randomized


class Opaque(nn.Module):
    """A scaled 3×3 conv that no tracer sees through: it computes by numpy."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(2.0 * self.conv(x).detach().numpy())


@pytest.fixture(autouse=True)
def no_rules_left() -> Iterator[None]:
    yield
    LEAVES.clear()


def network() -> nn.Sequential:
    return randomized(nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), Opaque(), nn.BatchNorm2d(4), nn.ReLU()), 0).eval()


def test_a_leaf_merges_by_its_rule_and_the_module_is_left_alone() -> None:
    class Twice(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 2.0 * x

    @affine_leaf(Opaque)
    def plain_from_opaque(leaf: Opaque) -> nn.Module:
        return nn.Sequential(leaf.conv, Twice())

    net = network()
    plain, report = reparameterize(net, torch.randn(1, 4, 8, 8))
    assert report.counts_after == {"conv": 1, "linear": 0, "norm": 0}
    assert isinstance(net[1], Opaque)
    x = torch.randn(2, 4, 5, 7)
    assert torch.allclose(plain(x), net(x), atol=1e-5)


def test_a_wrong_rule_is_caught_by_probing() -> None:
    affine_leaf(Opaque)(lambda leaf: leaf.conv)
    net = network()
    with pytest.raises(ReparamError, match=r"rule for Opaque \(1\) is off by 5"):
        reparameterize(net, torch.randn(1, 4, 8, 8))
    assert isinstance(net[1], Opaque)


def test_a_rule_for_another_size_is_caught_by_probing() -> None:
    affine_leaf(Opaque)(lambda leaf: nn.Conv2d(4, 4, 3))
    with pytest.raises(ReparamError, match=r"gives .* the layer"):
        reparameterize(network(), torch.randn(1, 4, 8, 8))
