"""Decoding in place: what is written into slices, as a concatenation."""

from collections.abc import Callable

import pytest
import torch
from collapse import check_collapse
from torch import Tensor, nn

from plainconv.exporter.reparam import reparameterize


class Decoded(nn.Module):
    """A convolution, its map written into."""

    def __init__(self, write: Callable[[Tensor], None]) -> None:
        super().__init__()
        self.conv, self.write = nn.Conv2d(4, 8, 1), write

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x).sigmoid()
        self.write(y)
        return y


def boxes(y: Tensor) -> None:
    y[:, 0:2] = (y[:, 0:2] * 2 - 0.5) * 8
    y[:, 2:4] = (y[:, 2:4] * 2) ** 2 * 3


def overlapping(y: Tensor) -> None:
    y[:, 1:5] = y[:, 1:5].exp()
    y[:, 3:] *= 2
    y[:, 0] += y[:, 4]


def one_by_one(y: Tensor) -> None:
    y[:, 2] = y[:, 1] * y[:, 2]
    y[:, -1] = 0.5
    y[:, 2] -= y[:, -1]


def everything(y: Tensor) -> None:
    y[:, :3] = y[:, :3].log()
    y[:, 3:] = y[:, 3:].exp()


@pytest.mark.parametrize(
    "write", [*(pytest.param(write, marks=pytest.mark.slow) for write in (boxes, overlapping)), one_by_one, everything]
)
def test_writes_into_channels_are_a_concatenation(write: Callable[[Tensor], None]) -> None:
    check_collapse(Decoded(write), (6, 5), (3, 4))
    plain, _ = reparameterize(Decoded(write).eval(), torch.randn(1, 4, 6, 5))
    assert not any("scatter" in str(node.target) for node in plain.graph.nodes)


def test_a_write_at_a_position_of_an_open_axis_stays() -> None:
    def top_row(y: Tensor) -> None:
        y[:, :, 0] = 1

    check_collapse(Decoded(top_row), (6, 5), (3, 4))
