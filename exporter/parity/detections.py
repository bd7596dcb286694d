"""Lists of detections in a half or lower precision: judged by what is detected, wherever in the list it stands.

Given   the outputs of the reference and of a step that have a row a detection, sorted by score
Result  each row's counterpart, how far it is from that, and which share of the scores has none

A lower precision moves scores by hundredths, and rows trade places; a box near a threshold comes or goes. None of this
is an error of the numbers in place k. The rule is that of average precision, with the reference as the truth: the best
row first, each takes the free one with the same integers (labels) whose box overlaps most, ½ of the union at least.
Where no output has boxes x1 y1 x2 y2, the nearest row, within half a spread in each number.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .measure import Measured, is_offset
from .names import AGREEMENT, OF_EACH
from .order import WIDEST, columns_of, list_of, stack_of

APART = 0.5
"""How far a counterpart may be: 1 − |A ∩ B| / |A ∪ B| of boxes, spreads of other numbers."""
FEWEST = 2
"""Detections that tell something."""


@dataclass(frozen=True)
class Paired:
    """Which rows go together. `members` are the outputs of the list, `boxes` the one of boxes, if there is one.

    `wanted` and `found` are [R, 2], image and row of the R that have a counterpart; `alone` [images] counts those of
    either side that have none, `lost` is their share of all scores above the least that counts; `why` says what of the
    list does not hold, whatever its numbers are.
    """

    members: tuple[int, ...]
    boxes: int | None
    wanted: np.ndarray
    found: np.ndarray
    alone: np.ndarray
    lost: float
    why: str

    def with_counts(self, wanted: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> list[np.ndarray]:
        """`found`, its counts as in `wanted` where the rows without counterpart explain what they differ by.

        Not where most images count as many too many: chance does not.
        """
        outputs = list(found)
        for k, y in enumerate(outputs):
            counts = k not in self.members and y.shape == wanted[k].shape == self.alone.shape and y.dtype.kind != "f"
            if counts and not is_offset(wanted[k], y):
                near = np.abs(y.astype(np.int64) - wanted[k].astype(np.int64)) <= self.alone
                outputs[k] = np.where(near, wanted[k], y)
        return outputs


def paired(wanted: Sequence[np.ndarray], found: Sequence[np.ndarray], tolerance: float) -> Paired | None:
    """The rows of a list in `wanted` and their counterparts in `found`, which may be longer or shorter.

    None where there is no list, where it is empty but for a row, and where `found` has other shapes.

    `tolerance`, in spreads of the scores, is by how much they may rise along the list.
    """
    members, best = list_of(wanted)
    if best is None or len(found) != len(wanted):
        return None
    if any(found[k].shape[:1] + found[k].shape[2:] != wanted[k].shape[:1] + wanted[k].shape[2:] for k in members):
        return None
    if len({found[k].shape[1:2] for k in members}) > 1:
        return None
    counts, weights = _weights(wanted[best], wanted[best])
    if counts.sum() < FEWEST:
        return None
    found_counts, found_weights = _weights(found[best], wanted[best])
    boxes = next((k for k in members if k != best and _are_boxes(wanted[k])), None)
    if boxes is None and all(wanted[k].dtype.kind == "f" for k in members):
        return None  # numbers that happen to fall, as the scores of two classes do
    units = _units(wanted, members, best, boxes, counts)
    sides: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    alone, gone = np.zeros(len(counts), np.int64), np.zeros(len(counts))
    for i, (here, there) in enumerate(zip(counts, found_counts, strict=True)):
        w, f = np.flatnonzero(here), np.flatnonzero(there)
        cost = np.zeros((len(w), len(f)))
        for k, unit in units.items():
            off = _apart(wanted[k][i, w][:, None], found[k][i, f][None], None if k == boxes else unit)
            cost = np.fmax(cost, off)
        rows, others = _pairs(cost)
        for side, those in zip(sides, (w[rows], f[others]), strict=True):
            side.append(np.stack([np.full(len(those), i), those], axis=1))
        alone[i] = len(w) + len(f) - 2 * len(rows)
        gone[i] = weights[i, np.delete(w, rows)].sum() + found_weights[i, np.delete(f, others)].sum()
    each = weights.sum(axis=1) + found_weights.sum(axis=1)
    lost = float(gone.sum() / each.sum()) if each.sum() > 0 else 0.0
    why = _why(lost, gone / np.fmax(each, each.mean()) if each.sum() > 0 else gone)
    rises = np.diff(found[best].astype(np.float64), axis=1)
    if not (rises <= tolerance * float(_spread(wanted[best][counts]))).all():
        why = "the scores are not sorted"
    return Paired(members, boxes, np.concatenate(sides[0]), np.concatenate(sides[1]), alone, lost, why)


def list_error(pairs: Paired, k: int, wanted: np.ndarray, found: np.ndarray, tolerance: float) -> Measured:
    """Of one member of the list: what its rows are off from their counterparts.

    Of boxes the mean of 1 − |A ∩ B| / |A ∪ B|, of which half the tolerance is allowed: a box moved by a share of
    its side loses twice that. Of other numbers the RMS in units of their standard deviation over all detections, of
    each index where a row has few. Of integers the share of scores whose rows have no counterpart.
    """
    lost = pairs.lost
    if wanted.dtype.kind != "f" and k != pairs.boxes:
        return Measured("agreement", lost, 1 - AGREEMENT, why=pairs.why)
    w, f = wanted[tuple(pairs.wanted.T)], found[tuple(pairs.found.T)].astype(np.float64)
    if not np.isfinite(found).all():
        return Measured("rms", math.inf, tolerance, far=lost, why=pairs.why)
    if not len(w):
        return Measured("rms", math.inf, tolerance, far=lost, why=pairs.why)
    if k == pairs.boxes:
        off = 1 - overlaps(w, f)
        worst = (*map(int, pairs.wanted[int(off.argmax())]),)
        return Measured("overlap", float(off.mean()), tolerance / 2, worst, far=lost, why=pairs.why)
    errors = np.abs(f - w) / _spread(w)
    at = np.unravel_index(int(errors.argmax()), errors.shape)
    worst = (*map(int, pairs.wanted[at[0]]), *map(int, at[1:]))
    if errors.ndim == 2 and errors.shape[1] <= WIDEST:
        of_each = np.sqrt((errors**2).mean(axis=0))
        index = int(of_each.argmax())
        return Measured("rms", float(of_each[index]), tolerance, worst, 2, index, lost, why=pairs.why)
    return Measured("rms", float(np.sqrt((errors**2).mean())), tolerance, worst, far=lost, why=pairs.why)


def listed(
    wanted: Sequence[np.ndarray], found: Sequence[np.ndarray], limits: Sequence[float]
) -> tuple[Paired, list[np.ndarray], dict[int, Measured]] | None:
    """The rows that go together, `found` with the counts that these explain, and what was measured of each output.

    None where there is no list. Of an output that holds all of it, in columns, the worst of these counts. `limits` are
    the tolerances of the outputs.
    """
    stack = stack_of(wanted)
    if stack is None:
        pairs = paired(wanted, found, limits[list_of(wanted)[1] or 0])
        if pairs is None:
            return None
        each = {k: list_error(pairs, k, wanted[k], found[k], limits[k]) for k in pairs.members}
        return pairs, pairs.with_counts(wanted, found), each
    if len(found) != len(wanted) or found[stack].ndim != wanted[stack].ndim:
        return None
    columns = columns_of(wanted[stack])
    whole = [k for k, y in enumerate(columns) if k and np.array_equal(y, np.rint(y))]
    columns, others = (_with_integers(each, whole) for each in (columns, columns_of(found[stack])))
    pairs = paired(columns, others, limits[stack])
    if pairs is None:
        return None
    of_columns = [list_error(pairs, k, columns[k], others[k], limits[stack]) for k in pairs.members]
    worst = max(of_columns, key=lambda m: np.nan_to_num(m.error / m.tolerance, nan=np.inf))
    return replace(pairs, members=(stack,)), list(found), {stack: worst}


def own_of_lists(wanted: Sequence[np.ndarray], each: Iterable[Sequence[np.ndarray]]) -> dict[int, float]:
    """How far off the outputs that hold a list are in the network's own type, in units of the limits of `listed`.

    The most in `each` evaluation; infinite where one detects other things than the reference does.
    """
    own: dict[int, float] = {}
    for found in each:
        lists = listed(wanted, found, [1.0] * len(wanted))
        for k, m in lists[2].items() if lists is not None else ():
            error = math.inf if m.why else m.error / (m.tolerance if m.measure == "overlap" else 1.0)
            own[k] = max(own.get(k, 0.0), error)
    return own


def _with_integers(columns: list[np.ndarray], whole: Sequence[int]) -> list[np.ndarray]:
    """The columns, those in `whole` as integers; the least there is for what is none."""
    least = float(np.iinfo(np.int32).min)
    return [
        np.rint(np.nan_to_num(y, nan=least, posinf=least, neginf=least)).astype(np.int64) if k in whole else y
        for k, y in enumerate(columns)
    ]


def overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """|A ∩ B| / |A ∪ B| of boxes x1 y1 x2 y2, as they broadcast; 1 for the same without area, 0 for what is no box."""
    a, b = a.astype(np.float64, copy=False), b.astype(np.float64, copy=False)
    with np.errstate(all="ignore"):
        sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
        common = sides.clip(0).prod(axis=-1)
        areas = [(box[..., 2:] - box[..., :2]).clip(0).prod(axis=-1) for box in (a, b)]
        shares = common / (areas[0] + areas[1] - common)
    same = (a == b).all(axis=-1)
    result: np.ndarray = np.where(same, 1.0, np.nan_to_num(shares, nan=0.0, posinf=0.0))
    return result


def _weights(scores: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which rows are detections, and how far above the least that counts the score of each is: [images, D].

    Rows of the lowest score, where there are several, fill the list up.
    """
    lowest = wanted.min()
    if (wanted == lowest).sum() > 1:
        least, counts = wanted[wanted > lowest].min(initial=np.inf), scores > lowest
    else:
        least, counts = lowest, np.ones(scores.shape, bool)
    with np.errstate(all="ignore"):
        weights = np.where(counts, (scores - least).clip(0), 0.0)
    return counts, np.nan_to_num(weights, nan=0.0, posinf=0.0)


