"""Choices that float32 turns over: which detections are kept, where the margin is smaller than rounding.

Given   the rows of the reference that have no counterpart in a step, and those that have none in the network's own
        float32: as it is, and with each value that it computes rounded a few times as coarsely (`shaken`)
Result  the step's outputs, those rows replaced by the reference's

A box kept or not, a proposal in or out, the level that a region is pooled from: two float32 evaluations of one network
differ in them where an overlap or a score is next to its threshold, and none is more right. Each such choice is a few
rows of a list; every other row is held to the tolerance that it has anyway. Where most detections of an image are such
choices, those that agree do so by luck, and none is held. What fills a list up is no detection.

A list may end among equals: where scores saturate, thousands of candidates tie at 1, and which of them come in is up to
how a runtime sorts. One that comes or goes moves all others, be they as they are in each evaluation of the network: the
rows that tie with the last one are such choices, too.
"""

from collections.abc import Sequence

import numpy as np

from .measure import MULTIPLE, UNIT_ROUNDOFF, is_offset
from .order import Matched, columns_of, list_of, stack_of

MOST = 0.5
"""The share of an image's detections."""


def among_equals(wanted: Sequence[np.ndarray]) -> np.ndarray:
    """The rows of a sorted list whose scores rounding does not tell from the last one's, [images, D].

    None of an image whose last row has the lowest score there is, which fills lists up; empty where there is no list.
    """
    scores = _scores_of(wanted)
    if scores is None:
        return np.zeros((0, 0), bool)
    last = scores[:, -1:]
    ties = scores - last <= MULTIPLE * UNIT_ROUNDOFF["float32"] * np.abs(last)
    rows: np.ndarray = ties & (last > scores.min()) & (ties.sum(axis=1, keepdims=True) > 1)
    return rows


def detections(wanted: Sequence[np.ndarray], turns: np.ndarray) -> np.ndarray:
    """The rows of a sorted list that do not fill it up, [images, D]: those over the lowest score, and `turns`."""
    scores = _scores_of(wanted)
    if scores is None or scores.shape != turns.shape:  # nothing was found out of a network in half precision
        return np.ones_like(turns)
    fills = scores == scores.min()
    return ~fills | turns if fills.sum() > 1 else np.ones_like(turns)


def of_chance(wanted: Sequence[np.ndarray], turns: np.ndarray, outputs: Sequence[np.ndarray]) -> np.ndarray:
    """The images that tell nothing, [images]: most of what they hold are `turns`, and all a step gives is finite."""
    if not all(len(y) == len(turns) for y in outputs):
        return np.zeros(len(turns), bool)
    finite = [np.isfinite(y.reshape(len(turns), -1)).all(axis=1) for y in outputs if y.dtype.kind == "f"]
    found: np.ndarray = _are_most(wanted, turns) & np.all(finite, axis=0)
    return found


def excused(wanted: Sequence[np.ndarray], step: Matched, own: np.ndarray) -> tuple[list[np.ndarray], int]:
    """The outputs of `step` with what it may choose otherwise as in `wanted`, and how many rows these are.

    Args:
        wanted: the reference's outputs.
        step: the step's.
        own: the rows that the network's own float32 chooses otherwise in one evaluation or another, [images, D].

    """
    if step.astray is None:
        return step.outputs, 0
    sound = np.ones(len(own), bool)
    for k in step.members:
        if step.outputs[k].dtype.kind == "f":
            sound &= np.isfinite(step.outputs[k].reshape(len(own), -1)).all(axis=1)
    rows = (own | _are_most(wanted, own)[:, None]) & sound[:, None]
    outputs = list(step.outputs)
    for k, y in enumerate(outputs):
        if k in step.members and rows.any():
            outputs[k] = np.where(rows.reshape(*rows.shape, *[1] * (y.ndim - 2)), wanted[k], y)
        elif y.ndim == 1 and len(y) == len(own) and y.dtype.kind != "f":  # how many there are, whether all are in
            near = np.abs(y.astype(np.int64) - wanted[k].astype(np.int64)) <= rows.sum(axis=1)
            if not is_offset(wanted[k], y) and _are_counted(wanted, step.outputs, k):
                outputs[k] = np.where(near, wanted[k], y)
    return outputs, int((step.astray & rows).sum())


def _are_counted(wanted: Sequence[np.ndarray], found: Sequence[np.ndarray], k: int) -> bool:
    """Whether output k is the number of rows that do not fill the list up, if it is that in the reference."""
    scores, others = _scores_of(wanted), _scores_of(wanted, found)
    if scores is None or others is None or (scores == scores.min()).sum() < 2:
        return True
    counts, others = ((y > scores.min()).sum(axis=1) for y in (scores, others))
    return not np.array_equal(wanted[k], counts) or np.array_equal(found[k], others)


def _scores_of(wanted: Sequence[np.ndarray], found: Sequence[np.ndarray] | None = None) -> np.ndarray | None:
    """Of a sorted list, [images, D], in `found` if given; None where there is none."""
    stack, found = stack_of(wanted), wanted if found is None else found
    outputs = list(found) if stack is None else columns_of(found[stack])
    best = list_of(wanted if stack is None else columns_of(wanted[stack]))[1]
    return None if best is None else outputs[best]


def _are_most(wanted: Sequence[np.ndarray], turns: np.ndarray) -> np.ndarray:
    """Whether they are most of the detections of an image, [images]."""
    most: np.ndarray = turns.sum(axis=1) > MOST * detections(wanted, turns).sum(axis=1)
    return most
