"""What a network's outputs say of one image, in the image's own pixels.

All of it is computed in float64, sums in their order: any machine, and the C++ library, gives the same bits.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from plainconv.exporter.bundle import Postprocessing

from ..runner import Array
from .geometry import Geometry
from .masks import NO_CLASS, Pasted, check_finite, places_along, runs_of
from .nms import kept

_LN2_HIGH, _LN2_LOW = float.fromhex("0x1.62e42feep-1"), float.fromhex("0x1.a39ef35793c76p-33")
_TERMS = 11  # of the series of e^r
_LEAST = -746.0  # what e^x is 0 of


@dataclass(frozen=True)
class Class:
    """A class that the image may be: `label`, its `number`, and its share of all classes."""

    label: str
    number: int
    score: float

    def as_json(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {"label": self.label, "number": self.number, "score": self.score}


@dataclass(frozen=True)
class Box(Class):
    """A thing and where it is: left, top, right and bottom in pixels of the image."""

    xyxy: tuple[float, float, float, float]

    def as_json(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {**super().as_json(), "xyxy": list(self.xyxy)}


@dataclass(frozen=True)
class Instance(Box):
    """A thing, where it is, and `mask`, bool [height, width] of the image, made whenever it is asked for."""

    pasted: Pasted = field(compare=False)

    @property
    def mask(self) -> Array:
        """Which pixels it is."""
        return self.pasted.mask()

    def as_json(self) -> dict[str, Any]:
        """As JSON can hold it; the mask as a segment's."""
        return {**super().as_json(), "mask": runs_of(self.mask)}


