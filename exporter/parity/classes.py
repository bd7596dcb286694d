"""Which of several scores is the largest: of a classifier's, a segmenter's at each place, a detector's in each box."""

from dataclasses import replace

import numpy as np

from .measure import Measured
from .names import AGREEMENT, ENOUGH, FEW, OF_EACH, OF_RARE, TIES
from .wanted import DIFFER, Wanted


def with_classes(wanted: Wanted, y: np.ndarray, measured: Measured, *, users: bool) -> Measured:
    """`measured` with what of the largest classes agrees; in a lower precision they must.

    `users`: the images are the user's own, each of which has a class.
    """
    lower = measured.measure == "rms"
    found = same_largest(wanted, y, 2 * measured.tolerance if lower else 0.0)
    if found is None:
        return measured
    share, where_it_leads, leading, lost = found
    judged = wanted.values.ndim == 2 and len(y) >= ENOUGH and users
    agrees, places = (share, "images") if judged else (where_it_leads, "positions where it leads")
    why = measured.why
    if lower and not why and (judged or leading >= ENOUGH) and agrees < AGREEMENT:
        why = f"the largest score agrees on {agrees:.1%} of the {places}, wanted {AGREEMENT:.0%}"
    if lower and not why:
        why = lost or (lost_classes(wanted.values, y) if judged else "")
    return replace(measured, top1=share, why=why)


def lost_classes(scores: np.ndarray, y: np.ndarray) -> str:
    """What of the images whose largest score is not of the most frequent class is not found again; "" where it is."""
    classes, found = scores.argmax(axis=1), y.argmax(axis=1)
    usual = np.bincount(classes).argmax()
    others, either = classes != usual, (classes != usual) | (found != usual)
    share = float((others & (classes == found)).sum()) / max(int(either.sum()), 1)
    if others.sum() < FEW or share >= OF_RARE:
        return ""
    return f"of the images that are not of class {usual} only {share:.0%} have the class that they had"


def class_axis(wanted: Wanted) -> tuple[int, np.ndarray] | None:
    """The axis along which the largest is a class, and the indices that compete; None where there is none.

    That of the parts where it is the first or last; else the last of three, the first of more. Parts on another scale
    than most, as boxes beside scores, do not compete.
    """
    rank = wanted.values.ndim
    if not wanted.is_float or wanted.step or rank < 2:
        return None
    axis = wanted.axis if wanted.axis in (1, rank - 1) else (1 if rank != 3 else 2)
    indices = np.arange(wanted.values.shape[axis])
    if axis == wanted.axis:
        usual = np.median(wanted.scales.min(axis=0))
        apart = wanted.scales.min(axis=0) / usual if usual > 0 else np.ones(len(indices))
        indices = indices[(apart < DIFFER**2) & (apart > DIFFER**-2)]
    return (axis, indices) if len(indices) > 1 else None


def same_largest(wanted: Wanted, y: np.ndarray, margin: float) -> tuple[float, float, int, str] | None:
    """The share of positions with the same largest class: of all, and of those where it leads by `margin` scales.

    And how many these are, and in words which class is lost where it leads. None where there are no classes.
    """
    found = class_axis(wanted)
    if found is None:
        return None
    axis, indices = found
    same = positions = 0
    led, same_led = np.zeros(len(indices), np.int64), np.zeros(len(indices), np.int64)
    for i in range(len(y)):
        w = np.moveaxis(wanted.values[i], axis - 1, 0)[indices]
        v = np.moveaxis(y[i], axis - 1, 0)[indices]
        best = w.argmax(axis=0)[None]
        equal = v.argmax(axis=0) == best[0]
        scale = wanted.scales[i]
        unit = float(np.median(scale[indices] if axis == wanted.axis else scale))
        first = np.take_along_axis(w, best, 0)[0]
        rest = w.copy()
        np.put_along_axis(rest, best, -np.inf, 0)
        leads = first - rest.max(axis=0) > margin * unit
        positions += equal.size
        same += int(equal.sum())
        led += np.bincount(best[0][leads], minlength=len(indices))
        same_led += np.bincount(best[0][equal & leads], minlength=len(indices))
    lost = np.flatnonzero((led >= ENOUGH) & (led >= 2 * TIES * positions) & (same_led < OF_EACH * led))
    why = ""
    if len(lost):
        k = int(lost[0])
        why = f"class {indices[k]} is the largest in {same_led[k] / led[k]:.0%} of where it leads, wanted {OF_EACH:.0%}"
    return same / max(positions, 1), same_led.sum() / max(led.sum(), 1), int(led.sum()), why
