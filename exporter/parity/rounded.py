"""Numbers that are rounded to steps, as grey levels and counts: what a step is worth.

Given   a and b, δ steps apart, each rounded to a step
Result  n or n + 1 steps apart, n ≤ δ: δ on average, and their square δ² + f·(1 − f) on average, f = δ − n

One halfway between two steps may be rounded either way, in float32 too.
"""

import math

import numpy as np

TOLD = 0.45
"""Of the spread: half of a number, and any constant, is off by .5 and more."""
SAME = 1e-9
"""Of the largest number: what float64 may make of multiples of one."""
TELLING = 1e-3
"""Of a step: numbers next to nothing apart are all next to a multiple of that, by as much as half of it."""
MANY_VALUES = 16
"""Values whose common divisor is no chance."""
SAMPLE = 1 << 16
"""Numbers that are looked at first for whether they come again."""


def is_whole(y: np.ndarray) -> bool:
    """Whether there is nothing behind the point."""
    with np.errstate(all="ignore"):
        return y.dtype.kind != "f" or (bool(np.isfinite(y).all()) and np.array_equal(y, np.rint(y)))


def step_of(some: np.ndarray) -> float:
    """The step that all numbers of an output are multiples of, where they move from image to image; 0 without any.

    Two values are no numbers: how far they are apart says nothing.
    """
    whole = is_whole(some)
    if not whole and 2 * len(np.unique(some.ravel()[:SAMPLE])) > min(some.size, SAMPLE):
        return 0.0
    values = np.unique(some).astype(np.float64)
    if len(values) < 3 or not (some != some[0]).any() or not np.isfinite(values).all():
        return 0.0
    steps = np.diff(values)
    if whole:
        return float(np.gcd.reduce(steps.astype(np.int64))) if len(values) >= MANY_VALUES else 1.0
    step = float(steps.min())
    places = (values - values[0]) / step
    off = float(np.abs(places - np.rint(places)).max())
    return step if off < min(SAME * float(places.max()), TELLING) else 0.0


def room_of(tolerance: float, step: float, scale: np.ndarray) -> np.ndarray | float:
    """How many times the tolerance, in units of `scale`, numbers that are rounded to a step may be off by.

    Numbers δ steps apart, rounded, are n or n + 1 steps apart, n ≤ δ: on average δ, their squares by f·(1 − f) more
    than δ², f = δ − n. So of numbers that are T steps apart (RMS) it is T² + min(T, ¼) at most.
    """
    if not step or not 0 < tolerance < math.inf:
        return 1.0
    steps = step / scale
    room: np.ndarray = np.sqrt(tolerance**2 + steps * np.minimum(tolerance, steps / 4))
    room = np.minimum(room, max(tolerance, TOLD)) / tolerance
    return room
