"""Detections whose scores tie may trade places; what they hold, and the order of others, may not change."""

import numpy as np
import pytest

from plainconv.exporter.parity.order import matched
from plainconv.exporter.parity.reference import Reference
from plainconv.exporter.parity.wanted import wanted_output

RNG = np.random.default_rng(0)
KINDS = ("normal",) * 13


def detections(ties: bool = True) -> list[np.ndarray]:
    """Boxes, scores, labels and masks of 13 images; the scores of rows 4 and 5 tie."""
    scores = -np.sort(-RNG.uniform(0, 1, (13, 20)), axis=1)
    if ties:
        scores[:, 5] = scores[:, 4] - 1e-9
    boxes = RNG.uniform(0, 100, (13, 20, 4))
    return [boxes, scores, RNG.integers(0, 9, (13, 20)), RNG.uniform(0, 1, (13, 20, 6, 6))]


def swapped(outputs: list[np.ndarray], a: int, b: int) -> list[np.ndarray]:
    rows = np.arange(20)
    rows[[a, b]] = rows[[b, a]]
    return [y[:, rows] for y in outputs]


def test_tied_rows_come_back_in_all_outputs() -> None:
    wanted = detections()
    found = swapped(wanted, 4, 5)
    assert all(np.array_equal(a, b) for a, b in zip(matched(wanted, found).outputs, wanted, strict=True))


def test_what_is_given_stays_as_it_is() -> None:
    wanted = detections()
    found = swapped(wanted, 4, 5)
    kept = [y.copy() for y in found]
    matched(wanted, found)
    assert all(np.array_equal(a, b) for a, b in zip(found, kept, strict=True))


@pytest.mark.parametrize("change", ["order of others", "one row's box", "labels of the tied", "a number that is none"])
def test_nothing_else_is_forgiven(change: str) -> None:
    """Given another order, box or label, or NaN -> as far off as before."""
    wanted = detections()
    found = swapped(wanted, 2, 9) if change == "order of others" else [y.copy() for y in wanted]
    if change == "one row's box":
        found[0][3, 4] += 30
    if change == "labels of the tied":
        found[2][:, 4] += 1
    if change == "a number that is none":
        found[0][2, 4, 1] = np.nan
    ordered = matched(wanted, found).outputs
    reference = _reference(wanted)
    assert not all(reference.compare("step", ordered)) and not all(reference.compare("step", found))


def test_a_reference_of_detections_holds_tied_rows_in_either_order() -> None:
    wanted = detections()
    reference = _reference(wanted)
    assert all(reference.compare("step", [y.astype(np.float32) if y.dtype.kind == "f" else y for y in wanted]))
    assert all(reference.compare("step", swapped(wanted, 4, 5)))


@pytest.mark.parametrize("outputs", [
    [RNG.standard_normal((13, 5))],
    [RNG.standard_normal((13, 5)), RNG.standard_normal((13, 5))],
    [-np.sort(RNG.standard_normal((13, 5)), axis=1)[:, ::-1]],
    [np.zeros((13, 5)), np.ones((13, 5))],
    [],
])  # fmt: skip
def test_what_is_no_sorted_list_is_left_alone(outputs: list[np.ndarray]) -> None:
    found = [y + 1 for y in outputs]
    assert all(a is b for a, b in zip(matched(outputs, found).outputs, found, strict=True))


def test_rows_of_one_output_come_back_too() -> None:
    """Given corners, score and label beside each other, two rows that tie the other way round -> as they were."""
    boxes, scores, labels, _ = detections()
    boxes = np.sort(boxes, axis=2)
    whole = np.concatenate([boxes, scores[..., None], labels[..., None]], axis=2)
    (found,) = swapped([whole], 4, 5)
    again = matched([whole], [found])
    assert again.members == (0,) and np.array_equal(again.outputs[0], whole)
    wrong = found.copy()
    wrong[:, 3, 0] += 9
    astray = matched([whole], [wrong]).astray
    assert astray is not None and astray.sum() == 13 and astray[:, 3].all()


def test_numbers_that_never_fall_are_no_scores() -> None:
    flat = np.broadcast_to(RNG.uniform(0, 1, (13, 1)), (13, 5)).copy()
    assert not matched([flat, flat], [flat, flat]).members


def test_another_shape_is_left_to_the_comparison() -> None:
    wanted = detections()
    found = [y[:, :7] for y in wanted]
    assert all(a is b for a, b in zip(matched(wanted, found).outputs, found, strict=True))


def _reference(outputs: list[np.ndarray]) -> Reference:
    names = ("boxes", "scores", "labels", "masks")
    facts = {
        name: wanted_output(y, [y.astype(np.float32) if y.dtype.kind == "f" else y], KINDS, np.arange(13))
        for name, y in zip(names, outputs, strict=True)
    }
    return Reference(1, {"x": np.zeros((13, 1))}, KINDS, facts)


def one_less(outputs: list[np.ndarray], image: int, row: int) -> list[np.ndarray]:
    """The list of one image without a row: all behind it stand one place on, and a worse one follows the last."""
    changed = [y.copy() for y in outputs]
    for y in changed:
        y[image, row:-1] = y[image, row + 1 :]
    changed[0][image, -1] += 7
    changed[1][image, -1] *= 0.9
    return changed


def test_rows_behind_one_that_is_missing_have_their_counterparts() -> None:
    wanted = detections()
    found = matched(wanted, one_less(wanted, 3, 6))
    assert found.astray is not None
    assert found.astray.sum() == 1 and found.astray[3, 6]
    assert all(np.array_equal(a[~found.astray], b[~found.astray]) for a, b in zip(found.outputs, wanted, strict=True))


def test_masks_that_differ_make_a_row_one_without_a_counterpart() -> None:
    wanted = detections()
    found = [y.copy() for y in wanted]
    found[3][2, 5] += 1
    astray = matched(wanted, found).astray
    assert astray is not None and astray.sum() == 1 and astray[2, 5]
