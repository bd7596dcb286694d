"""One output in float64, and the scales on which a step's error in it is measured.

The spread of an output is the RMS over elements of the standard deviation of y64 over the random images (the user's
own, if there are at least two): an output that hardly depends on its input has a small one, and no tolerance in
absolute terms would notice that it is wrong. Where the indices along some axis have spreads that differ by `DIFFER` and
more, as boxes beside scores have, each index is a part with a spread of its own.

An edge may move a part further than that (twice the contrast moves a ReLU network's output by twice as much), and its
rounding errors grow alike: its scale is the RMS of y64 − mean(y64) where that is larger.

Probabilities, numbers from 0 to 1, come out of sums with numbers near 1: a runtime may compute σ(x) as ½ + r(x), and is
off by the rounding of ½ however small σ is. On images that show a trained detector nothing all its scores are as small
as that. So a part of them is measured as if it moved by `LEAST_SHARE` at least.

Numbers that are rounded, to grey levels or counts, are numbers all the same, `step` apart: a number halfway between two
steps may be rounded either way. Names, as those of classes, and what has two values alone are the same or are not.
"""

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from .inputs import EDGES, HOT, ZEROS
from .rounded import is_whole, step_of

DIFFER = 4.0
"""How far the spreads along an axis are apart before its indices are parts of the output."""
ENOUGH_SAMPLES = 12
"""Independent deviations that the spread of one index needs to be told from chance."""
CONSTANT, NOTHING = 1e-3, 1e-7
"""Of its own size, and of the largest part's: a part that moves by less is measured as if it moved by that."""
LEAST_SHARE = 2.0**-14
NORMAL_TO_EVEN = 3**0.5
"""A rounding is even in ±u, of a standard deviation of u/√3; a normal draw has u. Those of flat images add up."""
JUMP = 4.0
"""How many times as far off as in the median draw of roundings an output is where a decision is turned over."""
FEW_VALUES = 8
"""Numbers of which two values alone are no chance."""
MOST_SLICES = 512
"""Indices along an axis up to which each of them is looked at, besides those of the parts."""


@dataclass(frozen=True)
class Wanted:
    """What a step should give: [images, …] in float64, or integers; K parts along `axis`, or one where it is None.

    `spreads` [K] and `scales` [images, K] are in the output's units, `own_errors` [images, K] the largest of the
    network itself in its own type, in units of the scale; of integers, [images, 1], the share that differs. The spread
    of names is the share that differs from one image to the next. `bits` says of floats that they are names, as 0 and 1
    alone are. `step` is that of rounded numbers, 0 of others: their errors in float32 are those beyond it. `places` are
    axes along which places lie. `own_rms` is the root mean square of these errors. `moved` [images, K] are what they
    come to by further draws of the roundings, `jumps` [images] those that few of these draws have; 0 where there are
    none. `slices` gives for each further axis the spread at each index, in units of the parts' own.
    """

    values: np.ndarray
    axis: int | None
    spreads: np.ndarray
    scales: np.ndarray
    own_errors: np.ndarray
    own_rms: float
    moved: np.ndarray
    jumps: np.ndarray
    slices: tuple[np.ndarray, ...]
    bits: bool = False
    step: float = 0.0
    places: tuple[int, ...] = ()

    @property
    def is_float(self) -> bool:
        """Whether it is judged by distance; else by agreement."""
        return self.step > 0 or (self.values.dtype.kind == "f" and not self.bits)

    @property
    def spread(self) -> float:
        """Of the output as a whole."""
        return float(np.sqrt(np.mean(self.spreads**2)))

    def scale_of(self, image: int) -> np.ndarray:
        """The scale of each part on one image, to divide that image's output by."""
        return self.along(self.scales[image])

    def along(self, parts: np.ndarray) -> np.ndarray:
        """Numbers of the parts [K], in the shape of one image's output but for 1 on all other axes."""
        shape = [1] * (self.values.ndim - 1)
        if self.axis is not None:
            shape[self.axis - 1] = len(parts)
        return parts.reshape(shape)

    def off(self, y: np.ndarray, image: int | slice = slice(None)) -> np.ndarray:
        """|y − y64| of all images or one, from where rounding either way leaves it: the same, or a step on."""
        found: np.ndarray = np.abs(y.astype(np.float64) - self.values[image])
        return np.where(found > self.step / 2, np.abs(found - self.step), found) if self.step else found

    def peaks(self) -> np.ndarray:
        """max |y| of each image and part: [images, K]."""
        return self.by_part(np.abs(self.values.astype(np.float64, copy=False)), np.max)

    def are_shares(self) -> np.ndarray:
        """Which parts hold probabilities, of which at least one is not next to nothing: [K]."""
        if not self.values.size:
            return np.zeros(len(self.spreads), bool)
        low, high = self.by_part(self.values, np.min).min(axis=0), self.by_part(self.values, np.max).max(axis=0)
        shares: np.ndarray = (low >= 0) & (high <= 1)
        shares &= np.max(high[shares], initial=0.0) >= LEAST_SHARE
        return shares

    def by_part(self, y: np.ndarray, reduce: object) -> np.ndarray:
        """`reduce` (np.max, np.mean) of an array like `values` over all but images and parts: [images, K]."""
        moved = y if self.axis is None else np.moveaxis(y, self.axis, 1)
        parts = 1 if self.axis is None else y.shape[self.axis]
        if not y.size:
            return np.zeros((len(y), parts))
        result: np.ndarray = reduce(moved.reshape(len(y), parts, -1), axis=2)  # type: ignore[operator]
        return result

    def rows(self, rows: np.ndarray) -> "Wanted":
        """The same on some of the images."""
        return dataclasses.replace(
            self,
            values=self.values[rows],
            scales=self.scales[rows],
            own_errors=self.own_errors[rows],
            moved=self.moved[rows],
            jumps=self.jumps[rows],
        )


