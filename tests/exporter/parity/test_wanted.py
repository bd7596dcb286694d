"""The scales of an output: of its parts, of edges, of what hardly moves."""

import numpy as np
import pytest

from plainconv.exporter.parity.measure import MAX_TOLERANCE, float32_tolerances, largest_error
from plainconv.exporter.parity.wanted import LEAST_SHARE, Wanted, wanted_output

KINDS = ("normal",) * 12 + ("zeros",)
RNG = np.random.default_rng(0)


def wanted(y: np.ndarray, kinds: tuple[str, ...] = KINDS) -> Wanted:
    return wanted_output(y, [y.astype(np.float32)], kinds, np.flatnonzero(np.array(kinds) == "normal"))


@pytest.mark.parametrize(
    ("axis", "shape"), [(1, (13, 6, 50)), (2, (13, 50, 6)), (1, (13, 6, 7, 7)), (None, (13, 6, 50))]
)
def test_the_axis_whose_spreads_differ_most_has_the_parts(axis: int | None, shape: tuple[int, ...]) -> None:
    y = RNG.standard_normal(shape)
    if axis is not None:
        np.moveaxis(y, axis, 0)[:4] *= 100
        np.moveaxis(y, 3 - axis if len(shape) == 3 else 3, 0)[:2] *= 5
    found = wanted(y)
    assert found.axis == axis and len(found.spreads) == (1 if axis is None else 6)
    if axis is not None:
        assert found.spreads[0] / found.spreads[-1] == pytest.approx(100, rel=0.3)


def test_few_images_make_no_parts() -> None:
    assert wanted(RNG.standard_normal((3, 1000)), ("normal", "normal", "zeros")).axis is None


def test_an_edge_that_moves_a_part_further_has_a_scale_of_its_own() -> None:
    y = RNG.standard_normal((13, 20))
    y[-1] *= 30
    found = wanted(y)
    assert found.scales[-1, 0] > 15 * found.scales[0, 0]


def test_a_part_that_hardly_moves_is_measured_by_its_size_unless_all_are_so() -> None:
    y = RNG.standard_normal((13, 6, 50))
    y[:, 2], y[:, 3] = 5 + 1e-6 * y[:, 2], 100 * y[:, 3]
    assert wanted(y).scales[0, 2] == pytest.approx(5e-3, rel=0.1)
    still = wanted(y[:, 2])
    assert still.scales[0, 0] == pytest.approx(still.spread, rel=0.01) and still.spread < 2e-6


def test_rows_and_columns_of_a_map_are_no_parts() -> None:
    y = RNG.standard_normal((13, 1, 20, 20))
    y[:, :, :5] *= 1000
    assert wanted(y).axis is None
    channels_last = RNG.standard_normal((13, 20, 20, 6)) * np.array([1, 1, 1, 1, 1, 1000.0])
    assert wanted(channels_last).axis == 3


def test_small_probabilities_are_measured_as_if_they_moved() -> None:
    """Given scores of which one class is next to nothing -> its scale is 2^-14, that of others their own spread."""
    rng = np.random.default_rng(0)
    y = rng.uniform(0, 1, (13, 3, 40)) * np.array([1e-6, 1e-2, 1.0])[:, None]
    found = wanted(y)
    assert found.axis == 1 and found.are_shares().all()
    assert found.scales[0, 0] == LEAST_SHARE and found.spreads[0] < 1e-6
    assert found.scales[0, 1] == pytest.approx(found.spreads[1])
    assert not wanted(y - 0.5).are_shares().any() and not wanted(100 * y).are_shares()[2]
    assert not wanted(y[:, :1]).are_shares().any(), "nothing but such numbers: they are the output's own scale"


def test_probabilities_may_be_off_by_the_rounding_of_one() -> None:
    """Given sigmoids computed as 1/2 + r in float32 -> allowed; a class that is 0, halved or another's -> not."""
    rng = np.random.default_rng(1)
    y = 1 / (1 + np.exp(-(rng.standard_normal((13, 3, 40)) + np.array([-9.0, -5.0, 0.0])[:, None])))
    found = wanted(y)
    allowed = float32_tolerances(found, np.zeros(13, bool), 100)
    assert allowed.max() <= MAX_TOLERANCE
    rounded = (np.float32(0.5) + (y - 0.5).astype(np.float32)).astype(np.float32)
    assert largest_error(found, rounded, allowed).error <= largest_error(found, rounded, allowed).tolerance
    for fault in (lambda c: 0 * c, lambda c: c / 2, lambda c: c[::-1], lambda c: c + 1e-5):
        wrong = y.copy()
        wrong[:, 0] = fault(y[:, 0])
        measured = largest_error(found, wrong, allowed)
        assert measured.error > measured.tolerance


def test_an_error_that_few_draws_have_is_a_decision_as_large_however_small_the_rounding() -> None:
    """Given six draws at four times the rounding, one off by .1 on one image -> all of that, a quarter of the rest."""
    y = RNG.standard_normal((13, 50))
    draws = [y + 4e-6 * RNG.uniform(0.5, 1, y.shape) for _ in range(6)]
    draws[2][5, 7] += 0.1
    found = wanted_output(y, [y], KINDS, np.arange(12), moved=draws, coarser=4.0)
    assert found.jumps[5] * found.scales[5, 0] == pytest.approx(0.1, rel=1e-3) and np.count_nonzero(found.jumps) == 1
    usual = found.moved * found.scales * np.where(np.array(KINDS) == "zeros", 1, 3**0.5)[:, None]
    assert usual == pytest.approx(1e-6, rel=0.1)
    whole = np.rint(4 * y).astype(np.int64)
    shares = wanted_output(whole, [whole], KINDS, np.arange(12), moved=[whole + (y > 0.99 * y.max())], coarser=4.0)
    assert shares.moved.sum() == pytest.approx(1 / 50 / 4)


def test_an_output_without_elements_is_right() -> None:
    y = np.zeros((13, 0, 4))
    found = wanted(y)
    measured = largest_error(found, y, float32_tolerances(found, np.zeros(13, bool), 1))
    assert measured.error == measured.tolerance == 0
