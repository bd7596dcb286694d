"""How far a step is from float64: one measure for float32, one for lower precisions, one for integers.

float32: the largest error of any element, in units of its part's scale. It may be at most `MULTIPLE` times what the
network's own float32 is off by on the same images, and no less than `MULTIPLE` times the rounding of a perfect result,
u·|y64|, u = 2⁻²⁴, or u for probabilities: where eager happens to be exact, a step need not be. One evaluation is one
draw of what roundings come to; what the network is off by where each value is rounded `MULTIPLE` times as coarsely is
further ones. Own errors are taken from all images but the outliers, on which they are `CHAOTIC` times the usual; there
they count for that image, and for as many others that are no farther off, see `with_outliers`. A part is allowed what
any other part is off by, in its own spread, up to where that would certify nothing. The images of zeros and of hot
pixels have feature maps of equal values, and in a sum of n equal terms all roundings go the same way: added one after
another they are off by up to n·u of the sum, where eager PyTorch, which adds in pairs, shows nothing of it. On these
images n·u·max |y64| is allowed, n being the longest sum in the network.

Lower precisions, and float32 where single elements are chaotic: the root mean square of these errors: of all elements,
of each image, and at each index of each axis over the spread there. A slice of n elements is allowed 1 + 3/√n times the
tolerance, as its own is a matter of chance. At most `MOST_FAR` of the elements are off by more than `FAR` tolerances.
Where there are classes, the largest is the same wherever it leads by more than two tolerances.

Integers and bools: the share of elements that differ, of all, and in lower precisions of each frequent value too.
Counts, of which float32 itself gives others too often for that, but near ones, are measured as floats are; and to be
off by the same in most images is no rounding.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from .wanted import DIFFER, Wanted

MULTIPLE = 4.0
"""How many times as far from float64 as the network's own float32 a step may be."""
MAX_TOLERANCE = 0.01
"""A float32 tolerance beyond it certifies nothing: known wrong fusions are off by as little as 6 % of the spread."""
CHAOTIC = 30.0
UNIT_ROUNDOFF = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
"""The relative error of a number rounded to the type."""
FAR, MOST_FAR = 4.0, 0.01
SLICE_FLOOR = 0.25
"""Of the part's spread: a slice that moves by less is measured as if it moved by that."""
AGREEMENT, ENOUGH = 0.95, 20
"""Of that many positions, this share must have the same largest score, or the same integer, in a lower precision."""
OF_EACH = 0.75
"""The share of a frequent integer's positions that both have in common, and of what tells two images apart."""
NEAR = 0.25
"""Of the spread, how far from the right one a count may be in the network's own float32."""
FEW = 6
"""Images too few to tell an offset from choices that happen to go the same way."""
TIES = 1e-3
"""The share of integers that rounding decides in float32: where two scores tie."""


@dataclass(frozen=True)
class Measured:
    """What was found: `error` holds where it is at most `tolerance`. `worst` is the image and element farthest off.

    `axis` and `index` say which slice the error is of, where it is of one; `far` is the share of elements far off,
    `top1` that of positions with the same largest class. `why` says what else does not hold.
    """

    measure: str
    error: float
    tolerance: float
    worst: tuple[int, ...] = ()
    axis: int | None = None
    index: int | None = None
    far: float | None = None
    top1: float | None = None
    why: str = ""


def float32_tolerances(wanted: Wanted, flat: np.ndarray, longest_sum: int) -> np.ndarray:
    """What each image and part may be off by in float32, in units of its scale: [images, K]."""
    own = np.fmax(wanted.own_errors, np.fmin(wanted.moved, MAX_TOLERANCE / MULTIPLE))  # a coarse draw spoils no image
    each = own.max(axis=1, initial=0.0)
    usual = ~_outliers(each)
    own = np.where(usual[:, None], own, each[:, None])  # where one part is off, any other may be
    typical = np.where(flat[:, None], wanted.own_errors, own)[usual].max(axis=0, initial=0.0)
    pooled = np.minimum(np.maximum(each, typical.max(initial=0.0)), MAX_TOLERANCE / MULTIPLE)  # few samples a part
    own = np.maximum(own, pooled[:, None])
    with np.errstate(all="ignore"):
        peaks = UNIT_ROUNDOFF["float32"] * wanted.peaks()
        bias = longest_sum * peaks.max(axis=0, initial=0.0) / wanted.scales[flat]
        rounding = np.where(wanted.are_shares(), UNIT_ROUNDOFF["float32"], peaks) / wanted.scales
    allowed: np.ndarray = MULTIPLE * np.maximum(own, np.maximum(typical, rounding.max(axis=0, initial=0.0)))
    allowed[flat] = np.fmax(allowed[flat], np.fmax(bias, MULTIPLE * wanted.jumps[flat, None]))
    return allowed


