"""The fading activation and its schedules (VanillaNet eq. 1)."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from plainconv.models.deep_training import (
    FadingActivation,
    cosine_slope,
    linear_slope,
    set_slope,
    slope_at,
)


@given(slope=st.floats(0, 1), x=st.floats(-100, 100))
def test_fading_activation_mixes_relu_and_identity(slope: float, x: float) -> None:
    faded = FadingActivation(slope)(torch.tensor([x], dtype=torch.float64)).item()
    assert faded == pytest.approx((1 - slope) * max(x, 0.0) + slope * x, rel=1e-12, abs=1e-12)


def test_slope_one_is_the_identity_bit_for_bit() -> None:
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(FadingActivation(1.0)(x), x)


@pytest.mark.parametrize(
    ("epoch", "linear", "cosine"),
    [(0, 0.0, 0.0), (25, 0.25, 0.5 * (1 - math.sqrt(0.5))), (50, 0.5, 0.5), (100, 1.0, 1.0), (299, 1.0, 1.0)],
)
def test_schedules_of_100_epochs(epoch: int, linear: float, cosine: float) -> None:
    assert linear_slope(epoch, 100) == linear
    assert cosine_slope(epoch, 100) == pytest.approx(cosine, abs=1e-15)
    assert slope_at(epoch, 100) == linear_slope(epoch, 100)
    assert slope_at(epoch, 100, "cosine") == cosine_slope(epoch, 100)


def test_schedules_end_at_exactly_one() -> None:
    """A slope of 0.999… would not let the convs merge."""
    assert linear_slope(100, 100) == 1.0
    assert cosine_slope(100, 100) == 1.0
    assert linear_slope(0, 0) == 1.0


@given(decay=st.integers(1, 500), epoch=st.integers(0, 600))
def test_schedules_never_fall(decay: int, epoch: int) -> None:
    for schedule in (linear_slope, cosine_slope):
        assert 0.0 <= schedule(epoch, decay) <= schedule(epoch + 1, decay) <= 1.0


def test_unknown_schedule_is_named() -> None:
    with pytest.raises(ValueError, match="'step' is unknown; wanted linear or cosine"):
        slope_at(1, 2, "step")  # type: ignore[arg-type]


def test_set_slope_reaches_every_activation_and_counts_them() -> None:
    network = nn.Sequential(FadingActivation(0.1), nn.Sequential(nn.ReLU(), FadingActivation(0.2)))
    assert set_slope(network, 0.75) == 2
    assert [m.slope for m in network.modules() if isinstance(m, FadingActivation)] == [0.75, 0.75]
    assert set_slope(nn.ReLU(), 0.75) == 0


@pytest.mark.parametrize("slope", [-0.1, 1.5, math.nan, math.inf])
def test_set_slope_refuses_what_is_no_slope(slope: float) -> None:
    network = nn.Sequential(FadingActivation(0.1))
    with pytest.raises(ValueError, match="wanted a number from 0"):
        set_slope(network, slope)
    assert network[0].slope == 0.1
