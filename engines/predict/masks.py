"""Which pixels of an image something is, of what a network gives for its own: masks of boxes, and their JSON."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from plainconv.exporter.errors import EngineError

from ..runner import Array
from .geometry import Geometry

NO_CLASS = -1


@dataclass(frozen=True)
class Pasted:
    """Which pixels of an image of `size` a box holds, of the numbers that a network gives for it.

    Real numbers [h, w] cover the box: bilinear between their centres, 0 around them, from ½ on they count. Whole ones
    [h, w] cover the input, and count where they are not 0.
    """

    numbers: Array
    xyxy: tuple[float, float, float, float]
    where: Geometry

    def mask(self) -> Array:
        """Bool [height, width]."""
        if self.numbers.dtype.kind in "biu":
            at = [places_along(self.where, axis, self.numbers.shape[axis]) for axis in (0, 1)]
            inside = (at[0] >= 0)[:, None] & (at[1] >= 0)[None, :]
            covered: Array = inside & (self.numbers[np.ix_(at[0].clip(0), at[1].clip(0))] != 0)
            return covered
        height, width = self.where.image
        mask = np.zeros((height, width), bool)
        left, top, right, bottom = self.xyxy
        values = self.numbers.astype(np.float64)
        rows, (above, upper), (below, lower) = _between(top, bottom, height, values.shape[0])
        columns, (before, near), (behind, far) = _between(left, right, width, values.shape[1])
        padded = np.pad(values, 1)  # so that what lies beyond is 0
        across = padded[:, before] * near + padded[:, behind] * far
        mask[rows, columns] = across[above] * upper[:, None] + across[below] * lower[:, None] >= 0.5
        return mask


def _between(
    low: float, high: float, pixels: int, cells: int
) -> tuple[slice, tuple[Array, Array], tuple[Array, Array]]:
    """Of the pixels within a cell of [low, high]: the two cells, of those with one more around, and their weights."""
    if not high > low:
        return slice(0, 0), (np.zeros(0, np.int64), np.zeros(0)), (np.zeros(0, np.int64), np.zeros(0))
    at = (np.arange(pixels) + 0.5 - low) / (high - low) * cells - 0.5
    found = np.flatnonzero((at > -1) & (at < cells))
    at = at[found]
    first = np.floor(at)
    rows = slice(int(found[0]), int(found[-1]) + 1) if len(found) else slice(0, 0)
    cell = first.astype(np.int64) + 1
    return rows, (cell, 1 - (at - first)), (cell + 1, at - first)


def places_along(where: Geometry, axis: int, size: int) -> Array:
    """Of each of the image's rows or columns its place along an output of that size; −1 where the input lacks it."""
    centres = (np.arange(where.image[axis]) + 0.5) * (where.resized[axis] / where.image[axis]) + where.shift[axis]
    places = np.floor(centres * (size / where.input[axis])).astype(np.int64)
    return np.where((centres >= 0) & (centres < where.input[axis]), places.clip(0, size - 1), NO_CLASS)


def runs_of(mask: Array) -> dict[str, Any]:
    """A mask as COCO has it, runs of 0 and 1 in turn, column by column."""
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff([0, *edges, flat.size]).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if flat[0] else counts}


def check_finite(values: Array, what: str) -> None:
    """Raise EngineError for what is no number."""
    if not np.isfinite(values.astype(np.float64, copy=False)).all():
        raise EngineError(
            f"the model's {what} have values that are no numbers; check its weights, or another precision"
        )