@dataclass(frozen=True, eq=False)
class Segment(Class):
    """All pixels of a class: `mask`, bool [height, width] of the image; its score is the mean of theirs."""

    mask: Array

    def as_json(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {**super().as_json(), "mask": runs_of(self.mask)}


Answer = Class | Box | Instance | Segment


def answers_of(
    outputs: Mapping[str, Array], wanted: Postprocessing, where: Geometry, classes: Sequence[str], row: int = 0
) -> list[Answer]:
    """What is said of the image in that row of the outputs, the best first. `classes` may be empty, or too few.

    Raises EngineError where a number that counts is none.
    """
    one = {name: np.asarray(outputs[name]) for name in wanted.names}
    one = {name: array[row] if array.ndim else array for name, array in one.items()}
    if wanted.kind == "classify":
        return list(_classes(one[wanted.output], wanted, classes))
    if wanted.kind == "segment":
        return list(_segments(one[wanted.output], where, classes))
    return list(_boxes(one, wanted, where, classes))


def averaged(outputs: Mapping[str, Array], wanted: Postprocessing, rows: int) -> dict[str, Array]:
    """The outputs that are read, in one row: the mean of the first rows, in float64, summed in their order."""
    found = {name: np.asarray(outputs[name])[:rows].astype(np.float64) for name in wanted.names}
    return {name: np.asarray(sum(array))[None] / rows for name, array in found.items()}


def shares_of(scores: Array) -> Array:
    """Softmax over the first axis; scores that are shares already, none below 0 and together 1, as they are."""
    scores = scores.astype(np.float64)
    check_finite(scores, "output")
    if scores.min() >= 0 and np.abs(sum(scores) - 1).max() < 1e-3:
        return scores
    powers = powers_of_e(scores - scores.max(0))
    shares: Array = powers / sum(powers)
    return shares


def powers_of_e(x: Array) -> Array:
    """e^x = 2^n · e^r, n = x / ln 2 to the nearest, e^r by its series: NumPy's own depends on the machine."""
    x = np.maximum(x, _LEAST)
    n = np.rint(x * (1 / math.log(2)))
    r = x - n * _LN2_HIGH - n * _LN2_LOW
    series = np.full_like(r, 1 / math.factorial(_TERMS))
    for k in reversed(range(_TERMS)):
        series *= r
        series += 1 / math.factorial(k)
    powers: Array = np.ldexp(series, n.astype(np.int32))
    return powers


def _classes(scores: Array, wanted: Postprocessing, classes: Sequence[str]) -> list[Class]:
    shares = shares_of(scores)
    order = np.argsort(-scores.astype(np.float64), kind="stable")[: wanted.top]
    return [Class(_label(classes, int(i)), int(i), float(shares[i])) for i in order]


def _segments(values: Array, where: Geometry, classes: Sequence[str]) -> list[Segment]:
    labels, shares = labels_of(values)
    at = [places_along(where, axis, labels.shape[axis]) for axis in (0, 1)]
    inside = (at[0] >= 0)[:, None] & (at[1] >= 0)[None, :]
    grid = np.ix_(at[0].clip(0), at[1].clip(0))
    numbers, scores = np.where(inside, labels[grid], NO_CLASS), shares[grid]
    found = []
    for number in np.unique(numbers[numbers != NO_CLASS]):
        mask = numbers == number
        score = float(np.cumsum(scores[mask])[-1]) / int(mask.sum())
        found.append(Segment(_label(classes, int(number)), int(number), score, mask))
    return sorted(found, key=lambda each: -int(each.mask.sum()))


def labels_of(values: Array) -> tuple[Array, Array]:
    """The class of each place of scores [classes, h, w], and its share; of [h, w] numbers themselves, and 1.

    One channel of scores tells one class, where it is above 0, from none, which is −1.
    """
    if values.ndim == 2:
        return values.astype(np.int64), np.ones(values.shape)
    if values.shape[0] == 1:
        check_finite(values, "output")
        shares = 1 / (1 + powers_of_e(-values[0].astype(np.float64).clip(-500, 500)))
        return np.where(values[0] > 0, 0, NO_CLASS), shares
    return values.argmax(0), shares_of(values).max(0)


def _boxes(one: Mapping[str, Array], wanted: Postprocessing, where: Geometry, classes: Sequence[str]) -> list[Box]:
    boxes_N4, scores_N, labels_N = _candidates(one, wanted)
    check_finite(scores_N, "scores")
    likely = np.flatnonzero((scores_N > wanted.score) & (labels_N >= 0))
    likely = likely[np.argsort(-scores_N[likely], kind="stable")]
    boxes_N4, scores_N, labels_N = boxes_N4[likely], scores_N[likely], labels_N[likely]
    check_finite(boxes_N4, "boxes")
    if wanted.form != "final":
        chosen = kept(boxes_N4, labels_N, wanted.iou, wanted.max)
        boxes_N4, scores_N, labels_N = boxes_N4[chosen], scores_N[chosen], labels_N[chosen]
    mapped = where.to_image(boxes_N4)[: wanted.max]
    found = [
        Box(_label(classes, int(label)), int(label), float(score), (float(a), float(b), float(c), float(d)))
        for (a, b, c, d), score, label in zip(mapped, scores_N, labels_N, strict=False)
    ]
    if wanted.masks is None:
        return found
    masks = one[wanted.masks][likely][: wanted.max]
    check_finite(masks, "masks")
    pairs = zip(found, masks, strict=True)
    return [Instance(box.label, box.number, box.score, box.xyxy, Pasted(mask, box.xyxy, where)) for box, mask in pairs]


def _candidates(one: Mapping[str, Array], wanted: Postprocessing) -> tuple[Array, Array, Array]:
    """Boxes [N, 4] as corners, and of each its best class and that one's score, in float64."""
    boxes, scores = one[wanted.boxes].astype(np.float64), one[wanted.scores].astype(np.float64)
    if wanted.form == "final":
        assert wanted.labels is not None
        labels = one[wanted.labels].astype(np.int64)
        count = len(scores) if wanted.count is None else max(0, int(one[wanted.count].reshape(-1)[0]))
        return _corners(boxes[:count], wanted), scores[:count], labels[:count]
    if wanted.form == "rows":
        boxes, scores = boxes.T[:, :4], scores.T[:, 4:]
    check_finite(scores, "scores")
    labels = scores.argmax(1) if len(scores) else np.zeros(0, np.int64)
    return _corners(boxes, wanted), np.take_along_axis(scores, labels[:, None], 1)[:, 0], labels


def _corners(boxes_N4: Array, wanted: Postprocessing) -> Array:
    if wanted.coordinates == "xyxy":
        return boxes_N4
    centre, half = boxes_N4[:, :2], boxes_N4[:, 2:] * 0.5
    return np.concatenate([centre - half, centre + half], 1)


def _label(classes: Sequence[str], number: int) -> str:
    return classes[number] if 0 <= number < len(classes) else str(number)
