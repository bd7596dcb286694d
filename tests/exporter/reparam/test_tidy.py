"""Padded norms that write their margin, in the forms in which they may and may not be moved."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from plainconv.exporter.reparam import Report, reparameterize
from plainconv.exporter.source.randomize import randomized


class NormAndPad(nn.Module):
    """A norm whose padding has the value that the norm gives a zero, or that times `factor`."""

    def __init__(self, pad: int = 1, factor: float = 1.0, sides: int = 4) -> None:
        super().__init__()
        self.norm, self.pad, self.factor, self.sides = nn.BatchNorm2d(4), pad, factor, sides

    def forward(self, x: Tensor) -> Tensor:
        n, p = self.norm, self.pad
        y = F.pad(n(x), [p] * 4)
        value = self.factor * (n.bias - n.running_mean * n.weight / (n.running_var + n.eps).sqrt()).view(1, -1, 1, 1)
        for side in range(self.sides):
            index = [slice(None), slice(None), slice(None), slice(None)]
            index[2 + side // 2] = slice(0, p) if side % 2 == 0 else slice(-p, None)
            y[tuple(index)] = value
        return y


def check(layer: nn.Module, taps: int = 3) -> Report:
    net = nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), layer, nn.Conv2d(4, 4, taps), nn.BatchNorm2d(4), nn.ReLU())
    net = randomized(net, 0).double().eval()
    plain, report = reparameterize(net, torch.randn(2, 4, 8, 8, dtype=torch.float64))
    for size in ((8, 8), (5, 7), (3, 4)):
        x = torch.randn(3, 4, *size, dtype=torch.float64)
        assert (plain(x) - net(x)).abs().max() < 1e-10
    return report


@pytest.mark.parametrize("pad", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_norm_padded_by_its_own_shift_merges(pad: int) -> None:
    report = check(NormAndPad(pad), taps=2 * pad + 1)
    assert report.counts_after == {"conv": 1, "linear": 0, "norm": 0}


@pytest.mark.parametrize(
    "layer",
    [pytest.param(NormAndPad(factor=1.5), marks=pytest.mark.slow), NormAndPad(factor=0.999), NormAndPad(sides=3)],
)
def test_any_other_margin_stays(layer: nn.Module) -> None:
    assert check(layer).counts_after["conv"] == 2