def _units(
    wanted: Sequence[np.ndarray], members: Sequence[int], best: int, boxes: int | None, counts: np.ndarray
) -> dict[int, np.ndarray]:
    """What tells rows apart, and in which unit: integers, boxes; where there are none, a few numbers; no scores."""
    units = {k: np.zeros(()) for k in members if wanted[k].dtype.kind != "f" and k != boxes}
    if boxes is not None:
        return units | {boxes: np.ones(())}
    few = [k for k in members if k != best and k not in units and wanted[k][0, 0].size <= WIDEST]
    return units | {k: _spread(wanted[k][counts]) for k in few}


def _apart(a: np.ndarray, b: np.ndarray, unit: np.ndarray | None) -> np.ndarray:
    """How far rows are apart, as they broadcast: of boxes, where `unit` is None; in units of it; integers 0 or ∞."""
    if unit is None:
        return 1 - overlaps(a, b)
    rows = np.broadcast_shapes(a.shape[:2], b.shape[:2])
    with np.errstate(all="ignore"):
        off = np.abs(a - b.astype(np.float64)) / unit if unit.any() else np.where(a == b, 0.0, np.inf)
    off = np.where(np.isnan(off), np.inf, off)
    far: np.ndarray = off.max(axis=tuple(range(2, off.ndim)), initial=0.0) if off.ndim > 2 else off
    return far.reshape(rows)