def with_outliers(wanted: Wanted, y: np.ndarray, allowed: np.ndarray, flat: np.ndarray) -> np.ndarray:
    """`allowed` [images, K], more of it on as many further images as the network's own float32 is an outlier on.

    Chance says on which images a sum that is rounded otherwise turns a decision over: the order of two detections, a
    gate far out. A step may be off on others than eager is, but on no more of them, the n-th no farther than `MULTIPLE`
    times eager's n-th, and not on most. What is off by less than `MAX_TOLERANCE` is no such jump as one beyond it is.
    Nothing is told by `flat` images, whose roundings go the same way.
    """
    own = wanted.own_errors.max(axis=1, initial=0.0)
    outliers = _outliers(own)
    each = MULTIPLE * np.fmax(wanted.jumps, np.where(outliers, own, 0.0))[~flat]
    if not each.any() or len(y) != len(allowed):
        return allowed
    with np.errstate(all="ignore"):
        found = wanted.by_part(np.abs(y.astype(np.float64) - wanted.values), np.max) / wanted.scales
    off, worst = ~(found <= allowed).all(axis=1), found.max(axis=1)
    if 2 * (off | outliers).sum() > len(y) or not np.isfinite(worst[off]).all():
        return allowed
    more = allowed.copy()
    for jumps in (True, False):
        limits = np.sort(each[(each > MAX_TOLERANCE) == jumps])[::-1]
        images = np.flatnonzero(off & ((worst > MAX_TOLERANCE) == jumps))
        images = images[np.argsort(-worst[images])]
        if len(images) > len(limits) or (worst[images] > limits[: len(images)]).any():
            return allowed
        more[images] = np.maximum(more[images], limits[: len(images), None])
    return more


def _outliers(each: np.ndarray) -> np.ndarray:
    """Of the own errors of images: those far beyond the usual."""
    far: np.ndarray = each > CHAOTIC * np.median(each)
    return far


def largest_error(wanted: Wanted, y: np.ndarray, allowed: np.ndarray) -> Measured:
    """The error that uses up most of what its image and part is `allowed`, [images, K]."""
    found = Measured("max", 0.0, float(np.max(allowed, initial=0.0)))
    most = -1.0
    for i in range(len(y)):
        if not y[i].size:
            continue
        with np.errstate(all="ignore"):
            errors = np.abs(y[i].astype(np.float64) - wanted.values[i]) / wanted.scale_of(i)
            shares = errors / wanted.along(allowed[i])
        shares = np.where(np.isnan(errors), np.inf, np.where(np.isnan(shares), 0.0, shares))  # 0 of 0 allowed
        at = np.unravel_index(int(np.argmax(shares)), shares.shape)
        if shares[at] > most:
            most, worst = float(shares[at]), (i, *(int(k) for k in at))
            part = 0 if wanted.axis is None else worst[wanted.axis]
            index = None if wanted.axis is None else part
            found = Measured("max", float(errors[at]), float(allowed[i, part]), worst, wanted.axis, index)
    return replace(found, why="most images are off by the same") if is_offset(wanted.values, y) else found


