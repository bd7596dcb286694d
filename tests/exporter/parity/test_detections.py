"""Lists of detections in a lower precision: what rounding does to them is passed, what faults do is refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from places import ASSETS

from plainconv.exporter.parity import Reference, reference_from_module
from plainconv.exporter.parity.detections import overlaps, paired
from plainconv.exporter.parity.wanted import wanted_output
from plainconv.exporter.pipeline.export import Job, export_bundle
from plainconv.exporter.precision import TOLERANCES, Calibration, precision_of_name
from plainconv.exporter.precision.edit import load
from plainconv.exporter.precision.run import run_of
from plainconv.exporter.precision.typed import _calibrated, _Maker, judged_by, units_of
from plainconv.exporter.source.network import Request
from plainconv.exporter.source.resolve import load_network
from plainconv.exporter.source.suppressed import suppress
from plainconv.models.training.scenes import read_scenes

IMAGES, ROWS, CLASSES, THRESHOLD = 13, 20, 5, 0.25
NAMES = ("boxes", "scores", "labels", "count")
Lists = list[np.ndarray]


def listed(found: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Lists:
    """Of each image boxes [n, 4], scores and labels [n] -> sorted, those over the threshold, filled up to `ROWS`."""
    boxes, scores = np.zeros((IMAGES, ROWS, 4)), np.zeros((IMAGES, ROWS))
    labels, count = np.full((IMAGES, ROWS), -1), np.zeros(IMAGES, np.int64)
    for i, (b, s, c) in enumerate(found):
        order = np.argsort(-s, kind="stable")
        order = order[s[order] > THRESHOLD][:ROWS]
        count[i] = len(order)
        for whole, some in ((boxes, b), (scores, s), (labels, c)):
            whole[i, : len(order)] = some[order]
    return [boxes, scores, labels, count]


def things(images: int = IMAGES) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Boxes of 20 to 30 pixels, apart from each other, most of them sure, a few next to the threshold."""
    rng, found = np.random.default_rng(0), []
    for _ in range(images):
        count = rng.integers(2, 9)
        low = rng.permutation(16)[:count, None] // np.array([1, 4]) % 4 * 40 + rng.uniform(0, 10, (count, 2))
        scores = np.where(rng.uniform(size=count) < 0.8, rng.uniform(0.6, 0.99, count), rng.uniform(0.2, 0.35, count))
        boxes = np.concatenate([low, low + rng.uniform(20, 30, (count, 2))], 1)
        found.append((boxes, scores, rng.integers(0, CLASSES, count)))
    return found


def reference_of(lists: Lists) -> Reference:
    kinds = ("data",) * IMAGES
    facts = {
        name: wanted_output(y, [y.astype(np.float32) if y.dtype.kind == "f" else y], kinds, np.arange(IMAGES))
        for name, y in zip(NAMES, lists, strict=True)
    }
    return Reference(1, {"x": np.zeros((IMAGES, 1))}, kinds, facts)


WANTED = listed(things())


def rounded(pixels: float, score: float) -> Lists:
    """As a lower precision has them: boxes and scores off by so much, in the order of these scores."""
    rng = np.random.default_rng(1)
    return listed([
        (b + pixels * rng.standard_normal(b.shape), s + score * rng.standard_normal(s.shape), c) for b, s, c in things()
    ])  # fmt: skip


@pytest.mark.parametrize(
    ("precision", "pixels", "score"), [("fp16", 0.03, 0.001), ("bf16", 0.3, 0.01), ("int8", 0.7, 0.03)]
)
def test_what_only_rounds_is_passed(precision: str, pixels: float, score: float) -> None:
    """Given rows that trade places, and come and go at the threshold -> held, and said."""
    found = rounded(pixels, score)
    parities = reference_of(WANTED).compare("step", found, TOLERANCES[precision])
    assert [p.status for p in parities] == ["held"] * 4, [str(p) for p in parities]
    assert [p.measure for p in parities] == ["overlap", "rms", "agreement", "agreement"]
    if precision == "int8":
        assert not np.array_equal(found[2], WANTED[2]) and not np.array_equal(found[3], WANTED[3])
        assert parities[0].turned and f"{parities[0].turned} rows without counterpart" in str(parities[0])


def test_boxes_in_whole_pixels_are_boxes() -> None:
    """Given corners as integers, off by one here and there -> counterparts all the same; ten pixels off -> refused."""
    whole, found = ([y[0].astype(np.int32), *y[1:]] for y in (WANTED, rounded(0.5, 0.01)))
    assert all(reference_of(whole).compare("step", found, TOLERANCES["int8"]))
    found[0] = found[0] + 10 * (found[0] > 0)
    assert reference_of(whole).compare("step", found, TOLERANCES["int8"])[0].failed


def of_rows(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Lists], None]:
    """The same change of every member of the list, image by image."""

    def apply(lists: Lists) -> None:
        for y in lists[:3]:
            y[:] = change(y)

    return apply