def _are_boxes(y: np.ndarray) -> bool:
    if y.dtype.kind == "b" or y.shape[2:] != (4,):
        return False
    return bool((y[..., 2:] >= y[..., :2]).all() and (y[..., 2:] > y[..., :2]).any())


def _spread(rows: np.ndarray) -> np.ndarray:
    """The standard deviation over all detections: of each index where a row has few numbers, else of all; not 0."""
    found = np.std(rows, axis=0) if rows.ndim == 2 and rows.shape[1] <= WIDEST else np.std(rows)
    return np.where(found > 0, found, 1.0)


def _pairs(cost: np.ndarray) -> tuple[list[int], list[int]]:
    """The best row first, each with the nearest that is free and not too far."""
    free, rows, others = np.ones(cost.shape[1], bool), [], []
    for row, costs in enumerate(cost):
        near = np.where(free, costs, np.inf)
        if len(near) and near.min() <= APART:
            rows.append(row)
            others.append(int(near.argmin()))
            free[others[-1]] = False
    return rows, others


def _why(lost: float, of_images: np.ndarray) -> str:
    worst = int(of_images.argmax())
    if lost > 1 - AGREEMENT:
        return f"{lost:.1%} of the scores are of detections without counterpart, at most {1 - AGREEMENT:.0%} may"
    if of_images[worst] > 1 - OF_EACH:
        return f"of image {worst} {of_images[worst]:.0%} of the scores are of detections without counterpart"
    return ""
