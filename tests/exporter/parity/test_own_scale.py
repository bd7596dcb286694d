"""The scale at which a network takes its inputs, read off what it does to them first."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from plainconv.exporter.parity import reference_from_module
from plainconv.exporter.parity.own_scale import own_scales

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


class First(nn.Module):
    """A conv behind `prepare`."""

    def __init__(self, prepare: object, channels: int = 3) -> None:
        super().__init__()
        self.prepare, self.conv = prepare, nn.Conv2d(channels, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.prepare(x)).mean((2, 3))  # type: ignore[operator]


def norm() -> nn.Module:
    layer = nn.BatchNorm2d(3).eval()
    layer.running_mean.fill_(110)
    layer.running_var.fill_(60**2)
    return layer


@pytest.mark.parametrize(
    ("prepare", "mean", "std"),
    [
        (lambda x: (x / 255 - MEAN) / STD, 114.5, 57.6),
        (lambda x: (x - 127.5) * 0.0078125, 127.5, 128.0),
        (lambda x: 1 - x.flip(1) * 0.5, 2.0, 2.0),
        (lambda x: x.permute(0, 1, 3, 2).contiguous().to(torch.float64).float() * 2, 0.0, 0.5),
        (norm(), 110.0, 60.0),
        (lambda x: nn.functional.pad(torch.cat((x[:, :1], x[:, 1:]), 1) - 4, (1, 1)), 4.0, 1.0),
    ],
    ids=["ImageNet of pixels", "Sub, Mul", "reversed", "moved", "batch norm", "cut and padded"],
)
def test_a_network_that_normalizes_by_itself(prepare: object, mean: float, std: float) -> None:
    net = First(prepare).eval()
    (found,) = own_scales(net, {"x": torch.zeros(1, 3, 8, 8)}).values()
    assert (found.mean, found.std) == (pytest.approx(mean, rel=1e-3, abs=1e-5), pytest.approx(std, rel=1e-3))


@pytest.mark.parametrize("prepare", [lambda x: x, lambda x: x.relu() * 5, lambda x: x * x, lambda x: 3 / (x + 2)])
def test_what_says_nothing_of_a_scale(prepare: object) -> None:
    assert own_scales(First(prepare).eval(), {"x": torch.zeros(1, 3, 8, 8)}) == {}


def test_each_input_by_itself_and_integers_left_out() -> None:
    class Two(nn.Module):
        def forward(self, a: Tensor, i: Tensor, b: Tensor) -> Tensor:
            return (a - 5) @ torch.ones(2, 2) + (b * 4) @ torch.ones(2, 2) + i

    found = own_scales(
        Two(), {"a": torch.zeros(1, 2), "i": torch.zeros(1, 2, dtype=torch.int64), "b": torch.ones(1, 2)}
    )
    assert {name: (s.mean, s.std) for name, s in found.items()} == {"a": (5.0, 1.0), "b": (0.0, 0.25)}


def test_the_reference_tries_it_there() -> None:
    reference = reference_from_module(First(lambda x: (x - 127.5) / 128).eval(), torch.zeros(1, 3, 8, 8))
    normal = reference.arrays[0][np.isin(reference.kinds, "normal")]
    assert abs(normal.mean() - 127.5) < 20 and 90 < normal.std() < 160