def real(lists: Lists) -> np.ndarray:
    return np.asarray(lists[1] > 0)


def moved(pixels: float) -> Callable[[Lists], None]:
    return lambda y: np.copyto(y[0], y[0] + pixels, where=real(y)[..., None])


def without_best(lists: Lists) -> None:
    of_rows(lambda y: np.roll(y, -1, axis=1))(lists)
    lists[3] -= 1


def half_of_the_rows(lists: Lists) -> None:
    for k, empty in enumerate((0, 0, -1)):
        half = lists[k][:, ::2].copy()
        lists[k][:] = empty
        lists[k][:, : half.shape[1]] = half
    lists[3] -= lists[3] // 2


def nothing_in_one_image(lists: Lists) -> None:
    for y, empty in zip(lists[:4], (0, 0, -1, 0), strict=True):
        y[3] = empty


def best_twice(lists: Lists) -> None:
    of_rows(lambda y: np.concatenate([y[:, :1], y[:, :-1]], 1))(lists)
    lists[3] += 1


def rows_reversed(lists: Lists) -> None:
    for y in lists[:3]:
        for i, n in enumerate(lists[3]):
            y[i, :n] = y[i, :n][::-1].copy()


FAULTS: dict[str, Callable[[Lists], None]] = {
    "zero": lambda y: [a.fill(0) for a in y],
    "no scores": lambda y: y[1].fill(0),
    "scores halved": lambda y: np.copyto(y[1], y[1] / 2),
    "scores all alike": lambda y: np.copyto(y[1], 0.7, where=real(y)),
    "scores inverted": lambda y: np.copyto(y[1], 1 - y[1], where=real(y)),
    "labels one on": lambda y: np.copyto(y[2], (y[2] + 1) % CLASSES, where=real(y)),
    "boxes 3 px off": moved(3),
    "boxes 30 px off": moved(30),
    "x and y swapped": lambda y: np.copyto(y[0], y[0][..., [1, 0, 3, 2]]),
    "corners are centre and size": lambda y: np.copyto(
        y[0], np.concatenate([(y[0][..., :2] + y[0][..., 2:]) / 2, y[0][..., 2:] - y[0][..., :2]], -1)
    ),
    "the best of each image lost": without_best,
    "every other one lost": half_of_the_rows,
    "one image without any": nothing_in_one_image,
    "the best twice": best_twice,
    "boxes of other rows": lambda y: np.copyto(y[0], np.roll(y[0], 1, axis=1)),
    "worst first": rows_reversed,
    "one image's for another": lambda y: [np.copyto(a[1:3], a[[2, 1]]) for a in y],
    "a score is none": lambda y: np.put(y[1], 0, np.nan),
    "a box is none": lambda y: np.put(y[0], 5, np.nan),
    "counts one on": lambda y: np.copyto(y[3], y[3] + 1),
}


def refused(reference: Reference, lists: Lists, fault: str, precision: str) -> bool:
    wrong = [y.copy() for y in lists]
    FAULTS[fault](wrong)
    return any(p.failed for p in reference.compare(fault, wrong, TOLERANCES[precision]))


@pytest.mark.parametrize("precision", TOLERANCES)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_refused(fault: str, precision: str) -> None:
    """Given no error but the fault -> refused even where most is allowed."""
    assert refused(reference_of(WANTED), WANTED, fault, precision)


def test_boxes_a_pixel_off_are_refused_in_floating_point() -> None:
    """Given all boxes of 20 to 30 pixels moved by one -> what int8 is off by when it is sound is no less."""
    wrong = [y.copy() for y in WANTED]
    moved(0.9)(wrong)
    found = {name: reference_of(WANTED).compare("", wrong, limit)[0].failed for name, limit in TOLERANCES.items()}
    assert found == {"fp16": True, "bf16": True, "int8": False, "fp8": False}


def test_counts_are_explained_by_rows_and_not_all_off_by_the_same() -> None:
    """Given rows without counterpart in every image -> a count may be off by one here and there, not in all."""
    reference, lists = reference_of(WANTED), [y.copy() for y in WANTED]
    for i, count in enumerate(WANTED[3]):
        lists[0][i, count - 1] += 60.0  # the last detection of each image lies elsewhere
    limit = {"tolerance": 0.3}
    one, all_of_them = ([*lists[:3], WANTED[3] + more] for more in (np.eye(1, IMAGES, 2, dtype=np.int64)[0], 1))
    assert not reference.compare("step", one, **limit)[3].failed
    assert reference.compare("step", all_of_them, **limit)[3].failed


