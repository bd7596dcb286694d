"""Agreement of classes and integers, and who competes for the largest."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from plainconv.exporter.parity import Reference
from plainconv.exporter.parity.classes import class_axis, same_largest
from plainconv.exporter.parity.measure import (
    agreement,
    float32_tolerances,
    is_offset,
    largest_error,
    rms_error,
    with_outliers,
)
from plainconv.exporter.parity.wanted import Wanted, wanted_output

RNG = np.random.default_rng(0)
KINDS = ("normal",) * 13


def wanted(y: np.ndarray) -> Wanted:
    return wanted_output(y, [], KINDS, np.arange(len(y)))


@pytest.mark.parametrize(
    ("shape", "axis"), [((13, 5), 1), ((13, 7, 5), 2), ((13, 5, 8, 8), 1), ((13,), None), ((13, 1, 8, 8), None)]
)
def test_classes_of_any_rank(shape: tuple[int, ...], axis: int | None) -> None:
    found = class_axis(wanted(RNG.standard_normal(shape)))
    assert (found and found[0]) == axis


def test_boxes_do_not_compete_with_scores() -> None:
    y = RNG.standard_normal((13, 9, 30))
    y[:, :4] *= 300
    axis, indices = class_axis(wanted(y)) or (0, np.zeros(0))
    assert axis == 1 and indices.tolist() == [4, 5, 6, 7, 8]
    boxes_moved = y.copy()
    boxes_moved[:, :4] += 1000
    assert same_largest(wanted(y), boxes_moved, 0.0) == (1.0, 1.0, 13 * 30, "")


def test_ties_count_where_the_largest_leads_alone() -> None:
    """Given noise of a tenth of the spread → some classes change, none where the largest led by a whole spread."""
    y = RNG.standard_normal((13, 5, 20, 20))
    share, leading, count, _ = same_largest(wanted(y), y + 0.1 * RNG.standard_normal(y.shape), 1.0) or (0, 0, 0, "")
    assert 0.8 < share < 0.99 and leading == 1.0 and 100 < count < 13 * 400


def test_a_frequent_integer_that_is_gone_is_said() -> None:
    y = RNG.permuted(np.tile(np.arange(100) // 4, (13, 1)), axis=1)
    assert not agreement(wanted(y), y, 0.3).why
    gone = np.where(y == 7, 8, y)
    found = agreement(wanted(y), gone, 0.3)
    assert (
        found.error == pytest.approx(0.04) and found.error <= found.tolerance and found.why.startswith("of 7 only 0%")
    )


@pytest.mark.parametrize("tolerance", [None, 0.3])
def test_a_mask_of_floats_is_judged_as_one_of_bools(tolerance: float | None, tmp_path: Path) -> None:
    """Given zeros and ones -> a few at the threshold may turn over, which no distance allows; a fault is refused."""
    y = (RNG.standard_normal((13, 4, 20, 20)) > 0.5).astype(np.float64)
    Reference(1, {"x": np.zeros((13, 1))}, KINDS, {"mask": wanted(y)}).save(tmp_path / "r.npz")
    kept = Reference.load(tmp_path / "r.npz")
    turned = y.copy()
    turned[3, 2, 1, 5:9] = 1 - turned[3, 2, 1, 5:9]
    assert kept.compare("step", [turned.astype(np.float32)], tolerance)[0]
    for wrong in (1 - y, y / 2, np.roll(y, 1, axis=0), np.zeros_like(y), np.where(y > 0, np.nan, 0), y > 0):
        assert not kept.compare("step", [wrong], tolerance)[0]
    turned[3, 2, 1, 5] = np.nan
    assert not kept.compare("step", [turned], tolerance)[0]
    assert wanted(np.ones((13, 4))).is_float and not wanted(y).is_float


@pytest.mark.parametrize("tolerance", [None, 0.3])
def test_a_mask_that_is_the_same_nearly_everywhere(tolerance: float | None) -> None:
    """Given two pixels of a hundred that are the image's own -> another image's are refused, one of all is not."""
    y = np.zeros((13, 900), bool)
    y[np.arange(13)[:, None], RNG.permuted(np.tile(np.arange(900), (13, 1)), axis=1)[:, :18]] = True
    for wrong in (np.roll(y, 1, axis=0), np.zeros_like(y), np.roll(y, 1, axis=1)):
        found = agreement(wanted(y), wrong, tolerance)
        assert found.error > found.tolerance
    one = y.copy()
    one[2, 5] ^= True
    found = agreement(wanted(y), one, tolerance)
    assert 0 < found.error <= found.tolerance


def test_a_few_elements_far_off_are_refused() -> None:
    y = RNG.standard_normal((13, 400))
    off = y.copy()
    off[:, :8] += np.sign(RNG.standard_normal((13, 8))) * 3
    found = rms_error(wanted(y), off, 0.3)
    assert found.far == pytest.approx(0.02) and "2.0% of the elements are off by over 1.2 spreads" in found.why


@pytest.mark.parametrize(("images", "by", "excused"), [
    ((4,), 1.0, True), ((4, 5), 1.0, True), ((4, 5, 6), 1.0, False), ((4,), 9.0, False), ((4,), np.nan, False),
    ((4,), 1e-3, False),
    ((1, 4, 5), 1.0, True),
])  # fmt: skip
def test_a_step_may_be_chaotic_on_as_many_images_as_eager_is(images: tuple[int, ...], by: float, excused: bool) -> None:
    """Given eager off by a spread on two images -> a step may be on two others, no farther than four times that."""
    y = RNG.standard_normal((13, 400))
    own = y + 1e-6 * RNG.standard_normal(y.shape)
    own[[1, 2], 7] = y[[1, 2], 7] + y.std()
    facts = wanted_output(y, [own], KINDS, np.arange(13))
    step = y + 1e-6 * RNG.standard_normal(y.shape)
    step[list(images), 3] += by * y.std()
    allowed = float32_tolerances(facts, np.zeros(13, bool), 1)
    found = largest_error(facts, step, with_outliers(facts, step, allowed, np.zeros(13, bool)))
    assert (found.error <= found.tolerance) == excused


def test_where_eager_is_not_chaotic_nothing_is_excused() -> None:
    y = RNG.standard_normal((13, 400))
    facts = wanted_output(y, [y + 1e-6], KINDS, np.arange(13))
    allowed = float32_tolerances(facts, np.zeros(13, bool), 1)
    assert with_outliers(facts, y + np.eye(13, 400), allowed, np.zeros(13, bool)) is allowed


def test_a_row_of_a_map_is_no_part() -> None:
    """Given a map that is empty but for a line here and there -> one may be gone; a row that is dead is refused."""
    lines = np.zeros((13, 1, 32, 32))
    for i in range(13):
        lines[i, 0, 2 * i + 3, 4:28], lines[i, 0, (5 * i) % 32, :9] = 0.9, 0.7
    lost = lines.copy()
    lost[2, 0, 10, :9] = 0
    dense = RNG.standard_normal((13, 2, 32, 32))
    dead = dense.copy()
    dead[:, :, 0] = 0
    for y, wrong, is_held in ((lines, lost, True), (dense, dead, False)):
        facts = wanted_output(y, [], KINDS, np.arange(13), places=(2, 3))
        found = rms_error(facts, wrong, 0.3)
        assert (not found.why and found.error <= 0.3) == is_held, found
    assert "[:, :, 0] is off by" in found.why


@pytest.mark.parametrize(("share", "is_held"), [(0.15, True), (0.23, False)])
def test_an_image_may_be_off_by_twice_what_all_are(share: float, is_held: bool) -> None:
    y = RNG.standard_normal((13, 3, 16, 16))
    off = y.copy()
    off[4] *= 1 - share
    found = rms_error(wanted(y), off, 0.1)
    assert found.error < 0.1 and found.why.startswith("image 4") != is_held, found


@pytest.mark.parametrize(("images", "by", "held"), [
    ({7: 15e-4}, 1.0, True), ({7: 15e-4, 8: 2e-4}, 1.0, False), ({7: 25e-4}, 1.0, False), ({7: 0.5}, 1.0, False),
    ({7: 15e-4, 8: 2e-4}, 0.7, True), ({7: 2e-4}, 0.0, False), ({7: np.nan}, 1.0, False), ({0: 15e-4}, 1.0, True),
    ({12: 15e-4}, 1.0, True),
])  # fmt: skip
def test_a_heavy_tail_of_own_errors_may_show_on_other_images(images: dict[int, float], by: float, held: bool) -> None:
    """Given own errors of 1e-5, of 5e-4 on one image (on a second of `by` that) -> as many of a step's, by rank."""
    facts = wanted(RNG.standard_normal((13, 400)))
    own = np.full((13, 1), 1e-5)
    own[0], own[1] = (5e-4 if by else 1e-5), (5e-4 * by if 0 < by < 1 else 1e-5)
    facts = replace(facts, own_errors=own)
    y = facts.values.copy()
    for image, error in images.items():
        y[image, 3] += error * facts.spread
    flat = np.arange(13) == 12
    found = largest_error(facts, y, with_outliers(facts, y, float32_tolerances(facts, flat, 1), flat))
    assert (found.error <= found.tolerance) == held


