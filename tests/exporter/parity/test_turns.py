"""Which detections float32 keeps where a choice hangs on its last digit: told from faults, row by row."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from plainconv.exporter.parity import Reference, reference_from_module, run_module
from plainconv.exporter.parity.evaluate import _but_for_turns
from plainconv.exporter.parity.measure import MAX_TOLERANCE
from plainconv.exporter.parity.order import matched
from plainconv.exporter.parity.turns import among_equals, detections, excused
from plainconv.exporter.reparam import reparameterize
from plainconv.exporter.source.randomize import randomized
from plainconv.models.detection.boxes import best
from plainconv.models.detection.mask_rcnn import MaskRCNN

EXAMPLE = torch.zeros(1, 3, 16, 16)
ROWS = 20


class Detector(nn.Module):
    """Each pixel a box about itself, suppressed; `even` puts pairs of boxes at an overlap of exactly the threshold."""

    def __init__(self, *, even: bool) -> None:
        super().__init__()
        self.scores, self.sizes, self.even = nn.Conv2d(3, 1, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1), even

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        scores = self.scores(x).flatten(1).sigmoid()
        place = torch.arange(256, dtype=x.dtype)
        low = torch.stack([place % 16, place // 16], -1) * 8
        sizes = self.sizes(x).flatten(2).transpose(1, 2).sigmoid() * 20
        boxes = torch.cat([low - sizes[..., :2], low + sizes[..., 2:]], -1)
        if self.even:  # the second of a pair is the first, moved by a third of its width: IoU 1/2 but for rounding
            first = boxes[:, 0::2]
            third = (first[..., 2:3] - first[..., 0:1]) / 3
            shift = torch.cat([third, torch.zeros_like(third)] * 2, -1)
            boxes = torch.stack([first, first + shift], 2).flatten(1, 2)
        found = best(boxes, scores, torch.zeros_like(scores).long(), classes=1, iou_threshold=0.5, most=ROWS, form="")
        return {**found, "areas": (found["boxes"][..., 2:] - found["boxes"][..., :2]).prod(-1)}


NAMES = ("boxes", "scores", "labels", "count", "areas")


def made(*, even: bool) -> tuple[nn.Module, Reference]:
    torch.manual_seed(0)
    net = Detector(even=even).eval()
    return net, reference_from_module(net, EXAMPLE, output_names=NAMES)


@pytest.fixture(scope="module")
def sharp() -> tuple[nn.Module, Reference]:
    """Whose choices are far from their thresholds."""
    return made(even=False)


@pytest.fixture(scope="module")
def even() -> tuple[nn.Module, Reference]:
    """Whose every choice is one of rounding."""
    return made(even=True)


def other_roundings(net: nn.Module) -> nn.Module:
    """The same function by kernels that are larger by a ring of zeros, and weights rounded once more."""
    other = Detector(even=net.even)  # type: ignore[arg-type]
    other.load_state_dict({k: v * (1 + 2**-23) for k, v in net.state_dict().items()})
    return other.eval()


def test_a_detector_with_margins_chooses_as_float64_does(sharp: tuple[nn.Module, Reference]) -> None:
    net, reference = sharp
    assert reference.turns.shape == (len(reference.kinds), ROWS)
    assert np.median(reference.turns.sum(axis=1)) == 0
    assert not [p for p in reference.judge("step", run_module(other_roundings(net))) if p.failed]


def test_choices_that_rounding_makes_are_passed(even: tuple[nn.Module, Reference]) -> None:
    """Given pairs of boxes at the threshold -> eager float32 chooses otherwise, and so may a step."""
    net, reference = even
    assert reference.turns.max() > 0
    found = reference.run(run_module(other_roundings(net)))
    astray = matched([y.values for y in reference.outputs.values()], found).astray
    assert astray is not None and astray.any()
    assert not [p for p in reference.compare("step", found) if p.failed]
    assert reference.outputs["boxes"].own_errors.max() < 1e-3  # of the rows that have counterparts


FAULTS: dict[str, Callable[[list[np.ndarray]], None]] = {
    "boxes 1 px off": lambda y: np.add(y[0], 1, out=y[0]),
    "scores halved": lambda y: np.multiply(y[1], 0.5, out=y[1]),
    "labels one on": lambda y: np.add(y[2], 1, out=y[2]),
    "the best row of each image lost": lambda y: [np.copyto(a[:, :-1], a[:, 1:].copy()) for a in (y[0], y[1], y[4])],
    "images shuffled": lambda y: [np.copyto(a, np.roll(a, 1, axis=0)) for a in y],
    "areas of one image wrong": lambda y: np.multiply(y[4][2], 1.1, out=y[4][2]),
    "one number is none": lambda y: np.put(y[0], 5, np.nan),
    "all counts one on": lambda y: np.add(y[3], 1, out=y[3]),
    "zero": lambda y: [a.fill(0) for a in y],
    "rows in another order": lambda y: [np.copyto(a, a[:, ::-1].copy()) for a in (y[0], y[1], y[2], y[4])],
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", ["sharp", "even"])
def test_a_fault_is_refused(kind: str, fault: str, request: pytest.FixtureRequest) -> None:
    net, reference = request.getfixturevalue(kind)
    found = [y.copy() for y in reference.run(run_module(net))]
    FAULTS[fault](found)
    assert [p for p in reference.compare("step", found) if p.failed or not p.error <= p.tolerance]


def lists(images: int = 12) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    scores = -np.sort(-rng.uniform(0, 1, (images, ROWS)), axis=1)
    return [rng.uniform(0, 100, (images, ROWS, 4)), scores, np.full(images, ROWS)]


@pytest.mark.parametrize(
    ("own", "step", "passed"),
    [
        ({0: [3, 4]}, {0: [3, 4]}, True),
        ({0: [3, 4]}, {0: [4]}, True),
        ({0: [3, 4]}, {0: [4, 5]}, False),
        ({0: [3]}, {5: [3]}, False),
        ({}, {5: [1]}, False),
        ({0: range(15)}, {0: range(16)}, True),  # where most hang on rounding, none tells
        ({0: range(10)}, {0: range(11)}, False),
    ],
)
def test_a_step_may_choose_otherwise_where_float32_does(
    own: dict[int, Sequence[int]], step: dict[int, Sequence[int]], passed: bool
) -> None:
    wanted, turns = lists(), np.zeros((12, ROWS), bool)
    found = [y.copy() for y in wanted]
    for image, rows in own.items():
        turns[image, list(rows)] = True
    for image, rows in step.items():
        found[0][image, list(rows)] += 500
    outputs, excuses = excused(wanted, matched(wanted, found), turns)
    assert np.array_equal(outputs[0], wanted[0]) == passed
    assert not passed or excuses == sum(len(rows) for rows in step.values())


@pytest.mark.parametrize(("own", "passed"), [(5, True), (4, False)])
def test_what_fills_a_list_up_is_no_detection(own: int, passed: bool) -> None:
    """Given eight detections of an image and twelve empty rows, most of the eight choices of rounding -> none tells."""
    wanted, turns = lists(), np.zeros((12, ROWS), bool)
    wanted[1][0, 8:], turns[0, :own] = 0, True
    found = [y.copy() for y in wanted]
    found[0][0, 6] += 500
    assert detections(wanted, turns).sum(axis=1).tolist() == [8] + [ROWS] * 11
    outputs, _ = excused(wanted, matched(wanted, found), turns)
    assert np.array_equal(outputs[0], wanted[0]) == passed
    corners_score = [np.concatenate([wanted[0], wanted[1][..., None]], 2)]
    assert np.array_equal(detections(corners_score, turns), detections(wanted, turns))


def test_a_row_that_hangs_on_rounding_is_not_held_where_it_is_nearly_the_references() -> None:
    """Given a choice of float32's own, and a step whose row is off by less than others' and more than its tolerance."""
    wanted, turns = lists(), np.zeros((12, ROWS), bool)
    turns[0, 3] = True
    found = [y.copy() for y in wanted]
    found[0][0, 3] += 0.01
    outputs, excuses = excused(wanted, matched(wanted, found), turns)
    assert np.array_equal(outputs[0], wanted[0]) and excuses == 0


def test_a_list_of_which_most_hangs_on_rounding_certifies_nothing(even: tuple[nn.Module, Reference]) -> None:
    net, reference = even
    chance = replace(reference, turns=np.ones_like(reference.turns))
    parities = {p.output: p for p in chance.judge("step", run_module(net))}
    assert parities["boxes"].status.startswith("not certified: which detections are kept hangs on rounding")


def test_rows_that_tie_with_the_last_are_any_of_those_that_tie() -> None:
    """Given a list that ends among equals, one that does not, one filled up, one without ties -> of the first."""
    wanted = lists(4)
    wanted[1][0, 8:] = 1 - np.arange(12) * 1e-9
    wanted[1][0, :8] = 1 + np.arange(8, 0, -1)
    wanted[1][1, :10] = 0.9  # equals, and others behind them
    wanted[1][1, 10:] = np.linspace(0.8, 0.3, 10)
    wanted[1][2, 5:] = 0.0
    wanted[1][3] = np.linspace(0.9, 0.3, ROWS)
    found = among_equals(wanted)
    assert np.flatnonzero(found[0]).tolist() == list(range(8, ROWS)) and not found[1:].any()
    corners_score = [np.concatenate([wanted[0], wanted[1][..., None]], 2)]
    assert np.array_equal(among_equals(corners_score), found)
    assert not among_equals([wanted[0]]).size


class Saturating(nn.Module):
    """As many boxes as pixels, of which `torch.topk` takes some: where the image is bright, all scores are 1."""

    def __init__(self, *, last: bool) -> None:
        super().__init__()
        self.scores, self.last = nn.Conv2d(3, 1, 3, padding=1), last

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        scores = (self.scores(x).flatten(1) + 40 * (x.abs().amax((1, 2, 3)) > 4.7)[:, None]).sigmoid()
        place = torch.arange(256, dtype=x.dtype)
        boxes = torch.stack([place % 16, place // 16, place % 16 + 4, place // 16 + 4], -1) * 8
        order = torch.arange(255, -1, -1) if self.last else torch.arange(256)
        found, index = scores[:, order].sort(dim=1, descending=True, stable=True)
        return {"boxes": boxes[order[index[:, :ROWS]]], "scores": found[:, :ROWS]}


def test_which_of_thousands_of_saturated_scores_come_in_is_no_fault() -> None:
    """Given bright images, of which a step takes the last of equal boxes -> passed, in a lower precision too."""
    torch.manual_seed(0)
    first, last = (Saturating(last=way).eval() for way in (False, True))
    last.load_state_dict(first.state_dict())
    reference = reference_from_module(first, EXAMPLE, output_names=("boxes", "scores"))
    chance = reference.turns.all(axis=1)
    assert chance.any() and 2 * chance.sum() < len(chance)
    found = reference.run(run_module(last))
    assert (found[0][chance] != reference.outputs["boxes"].values[chance]).any()
    for tolerance in (None, 0.1):
        assert not [p for p in reference.compare("step", found, tolerance) if p.failed]
        for fault in (lambda y: y * 1.1, np.zeros_like, lambda y: y[::-1]):
            assert [p for p in reference.compare("step", [fault(found[0]), found[1]], tolerance) if p.failed]
        broken = [np.where(chance[:, None, None], np.nan, found[0]), found[1]]
        assert [p for p in reference.compare("step", broken, tolerance) if not p]


def test_the_networks_own_choices_are_no_errors_of_its_numbers() -> None:
    wanted = lists()
    found = [y.copy() for y in wanted]
    found[0][3, 4] += 500
    found[2][3] -= 1
    assert all(np.array_equal(a, b) for a, b in zip(_but_for_turns(wanted, found), wanted, strict=True))


def test_what_was_found_of_choices_is_kept(even: tuple[nn.Module, Reference], tmp_path: Path) -> None:
    reference = even[1]
    reference.save(tmp_path / "r.npz")
    assert np.array_equal(Reference.load(tmp_path / "r.npz").turns, reference.turns)
    assert reference.first(3).turns.shape == (3, ROWS)


def test_the_lists_of_a_half_precision_network_are_held_to_its_own_errors() -> None:
    """Given a detector in float16, and a step that computes with its weights in float32 -> held; a fault -> refused."""
    torch.manual_seed(0)
    net = Detector(even=False).half().eval()
    reference = reference_from_module(net, EXAMPLE.half(), output_names=NAMES)
    own = reference.outputs["boxes"].own_rms
    assert reference.dtype == "float16" and 0 < own < 0.05
    found = reference.run(run_module(net.float()))
    parities = reference.compare("step", found)
    assert [p.status for p in parities] == ["held"] * 5 and parities[0].measure == "overlap"
    for fault in FAULTS.values():
        wrong = [y.copy() for y in found]
        fault(wrong)
        assert not all(reference.compare("step", wrong))
    outputs = {name: replace(y, own_rms=float("inf")) for name, y in reference.outputs.items()}
    said = replace(reference, outputs=outputs).compare("step", found)[0].status
    assert said.startswith("not certified: the output lists other things in eager float16 itself")


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 2])
def test_mask_rcnn_with_random_weights_holds(seed: int) -> None:
    """Given scores that float32 rounds to ties -> which proposals are kept differs, no number of others does."""
    dims, strides = (16, 16, 32, *[64] * 7, 128, 128), (1, 2, 2, 1, 1, 1, 1, 1, 1, 2, 1)
    example = torch.zeros(1, 3, 128, 160)
    net = MaskRCNN(dims, strides, channels=32, hidden=64, proposals=200, detections=ROWS).eval()
    randomized(net, seed, example)
    reference = reference_from_module(net, example, output_names=list(net(example)))
    plain, _ = reparameterize(net, example, check=False)
    parities = reference.judge("plain network", run_module(plain))
    assert all(parities), [str(p) for p in parities]
    assert parities[0].turned
    assert max(p.tolerance for p in parities) < MAX_TOLERANCE
    wrong = reference.run(run_module(plain))
    wrong[0][:, :3] += 0.2  # pixels
    assert not reference.compare("step", wrong)[0]


@pytest.mark.parametrize(("filled", "off", "excuse"), [
    (False, {0: 1}, True), (False, dict.fromkeys(range(12), 1), False), (False, {0: 3}, False),
    (True, {0: -1}, True), (True, {0: 1}, False), (True, {1: -1}, False),
])  # fmt: skip
def test_a_count_is_that_of_the_steps_own_rows(filled: bool, off: dict[int, int], excuse: bool) -> None:
    """Given choices of rounding in every image -> a count may go with the rows found, never on by one in all images."""
    wanted, turns = lists(), np.zeros((12, ROWS), bool)
    turns[:, 3:5] = True
    if filled:
        wanted[1][:, 15:], wanted[2][:] = 0, 15
    found = [y.copy() for y in wanted]
    found[0][0, 4] += 500
    if filled:  # the step finds one row less in the first image
        found[1][0, 14] = 0
        turns[0, 14] = True
    for image, count in off.items():
        found[2][image] += count
    outputs, _ = excused(wanted, matched(wanted, found), turns)
    assert np.array_equal(outputs[2], wanted[2]) == excuse
