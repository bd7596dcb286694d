"""Choices that float32 turns over: which detections are kept, where the margin is smaller than rounding.

Given   the rows of the reference that have no counterpart in a step, and those that have none in the network's own
        float32: as it is, and with each value that it computes rounded a few times as coarsely (`shaken`)
Result  the step's outputs, those rows replaced by the reference's

A box kept or not, a proposal in or out, the level that a region is pooled from: two float32 evaluations of one network
differ in them where an overlap or a score is next to its threshold, and none is more right. Each such choice is a few
rows of a list; every other row is held to the tolerance that it has anyway. Where most rows of an image are such
choices, as where scores are saturated and tie, those that agree do so by luck, and none is held.
"""

from collections.abc import Sequence

import numpy as np

from .order import Matched

MOST = 0.5
"""The share of an image's rows."""


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
    rows = (own | (own.mean(axis=1, keepdims=True) > MOST)) & sound[:, None]
    outputs = list(step.outputs)
    for k, y in enumerate(outputs):
        if k in step.members and rows.any():
            outputs[k] = np.where(rows.reshape(*rows.shape, *[1] * (y.ndim - 2)), wanted[k], y)
        elif y.ndim == 1 and len(y) == len(own) and y.dtype.kind != "f":  # how many there are, whether all are in
            near = np.abs(y.astype(np.int64) - wanted[k].astype(np.int64)) <= rows.sum(axis=1)
            outputs[k] = np.where(near, wanted[k], y)
    return outputs, int((step.astray & rows).sum())