def test_what_a_flat_image_is_off_by_excuses_no_other() -> None:
    facts = wanted(RNG.standard_normal((13, 400)))
    own = np.full((13, 1), 1e-5)
    own[12] = 5e-4
    facts = replace(facts, own_errors=own)
    y = facts.values.copy()
    y[7, 3] += 15e-4 * facts.spread
    flat = np.arange(13) == 12
    allowed = float32_tolerances(facts, flat, 1)
    assert with_outliers(facts, y, allowed, flat) is allowed


def counts_of(own: np.ndarray) -> Reference:
    """Of some 3000 pixels an image, of which float32 itself counts `own` more."""
    y = RNG.integers(2000, 4000, 13)
    facts = wanted_output(y, [y + own], KINDS, np.arange(13), numbers=True)
    return Reference(1, {"x": np.zeros((13, 1))}, KINDS, {"n": facts})


@pytest.mark.parametrize(("own", "step", "held"), [
    ([1, -1, 0, 0, 2], [0, 1, 0, -1, 1], True),
    ([1, 0], [0, 0, 0, -1], True),
    ([1, 0], [1] * 13, False),
    ([1, 0], [0, 1, 1, 0], True),
    ([1, 0], [0, 1, 1, -1, 1, -1], False),
    ([1, 0], [0, 0, 40], False),
    ([1, -1] * 6, [1, 0, -1] * 4, True),
    ([1, -1] * 6, [1] * 13, False),
    ([1, -1] * 6, [1] * 10 + [0, 2, 1], False),
])  # fmt: skip
def test_counts_may_be_off_here_and_there(own: list[int], step: list[int], held: bool, tmp_path: Path) -> None:
    """Given counts of decisions that rounding turns over on some images -> a step's on few others, and no offset."""
    reference = counts_of(np.pad(own, (0, 13 - len(own))))
    reference.save(tmp_path / "r.npz")
    y = reference.outputs["n"].values + np.pad(step, (0, 13 - len(step)))
    for each in (reference, Reference.load(tmp_path / "r.npz")):
        (parity,) = each.compare("step", [y])
        assert bool(parity) == held and parity.measure == "max" and parity.top1 is None
    assert reference.compare("step", [y.astype(np.float32)])[0].failed


