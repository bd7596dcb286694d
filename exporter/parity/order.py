"""Lists that are sorted by score, as detections are: which row of a step is which row of the reference.

Given   outputs with a row for each detection, scores [images, D] that never rise along D among them
Result  a step's outputs with each row where the reference has its counterpart, and which rows have none

The columns of one output [images, D, n], corners, score and label of each row, are such outputs too.

Two scores that differ by less than rounding come out in the order that rounding gives them. A box that suppression
keeps on one side of its threshold and not on the other is one row more, and all rows behind it stand one place on. What
a row holds is compared as ever; which rows have no counterpart is judged by what the network itself does, see `turns`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

TIE = 1e-3
"""Of the scores' spread: rows whose scores are nearer may trade places, and no score may rise by more."""
ALIKE = 1e-3
"""A row that is off by less, in units of the spreads, is the counterpart."""
CORNERS = 4
"""Numbers of a box."""
MOST, WIDEST = 300, 16
"""Rows astray in one image beyond which it is no matter of choice; numbers of a row beyond which they tell no more."""


@dataclass(frozen=True)
class Matched:
    """A step's outputs in the reference's order. `members` are the outputs with a row a detection; empty: no list.

    `astray` [images, D]: the rows without a counterpart.
    """

    outputs: list[np.ndarray]
    members: tuple[int, ...] = ()
    astray: np.ndarray | None = None


def matched(wanted: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> Matched:
    """`found` with its rows in the order of `wanted`, both one array [images, D, …] an output."""
    stack = stack_of(wanted)
    if stack is not None and found and found[stack].shape == wanted[stack].shape:
        inner = matched(columns_of(wanted[stack]), columns_of(found[stack]))
        together = np.concatenate([y.reshape(*y.shape[:2], -1) for y in inner.outputs], axis=2)
        return Matched([*found[:stack], together, *found[stack + 1 :]], (stack,), inner.astray)
    members, best = list_of(wanted)
    if best is None or any(y.shape != w.shape for y, w in zip(found, wanted, strict=False)) or not found:
        return Matched(list(found))
    scores = wanted[best]
    units = {k: _unit(wanted[k]) for k in members if wanted[k][0, 0].size <= WIDEST or wanted[k].dtype.kind == "f"}
    narrow = {k: unit for k, unit in units.items() if wanted[k][0, 0].size <= WIDEST}
    tie = TIE * float(np.std(scores))
    ordered = list(found)
    astray = np.zeros(scores.shape, bool)
    for image in range(len(scores)):
        off = np.flatnonzero(~(_off(wanted, ordered, image, narrow) <= ALIKE))
        falls = np.diff(found[best][image].astype(np.float64)) <= tie
        if 1 < len(off) <= MOST and falls.all():
            cost = _costs(wanted, found, image, narrow, off)
            places = off[_places(cost, scores[image, off], found[best][image, off], tie)]
            for k in members if (places != off).any() else ():
                ordered[k] = ordered[k] if ordered[k] is not found[k] else found[k].copy()
                ordered[k][image, off] = found[k][image, places]
        astray[image] = ~(_off(wanted, ordered, image, units) <= ALIKE)
    return Matched(ordered, members, astray)


def list_of(wanted: Sequence[np.ndarray]) -> tuple[tuple[int, ...], int | None]:
    """Which outputs are of one sorted list, two at least, and which of them are its scores."""
    for i, y in enumerate(wanted):
        if y.dtype.kind == "f" and y.ndim == 2 and y.shape[1] > 1 and len(y) and _falls(y):
            members = tuple(k for k, other in enumerate(wanted) if other.shape[:2] == y.shape)
            if len(members) > 1 and y.std() > 0:
                return members, i
    return (), None


def stack_of(wanted: Sequence[np.ndarray]) -> int | None:
    """Which output is a whole list, its scores one of the columns; None where the list is of several outputs."""
    if list_of(wanted)[1] is None:
        for k, y in enumerate(wanted):
            few = y.dtype.kind == "f" and y.ndim == 3 and CORNERS < y.shape[2] <= WIDEST
            if few and list_of(columns_of(y))[1] is not None:
                return k
    return None


def columns_of(y: np.ndarray) -> list[np.ndarray]:
    """[images, D, n] as its corners [images, D, 4] and its other columns [images, D]."""
    return [y[..., :CORNERS], *(y[..., k] for k in range(CORNERS, y.shape[2]))]


def _falls(scores: np.ndarray) -> bool:
    steps = np.diff(scores, axis=1)
    return bool((steps <= 0).all() and (steps < 0).any())


def _unit(y: np.ndarray) -> float:
    """What a number of an output is measured in; integers differ or do not."""
    return float(np.std(y)) or 1.0 if y.dtype.kind == "f" else 0.0


def _off(wanted: Sequence[np.ndarray], found: Sequence[np.ndarray], image: int, units: dict[int, float]) -> np.ndarray:
    """How far each row of an image is from that in its place: the largest number's, [D]."""
    rows = len(next(iter(wanted[k] for k in units))[image])
    each = [
        _distances(wanted[k][image].reshape(rows, -1), found[k][image].reshape(rows, -1), unit)
        for k, unit in units.items()
    ]
    return np.max(each, axis=0)  # type: ignore[no-any-return]


def _costs(
    wanted: Sequence[np.ndarray], found: Sequence[np.ndarray], image: int, units: dict[int, float], off: np.ndarray
) -> np.ndarray:
    """How far each of some rows of the reference is from each of these rows of a step."""
    return np.max(  # type: ignore[no-any-return]
        [
            _distances(
                wanted[k][image, off].reshape(len(off), 1, -1), found[k][image, off].reshape(1, len(off), -1), unit
            )
            for k, unit in units.items()
        ],
        axis=0,
    )


def _distances(wanted: np.ndarray, found: np.ndarray, unit: float) -> np.ndarray:
    """How far rows of `found` are from rows of `wanted`, as they broadcast: the largest number's, in units."""
    with np.errstate(all="ignore"):
        off = np.abs(wanted - found.astype(np.float64)) / unit if unit else (wanted != found).astype(np.float64)
    far: np.ndarray = np.where(np.isnan(off), np.inf, off).max(axis=-1)
    return far


def _places(cost: np.ndarray, scores: np.ndarray, found: np.ndarray, tie: float) -> np.ndarray:
    """For each row the one found for it, as each is tried in turn: its counterpart; else one that ties; else any."""
    rows = np.full(len(cost), -1)
    free = dict.fromkeys(range(len(cost)))
    for near in (cost <= ALIKE, np.abs(scores[:, None] - found[None]) <= tie, np.ones(cost.shape, bool)):
        for row in np.flatnonzero(rows < 0).tolist():
            those = [k for k in free if near[row, k]]
            if those:
                rows[row] = min(those, key=lambda k: (cost[row, k], abs(k - row)))
                del free[int(rows[row])]
    return rows
