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
and at each index of each axis over the spread there. A slice of n elements is allowed 1 + 3/√n times the tolerance, as
its own is a matter of chance. Images, rows and columns are no parts: what is off in one of them is off in few places.
An image, over how far it is from the mean where that is more than the spread, may be off by `OF_ONE` tolerances, but
by no more than `TOLD` of what it tells; a row or column by that in most images. At most `MOST_FAR` of the elements are
off by more than `FAR` tolerances. Where there are classes, the largest is the same wherever it leads by more than two
tolerances, of each class.

Integers that are rounded numbers are measured as these: in float32 beyond one step, which some of them may be off by as
they are in the network's own. Names, bools among them: the share of elements that differ, of all, and in lower
precisions of each that is there. To be off by the same in most images is no rounding.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..bundle.tensor import slice_words
from .names import AGREEMENT, OF_EACH, TIES, lost_names
from .rounded import TOLD, room_of
from .wanted import Wanted

MULTIPLE = 4.0
"""How many times as far from float64 as the network's own float32 a step may be."""
MAX_TOLERANCE = 0.01
"""A float32 tolerance beyond it certifies nothing: known wrong fusions are off by as little as 6 % of the spread."""
CHAOTIC = 30.0
UNIT_ROUNDOFF = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
"""The relative error of a number rounded to the type."""
FAR, MOST_FAR = 4.0, 0.01
OF_ONE = 2.0
"""How many times as far as all images together one may be: some move what is next to a threshold, most do not."""
SLICE_FLOOR = 0.25
"""Of the part's spread: a slice that moves by less is measured as if it moved by that."""
FEW, BEYOND = 6, 5.0
"""Images too few to tell an offset from choices that happen to go the same way; by how many standard deviations more
numbers must be off by the same than would be so by chance."""


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
        found = wanted.by_part(wanted.off(y), np.max) / wanted.scales
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
            errors = wanted.off(y[i], i) / wanted.scale_of(i)
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
    of_places = {k: np.zeros((count, wanted.values.shape[k])) for k in wanted.places}
    of_images, away, far, peak = np.zeros(count), np.zeros(count), 0, -1.0
    with np.errstate(all="ignore"):
        mean = wanted.values.mean(axis=0) if count else 0.0
    worst: tuple[int, ...] = ()
    for i in range(count):
        with np.errstate(all="ignore"):
            scale = wanted.scale_of(i)
            far += int((~(wanted.off(y[i], i) / scale <= FAR * tolerance)).sum())
            told = np.square((wanted.values[i] - mean) / scale)
            away[i] = np.sqrt(told.mean())
            scale = scale * room_of(tolerance, wanted.step, scale)
            errors = np.abs(y[i].astype(np.float64) - wanted.values[i]) / scale
        errors = np.where(np.isnan(errors), np.inf, errors)
        squares = errors**2
        of_images[i] = squares.mean()
        where = np.unravel_index(int(np.argmax(errors)), errors.shape)
        if errors[where] > peak:
            peak, worst = float(errors[where]), (i, *(int(k) for k in where))
        for k, sums in enumerate(along, start=1):
            others = tuple(n for n in range(squares.ndim) if n + 1 != k)
            if k in of_places:
                of_places[k][i] = squares.mean(axis=others) / np.fmax(told.mean(axis=others), 1.0)
            else:
                sums += squares.mean(axis=others)
    slices = [(0, of_images, np.fmax(away, 1.0), size)]
    for k, (sums, spreads) in enumerate(zip(along, wanted.slices, strict=True), start=1):
        if len(spreads) > 1 and k not in of_places:
            floor = np.ones(len(sums)) if k == wanted.axis else np.clip(spreads, SLICE_FLOOR, 1.0)
            slices.append((k, sums / count, floor, count * size // len(sums)))
    error = math.sqrt(of_images.mean())
    axis: int | None = None
    index: int | None = None
    share, why = far / max(count * size, 1), ""
    if far > max(1, MOST_FAR * count * size):
        why = f"{share:.1%} of the elements are off by over {FAR * tolerance:.2g} spreads, at most {MOST_FAR:.0%} may"
    for k, mean_squares, floor, elements in slices:
        found = np.sqrt(mean_squares) / floor / (1 + 3 / math.sqrt(max(elements, 1)))
        at, most = int(np.argmax(found)), min(OF_ONE * tolerance, max(tolerance, TOLD))
        if k == 0 and tolerance < math.inf:
            if found[at] > most and not why:
                why = f"image {at} is off by {found[at]:.2g} of its spread, at most {most:.2g} may it be"
        elif found[at] > error:
            error, axis, index = float(found[at]), k, at
    for k, each in of_places.items():
        found = np.sqrt(np.median(each, axis=0))
        at = int(np.argmax(found))
        if found[at] > max(tolerance, TOLD) and not why:
            why = f"{slice_words(k, at)} is off by {found[at]:.2g} spreads in most images, at most {TOLD:g} may it be"
    return Measured("rms", error, tolerance, worst, axis, index, share, None, why)


def with_own_rms(wanted: Wanted, own: Sequence[np.ndarray]) -> Wanted:
    """`wanted` with the RMS error of the network in its own type measured as that of a step is: of the worst slice."""
    found = [rms_error(wanted, y, math.inf).error for y in own] if wanted.is_float else []
    return replace(wanted, own_rms=max(found, default=wanted.own_rms))


def agreement(wanted: Wanted, y: np.ndarray, tolerance: float | None) -> Measured:
    """The share of names that differ; `tolerance` is None in float32, which may differ where it does itself.

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
    one = 1 / max(count, 1) if telling * count >= OF_EACH else 0.0  # where the rarer names are as few, none is spare
    return Measured("agreement", wrong, max(min(1 - AGREEMENT, telling), one), worst, why=lost_names(values, y))


def own_share(wanted: Wanted) -> float:
    """Of names, the share that may differ in float32 as they do there anyway."""
    return MULTIPLE * float(np.fmax(wanted.own_errors, wanted.moved).mean())


def is_offset(wanted: np.ndarray, y: np.ndarray) -> bool:
    """Whether whole numbers of most images are off by the same; rounding goes either way, where a choice is near it."""
    if len(y) < FEW or not all((w == np.rint(w)).all() for w in wanted):
        return False
    with np.errstate(all="ignore"):
        off = np.rint(y.astype(np.float64)) - wanted
    usual = np.median(off, axis=0)
    found = (usual != 0) & ((off == usual).mean(axis=0) >= OF_EACH)
    others, n = off[:, ~found], len(y)
    share = np.unique(others[others != 0], return_counts=True)[1].max(initial=0) / max(others.size, 1)
    most = range(math.ceil(OF_EACH * n), n + 1)
    by_chance = found.size * sum(math.comb(n, k) * share**k * (1 - share) ** (n - k) for k in most)
    return bool(found.sum() > by_chance + BEYOND * math.sqrt(by_chance))


def rounded_otherwise(wanted: Wanted, y: np.ndarray) -> str:
    """What is too many of the numbers that are rounded another way than in float64; "" where it is not, in float32.

    By the mean square of the steps that they are apart: of those one step apart it is their share.
    """
    with np.errstate(all="ignore"):
        squares = wanted.by_part(np.square(y.astype(np.float64) - wanted.values), np.mean) / wanted.scales**2
        unit = float(np.mean(np.square(wanted.step / wanted.scales)))
    share = float(squares.mean()) / unit
    allowed = max(MULTIPLE * wanted.own_rms**2 / unit, min(TIES, (1 - OF_EACH) / unit), 2 / max(y.size, 1))
    if share <= allowed:
        return ""
    return f"{share:.2%} of the numbers are rounded otherwise, at most {allowed:.2%} may"