def test_an_offset_is_that_of_whole_numbers_in_most_images() -> None:
    y = RNG.integers(0, 9, (13, 4))
    assert is_offset(y, y + np.array([0, 0, 1, 0])) and not is_offset(y, y) and not is_offset(y[:5], y[:5] + 1)
    assert not is_offset(y + 0.5, y + 1.5) and not is_offset(y, y + RNG.integers(-1, 2, y.shape))
    assert not is_offset(y, np.full(y.shape, np.nan))
    many = RNG.integers(0, 9, (13, 20_000))
    moved = many + RNG.integers(-1, 2, many.shape)
    assert not is_offset(many, moved)  # some are off by the same in most images by chance
    moved[:, :50] = many[:, :50] + 1
    assert is_offset(many, many + 1) and is_offset(many, moved)


def test_a_mask_that_moves_on_no_random_image_is_what_it_is() -> None:
    """Given a pixel of ten thousand on one edge alone -> in float32 it is to be found there."""
    y = np.zeros((13, 10_000), bool)
    y[12, 7] = True
    facts = wanted_output(y, [y], (*KINDS[:12], "large"), np.arange(12))
    assert agreement(facts, y, None).error == 0
    found = agreement(facts, np.zeros_like(y), None)
    assert found.error > found.tolerance