def rms_error(wanted: Wanted, y: np.ndarray, tolerance: float) -> Measured:
    """The slice whose root mean square error uses up most of the tolerance."""
    count, size = len(y), wanted.values[0].size if len(y) else 0
    if not size:
        return Measured("rms", 0.0, tolerance)
    along = [np.zeros(n) for n in wanted.values.shape[1:]]
    of_images, far, peak = np.zeros(count), 0, -1.0
    worst: tuple[int, ...] = ()
    for i in range(count):
        with np.errstate(all="ignore"):
            errors = np.abs(y[i].astype(np.float64) - wanted.values[i]) / wanted.scale_of(i)
        errors = np.where(np.isnan(errors), np.inf, errors)
        squares = errors**2
        of_images[i] = squares.mean()
        far += int((errors > FAR * tolerance).sum())
        where = np.unravel_index(int(np.argmax(errors)), errors.shape)
        if errors[where] > peak:
            peak, worst = float(errors[where]), (i, *(int(k) for k in where))
        for k, sums in enumerate(along):
            sums += squares.mean(axis=tuple(n for n in range(squares.ndim) if n != k))
    slices = [(0, of_images, np.ones(count), size)]
    for k, (sums, spreads) in enumerate(zip(along, wanted.slices, strict=True), start=1):
        if len(spreads) and len(spreads) > 1:
            floor = np.ones(len(sums)) if k == wanted.axis else np.clip(spreads, SLICE_FLOOR, 1.0)
            slices.append((k, sums / count, floor, count * size // len(sums)))
    error = math.sqrt(of_images.mean())
    axis: int | None = None
    index: int | None = None
    for k, mean_squares, floor, elements in slices:
        found = np.sqrt(mean_squares) / floor / (1 + 3 / math.sqrt(max(elements, 1)))
        at = int(np.argmax(found))
        if found[at] > error:
            error, axis, index = float(found[at]), k, at
    share = far / max(count * size, 1)
    why = ""
    if far > max(1, MOST_FAR * count * size):
        why = f"{share:.1%} of the elements are off by over {FAR * tolerance:.2g} spreads, at most {MOST_FAR:.0%} may"
    return Measured("rms", error, tolerance, worst, axis, index, share, None, why)


def with_own_rms(wanted: Wanted, own: Sequence[np.ndarray]) -> Wanted:
    """`wanted` with the RMS error of the network in its own type measured as that of a step is: of the worst slice."""
    found = [rms_error(wanted, y, math.inf).error for y in own] if wanted.is_float else []
    return replace(wanted, own_rms=max(found, default=wanted.own_rms))


def agreement(wanted: Wanted, y: np.ndarray, tolerance: float | None) -> Measured:
    """The share of integers that differ; `tolerance` is None in float32, which may differ where it does itself.

    Beyond that at most a quarter of what another image gives otherwise: a mask may be the same nearly everywhere.
    """
    values, count = wanted.values, wanted.values.size
    telling = (1 - OF_EACH) * (wanted.spread or 1.0)
    if y.dtype.kind == "f" and not np.isfinite(y).all():
        return Measured("agreement", math.inf, TIES)
    with np.errstate(all="ignore"):
        differ = y != values
    by_image = differ.reshape(len(y), -1).mean(axis=1)
    wrong = float(differ.mean()) if count else 0.0
    i = int(np.argmax(by_image))
    worst = (i, *(int(k) for k in np.unravel_index(int(np.argmax(differ[i])), differ[i].shape))) if wrong else ()
    if tolerance is None:
        ties = min(TIES, telling) if wanted.spread else 0.0  # a constant is what it is
        return Measured("agreement", wrong, max(own_share(wanted), ties), worst)
    allowed = max(min(1 - AGREEMENT, telling), 1 / max(count, 1))
    why = ""
    if count >= ENOUGH * len(y) and by_image[i] > 1 - OF_EACH:
        why = f"of image {i} {by_image[i]:.0%} of the numbers differ, at most {1 - OF_EACH:.0%} may"
    for value, times in zip(*np.unique(values, return_counts=True), strict=True):
        if times < ENOUGH or times < 2 * TIES * count or why:
            continue
        here, there = values == value, y == value
        common = float((here & there).sum() / (here | there).sum())
        if common < OF_EACH:
            why = f"of {int(value)} only {common:.0%} are where they were, wanted {OF_EACH:.0%}"
    return Measured("agreement", wrong, allowed, worst, why=why)


def own_share(wanted: Wanted) -> float:
    """Of integers, the share that may differ in float32 as they do there anyway."""
    return MULTIPLE * float(np.fmax(wanted.own_errors, wanted.moved).mean())


def are_near(wanted: Wanted, rows: np.ndarray) -> bool:
    """Whether float32 itself gives on these images numbers near the right ones, as of counts; labels are far apart."""
    own = np.fmax(wanted.own_errors.max(axis=1, initial=0.0), wanted.jumps)
    return wanted.is_float and bool((own[rows] if rows.max(initial=-1) < len(own) else own).max(initial=0.0) < NEAR)


def is_offset(wanted: np.ndarray, y: np.ndarray) -> bool:
    """Whether whole numbers of most images are off by the same; rounding goes either way, where a choice is near it."""
    if len(y) < FEW or not all((w == np.rint(w)).all() for w in wanted):
        return False
    with np.errstate(all="ignore"):
        off = np.rint(y.astype(np.float64)) - wanted
    usual = np.median(off, axis=0)
    return bool(((usual != 0) & ((off == usual).mean(axis=0) >= OF_EACH)).any())


def class_axis(wanted: Wanted) -> tuple[int, np.ndarray] | None:
    """The axis along which the largest is a class, and the indices that compete; None where there is none.

    That of the parts where it is the first or last; else the last of three, the first of more. Parts on another scale
    than most, as boxes beside scores, do not compete.
    """
    rank = wanted.values.ndim
    if not wanted.is_float or wanted.counts or rank < 2:
        return None
    axis = wanted.axis if wanted.axis in (1, rank - 1) else (1 if rank != 3 else 2)
    indices = np.arange(wanted.values.shape[axis])
    if axis == wanted.axis:
        usual = np.median(wanted.scales.min(axis=0))
        apart = wanted.scales.min(axis=0) / usual if usual > 0 else np.ones(len(indices))
        indices = indices[(apart < DIFFER**2) & (apart > DIFFER**-2)]
    return (axis, indices) if len(indices) > 1 else None


def same_largest(wanted: Wanted, y: np.ndarray, margin: float) -> tuple[float, float, int] | None:
    """The share of positions with the same largest class: of all, and of those where it leads by `margin` scales.

    And how many these are. None where there are no classes.
    """
    found = class_axis(wanted)
    if found is None:
        return None
    axis, indices = found
    same = same_led = led = positions = 0
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
        led += int(leads.sum())
        same_led += int((equal & leads).sum())
    return same / max(positions, 1), same_led / max(led, 1), led