def test_lists_as_long_as_what_is_found() -> None:
    """Given a step whose lists are shorter, or longer -> as ever; its members of different lengths -> refused."""
    reference, most = reference_of(WANTED), int(WANTED[3].max())
    for rows in (most, ROWS + 5):
        found = [np.resize(np.zeros(1, y.dtype), (IMAGES, rows, *y.shape[2:])) for y in WANTED[:3]]
        for y, w in zip(found, WANTED, strict=False):
            y[:, : min(rows, ROWS)] = w[:, :rows]
        assert all(reference.compare("step", [*found, WANTED[3]], 0.3))
        found[1] = found[1][:, :-1]
        assert not all(reference.compare("step", [*found, WANTED[3]], 0.3))


def in_one(lists: Lists) -> Lists:
    """Corners, score and label of each row beside each other."""
    return [np.concatenate([lists[0], lists[1][..., None], lists[2][..., None]], axis=2)]


def test_a_list_in_one_output_is_judged_alike() -> None:
    """Given columns of one output -> what rounds is held, faults of boxes, scores and labels are refused."""
    y = in_one(WANTED)
    kinds = ("data",) * IMAGES
    reference = Reference(
        1, {"x": np.zeros((IMAGES, 1))}, kinds, {"rows": wanted_output(y[0], y, kinds, np.arange(IMAGES))}
    )
    (held,) = reference.compare("step", in_one(rounded(0.7, 0.03)), 0.3)
    assert held and held.turned and held.measure in ("overlap", "rms", "agreement")
    passed = [fault for fault in FAULTS if fault != "counts one on" and not refused_in_one(reference, fault)]
    assert not passed


def refused_in_one(reference: Reference, fault: str) -> bool:
    wrong = [y.copy() for y in WANTED]
    FAULTS[fault](wrong)
    return reference.compare(fault, in_one(wrong), 0.3)[0].failed


def test_rows_without_boxes_are_told_apart_by_their_numbers() -> None:
    """Given points, or nothing but labels -> the nearest of the same label, the rest without counterpart."""
    points = [WANTED[0][..., :2] + 0.5 * WANTED[0][..., 2:], WANTED[1], WANTED[2]]
    near = paired(points, [points[0] + 0.1, *points[1:]], 0.3)
    far = paired(points, [points[0] + 90, *points[1:]], 0.3)
    assert near is not None and far is not None
    assert paired(points[:2], points[:2], 0.3) is None, "numbers that fall by chance are no list"
    assert near.boxes is None and near.lost == 0 and far.lost > 0.5
    alone = paired(points[1:], [points[1], np.where(points[2] == 2, 3, points[2])], 0.3)
    assert alone is not None and 0 < alone.lost < 0.5


def test_what_has_no_list_is_left_alone() -> None:
    assert paired([WANTED[0]], [WANTED[0]], 0.3) is None
    empty = [np.zeros_like(y) for y in WANTED]
    assert paired(empty, WANTED, 0.3) is None
    one = [y.copy() for y in empty]
    one[1][0, 0] = 0.9
    assert paired(one, one, 0.3) is None, "a single detection tells nothing"


def test_overlaps() -> None:
    a = np.array([[0, 0, 2, 2], [0, 0, 2, 2], [0, 0, 2, 2], [0, 0, 0, 0], [2, 2, 0, 0], [0, 0, np.nan, 2]])
    b = np.array([[1, 0, 3, 2], [5, 5, 6, 6], [0, 0, 2, 2], [0, 0, 0, 0], [0, 0, 2, 2], [0, 0, 2, 2]])
    assert overlaps(a, b) == pytest.approx([1 / 3, 0, 1, 1, 0, 0])


@pytest.mark.slow
@pytest.mark.parametrize("form", ["plain", "node"])
def test_a_trained_detector_that_suppresses_is_told_from_its_faults(form: str, tmp_path: Path) -> None:
    """Given the digits detector with NMS in its graph, all layers in the precision -> held; with a fault -> refused."""
    torch.set_num_threads(1)
    request = Request(checkpoint=ASSETS / "digits_detector.pth")
    network = load_network("digits_detector", request)
    suppress(network, None, form)
    images = read_scenes(ASSETS / "scenes_heldout.npz").images.numpy()
    whole = reference_from_module(
        network.module, {"input": network.example}, output_names=network.returns, data=images[:24], max_data=24
    )
    path = export_bundle(Job("digits_detector", request, tmp_path / "b", end_to_end=False, nms=form)) / "model.onnx"
    for precision, tolerance in TOLERANCES.items():
        wanted, model = precision_of_name(precision), load(path)
        reference = judged_by(whole, wanted)
        calibration = Calibration({"input": images[-30:]}) if wanted.quantized else None
        maker, _ = _calibrated(_Maker(model, wanted, units_of(model)), calibration, reference, tolerance)
        found = reference.run(run_of(maker.model_with(frozenset())))
        parities = reference.compare(precision, found, tolerance)
        assert not [str(p) for p in parities if p.failed]
        assert not [fault for fault in FAULTS if not refused(reference, found, fault, precision)]
