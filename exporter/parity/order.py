"""Lists that are sorted by score, as detections are: rows whose scores tie may stand in either order.

Given   outputs with a row for each detection, scores [images, D] that never rise along D among them
Result  a step's outputs with such rows where the reference has them; what they hold is compared as ever

Two scores that differ by less than rounding come out in the order that rounding gives them, and all the numbers of
their rows with them: that is no error of these numbers.
"""

from collections.abc import Sequence

import numpy as np

TIE = 1e-3
"""Of the scores' spread: rows whose scores are nearer may trade places."""
ALIKE = 1e-3
"""A row that is off by less, in units of the spreads, is where it belongs."""
MOST, WIDEST = 300, 16
"""Rows astray in one image beyond which it is no matter of ties; numbers of a row beyond which they tell no more."""


def in_order(wanted: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> list[np.ndarray]:
    """`found` with tied rows in the order of `wanted`, both one array [images, D, …] an output."""
    members, scores = _list_of(wanted)
    if scores is None or any(y.shape != w.shape for y, w in zip(found, wanted, strict=False)) or not found:
        return list(found)
    units = {k: _unit(wanted[k]) for k in members if wanted[k][0, 0].size <= WIDEST}
    tie = TIE * float(np.std(scores))
    ordered = list(found)
    for image in range(len(scores)):
        rows = len(scores[image])
        pairs = [
            (wanted[k][image].reshape(rows, -1), found[k][image].reshape(rows, -1), unit) for k, unit in units.items()
        ]
        off = sum(_distances(a, b, unit) for a, b, unit in pairs)
        astray = np.flatnonzero(~(np.asarray(off) <= ALIKE))
        if not 1 < len(astray) <= MOST:
            continue
        cost = sum(_distances(a[astray, None], b[None, astray], unit) for a, b, unit in pairs)
        places = astray[_places(np.asarray(cost), scores[image, astray], tie)]
        for k in members if (places != astray).any() else ():
            ordered[k] = ordered[k] if ordered[k] is not found[k] else found[k].copy()
            ordered[k][image, astray] = found[k][image, places]
    return ordered


def _list_of(wanted: Sequence[np.ndarray]) -> tuple[list[int], np.ndarray | None]:
    """Which outputs are of one sorted list, two at least, and its scores."""
    for y in wanted:
        if y.dtype.kind == "f" and y.ndim == 2 and y.shape[1] > 1 and len(y) and (np.diff(y, axis=1) <= 0).all():
            members = [k for k, other in enumerate(wanted) if other.shape[:2] == y.shape]
            if len(members) > 1 and y.std() > 0:
                return members, y
    return [], None


def _unit(y: np.ndarray) -> float:
    """What a number of an output is measured in; integers differ or do not."""
    return float(np.std(y)) or 1.0 if y.dtype.kind == "f" else 0.0


def _distances(wanted: np.ndarray, found: np.ndarray, unit: float) -> np.ndarray:
    """How far rows of `found` are from rows of `wanted`, as they broadcast: the largest number's, in units."""
    with np.errstate(all="ignore"):
        off = np.abs(wanted - found.astype(np.float64)) / unit if unit else (wanted != found).astype(np.float64)
    far: np.ndarray = np.where(np.isnan(off), np.inf, off).max(axis=-1)
    return far


def _places(cost: np.ndarray, scores: np.ndarray, tie: float) -> np.ndarray:
    """For each row the one found for it: the nearest that is free and whose score ties, as each is tried in turn."""
    rows = np.arange(len(cost))
    free = set(rows.tolist())
    for row in rows.tolist():
        near = [k for k in free if abs(scores[k] - scores[row]) <= tie]
        if not near:
            return np.arange(len(cost))
        rows[row] = min(near, key=lambda k: (cost[row, k], abs(k - row)))
        free.discard(int(rows[row]))
    return rows
