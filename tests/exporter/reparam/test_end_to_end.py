"""The comparison of the whole networks finds what the comparison of regions cannot."""

import pytest
import torch
from torch import Tensor, nn

from plainconv.exporter.errors import CheckFailedError
from plainconv.exporter.reparam import reparameterize
from plainconv.exporter.reparam.end_to_end import check_end_to_end

X = torch.randn(1, 4, 8, 8)
OPEN = ((True, False, True, True),)


class Scaled(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x.sin() * self.factor


def test_a_difference_beyond_rounding_fails() -> None:
    assert check_end_to_end(Scaled(1.0), Scaled(1.0), (X,), OPEN, macs=0).error == 0
    with pytest.raises(CheckFailedError, match=r"off by 1\.0e-05"):
        check_end_to_end(Scaled(1.0), Scaled(1.00001), (X,), OPEN, macs=0)


def test_nan_fails() -> None:
    with pytest.raises(CheckFailedError, match="off by nan"):
        check_end_to_end(Scaled(1.0), Scaled(float("nan")), (X,), OPEN, macs=0)


def test_a_size_that_only_the_module_takes_fails() -> None:
    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.reshape(-1, 4, 8, 8).sin()

    with pytest.raises(CheckFailedError, match=r"fails on .* which the module takes"):
        check_end_to_end(Scaled(1.0), Fixed(), (X,), OPEN, macs=0)


@pytest.mark.parametrize(("batch", "second"), [(1, 1), (3, 2)])
def test_sizes_are_odd_and_even_with_a_batch_of_two_and_of_one_image(batch, second) -> None:
    found = check_end_to_end(Scaled(1.0), Scaled(1.0), (torch.randn(batch, 4, 224, 224),), OPEN, macs=0)
    assert found.shapes == ((2, 4, 37, 39), (second, 4, 32, 64))


def test_one_size_will_do_where_the_code_reads_none() -> None:
    """Given a conv, or one whose forward asks for a size → one odd size of three images, or two of two and one."""

    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x).reshape(x.shape)

    net, x = Reads().eval(), torch.randn(1, 4, 224, 224)
    shapes = [reparameterize(each, x)[1].end_to_end.shapes for each in (net.conv, net)]
    assert shapes == [((3, 4, 37, 39),), ((2, 4, 37, 39), (1, 4, 32, 64))]


class Whole(nn.Module):
    """Takes one size."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(1, 4, 224, 224).sin()


def test_where_every_size_is_costly_the_smallest_that_runs_counts() -> None:
    x = torch.randn(1, 4, 224, 224)
    found = check_end_to_end(Scaled(1.0), Scaled(1.0), (x,), OPEN, macs=int(200e9))
    assert found.shapes == ((2, 4, 37, 39),)
    found = check_end_to_end(Whole(), Whole(), (x,), OPEN, macs=int(200e9))
    assert found.shapes == ((1, 4, 224, 224),)


def test_the_comparison_can_be_left_out() -> None:
    _, report = reparameterize(nn.Sequential(nn.Conv2d(4, 4, 1)).eval(), X, check=False)
    assert report.end_to_end is None and "not checked" in str(report)


def test_a_network_that_casts_is_held_to_its_coarsest_type() -> None:
    """Given double statistics before float weights -> float rounding is no fault."""

    class Normalizing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.full((1, 4, 1, 1), 0.3, dtype=torch.float64))
            self.body = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU())

        def forward(self, x: Tensor) -> Tensor:
            return self.body((x / 255 - self.mean).float())

    _, report = reparameterize(Normalizing().eval(), torch.randn(1, 4, 16, 16))
    assert report.end_to_end is not None and report.end_to_end.tolerance > 1e-7
