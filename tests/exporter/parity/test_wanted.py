"""The scales of an output: of its parts, of edges, of what hardly moves."""

import numpy as np
import pytest

from plainconv.exporter.parity.wanted import Wanted, wanted_output

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