def wanted_output(
    y: np.ndarray,
    own: list[np.ndarray],
    kinds: tuple[str, ...],
    spread_of: np.ndarray,
    *,
    moved: Sequence[np.ndarray] = (),
    coarser: float = 1.0,
    places: Collection[int] = (),
    numbers: bool | None = None,
) -> Wanted:
    """The facts of one output.

    Args:
        y: in float64, [images, …].
        own: the same by the network in its own type; where there are several, by each of the runtimes that count.
        kinds: of the images; of other length where the output does not keep the images apart.
        spread_of: the images that set the spread.
        moved: as `own`, by the network with every value rounded `coarser` times as coarsely, a draw each.
        coarser: by which errors of `moved` are divided; not where few draws have them: a decision that is turned over.
        places: axes, that of the images being 0, along which there are no parts.
        numbers: whether they are, or else names; by default floats are.

    """
    keeps_apart = len(y) == len(kinds)
    flat = np.isin(kinds, (ZEROS, HOT)) if keeps_apart else np.zeros(len(y), bool)
    rows = spread_of if keeps_apart else np.arange(len(y))
    is_float, step = y.dtype.kind == "f", step_of(y[rows])
    bits = is_float and (_are_two(y) or (numbers is False and is_whole(y)))
    if bits or not y.size or not (is_float or (numbers and step)):
        coarse = _shares_that_differ(y, moved) * ~flat[:, None] / coarser  # of equals on a flat image any is chosen
        return dataclasses.replace(_of_integers(y, own, rows), moved=coarse, bits=bits)
    as_given = y
    with np.errstate(all="ignore"):
        y = y.astype(np.float64, copy=False)
        variance = np.var(y[rows], axis=0, ddof=1) if len(rows) > 1 else np.zeros(y.shape[1:])
        axis = _parts_axis(variance, len(rows), places)
        parts = 1 if axis is None else y.shape[axis]
        none = np.zeros((len(y), parts))
        one = Wanted(
            y, axis, np.zeros(parts), none, none, 0.0, none, none[:, 0], (), step=step, places=tuple(sorted(places))
        )
        spreads = np.sqrt(one.by_part(variance[None], np.mean)[0])
        floors = np.sqrt(one.by_part(y**2, np.mean).max(axis=0))
        still = CONSTANT * floors
        if 0 < float(np.mean(spreads**2)) < float(np.mean(still**2)):  # the output as a whole: nothing hides that
            still = np.zeros_like(still)
        moving = np.maximum(spreads, np.maximum(still, NOTHING * np.max(floors, initial=0.0)))
        moving[one.are_shares()] = np.maximum(moving[one.are_shares()], LEAST_SHARE)
        moving[moving == 0] = 1.0  # of nothing but zeros
        scales = np.tile(moving, (len(y), 1))
        edges = np.isin(kinds, EDGES) if keeps_apart else np.zeros(len(y), bool)
        mean = y[rows].mean(axis=0) if len(rows) else 0.0
        away = np.sqrt(one.by_part((y[edges] - mean) ** 2, np.mean)) if edges.any() else scales[:0]
        scales[edges] = np.maximum(scales[edges], away)
        one = dataclasses.replace(one, spreads=spreads, scales=scales)
        errors, squares = none, 0.0
        if moved:
            draws = np.array([_largest(one, each) for each in moved])
            most, usual = draws.max(axis=0), np.median(draws, axis=0)
            jumps = most > JUMP * usual
            shaken = np.where(jumps, usual, most) / (coarser * np.where(flat, 1.0, NORMAL_TO_EVEN)[:, None])
            one = dataclasses.replace(one, moved=shaken, jumps=np.where(jumps, most, 0.0).max(axis=1))
        for each in own:
            off = np.abs(each.astype(np.float64) - y)
            errors = np.fmax(errors, _largest(one, each))
            if step:  # where most are a step off, a few are two
                errors = np.fmax(errors, (one.by_part(off, np.mean).mean(axis=0) - step / 2) / scales)
            squares = max(squares, float(np.mean(one.by_part(off**2, np.mean) / scales**2)))
        relative = variance / one.along(np.maximum(moving, np.finfo(np.float64).tiny)) ** 2
    slices = []
    for k in range(relative.ndim):
        others = tuple(i for i in range(relative.ndim) if i != k)
        found = np.sqrt(relative.mean(axis=others))
        slices.append(found if len(found) <= MOST_SLICES or k + 1 == axis else found[:0])
    return dataclasses.replace(
        one,
        values=y if is_float else as_given,
        own_errors=errors,
        own_rms=float(np.sqrt(squares)),
        slices=tuple(slices),
    )


