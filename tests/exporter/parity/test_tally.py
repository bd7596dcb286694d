"""One value beside what it ought to be."""

import math

import numpy as np
import pytest

from plainconv.exporter.parity.measure import UNIT_ROUNDOFF
from plainconv.exporter.parity.tally import Tally


def test_the_error_is_of_the_worst_channel_in_spreads_of_the_whole() -> None:
    """Given batches that are off in one channel → that one, by the root of the mean of its squares."""
    right = np.random.default_rng(0).normal(size=(4, 3, 5, 5))
    value = right.copy()
    value[:, 1] += 0.25
    tally = Tally()
    for rows in (slice(0, 1), slice(1, 4)):
        tally.add(value[rows], right[rows])
    error, channel = tally.error()
    assert channel == 1
    assert error == pytest.approx(0.25 / right.std())


def test_rounding_is_of_the_channel_of_the_largest_numbers() -> None:
    """Given one channel of far larger numbers than others → what rounding may leave is that of this channel."""
    right = np.random.default_rng(0).normal(size=(4, 16, 5, 5))
    right[:, 7] = 100 + right[:, 7]
    tally = Tally()
    tally.add(right.astype(np.float32), right)
    size = math.sqrt((right[:, 7] ** 2).mean())
    assert tally.rounding() == pytest.approx(UNIT_ROUNDOFF["float32"] * size / right.std())
    error, channel = tally.error()
    assert channel == 7 and error < tally.rounding()


def test_what_is_no_number_is_off_without_bounds_and_nothing_is_unknown() -> None:
    tally = Tally()
    assert math.isnan(tally.error()[0]) and tally.rounding() == 0.0
    tally.add(np.array([[1.0, np.nan]]), np.array([[1.0, 2.0]]))
    assert tally.error() == (math.inf, 1)