def _largest(wanted: Wanted, y: np.ndarray) -> np.ndarray:
    """The largest error of each image and part, in units of its scale; infinite where it is no number."""
    peaks = wanted.by_part(wanted.off(y), np.max) / wanted.scales
    found: np.ndarray = np.where(np.isnan(peaks), np.inf, peaks)
    return found


def from_image_to_image(y: np.ndarray) -> np.ndarray:
    """The share of each image that differs from that of another, the mean of three: [images]."""
    others = [np.roll(y, k, axis=0) for k in range(1, min(len(y), 4))]
    found: np.ndarray = np.mean([(y != other).reshape(len(y), -1).mean(axis=1) for other in others], axis=0)
    return found if others else np.zeros(len(y))


def _are_two(y: np.ndarray) -> bool:
    """Whether there are two numbers alone that every type holds: 0 and 1, or others that come again and again."""
    if not y.size or not is_whole(y):
        return False
    low, high = y.min(), y.max()
    ends = np.count_nonzero(y == low), np.count_nonzero(y == high)
    often = (low, high) == (0, 1) or (y.size >= FEW_VALUES and min(ends) > 1)
    return bool(low < high and sum(ends) == y.size and often)


def _of_integers(y: np.ndarray, own: list[np.ndarray], rows: np.ndarray) -> Wanted:
    differs = float(from_image_to_image(y[rows]).mean()) if len(rows) > 1 and y.size else 0.0
    errors, ones = _shares_that_differ(y, own), np.ones((len(y), 1))
    return Wanted(y, None, np.array([differs]), ones, errors, float(errors.mean()), 0 * ones, 0 * ones[:, 0], ())


def _shares_that_differ(y: np.ndarray, each: Sequence[np.ndarray]) -> np.ndarray:
    """The most in any of `each`: [images, 1]."""
    found = [(other != y).reshape(len(y), -1).mean(axis=1) for other in each if other.shape == y.shape and y.size]
    most: np.ndarray = np.max([np.zeros(len(y)), *found], axis=0)[:, None]
    return most


def _parts_axis(variance: np.ndarray, images: int, places: Collection[int]) -> int | None:
    """The axis, counted with that of the images, along which the spreads differ most; None where they hardly do.

    None of `places`. Of a map only the channels', the first or, where its spreads differ far more, the last: rows and
    columns of one scene differ by chance.
    """
    best, found = DIFFER, None
    is_map = variance.ndim > 2
    for k, size in enumerate(variance.shape):
        if k + 1 in places or (is_map and (0 < k < variance.ndim - 1 or variance.shape[0] == 1)):
            continue
        if size < 2 or (images - 1) * (variance.size // size) < ENOUGH_SAMPLES:
            continue
        along = np.sqrt(variance.mean(axis=tuple(i for i in range(variance.ndim) if i != k)))
        moving = along[along > CONSTANT * np.median(along)]
        ratio = float(moving.max() / moving.min()) if len(moving) else 1.0
        ratio /= DIFFER if is_map and k else 1.0
        if ratio > best:
            best, found = ratio, k + 1
    return found
