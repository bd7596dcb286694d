"""Which axes of an output count places of the input, or ranks of a list: these are no parts of it.

A detector's boxes and scores live on different scales, whichever place they are of. That one place, column or rank
moves less than another is a matter of the images at hand, and says nothing of what an error there is worth.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from .order import list_of, stack_of

STRIDES = tuple(2**k for k in range(8))
COARSEST = 32
"""The stride that the first level of a detector has at most; of coarser ones alone there are as few as of classes."""
MOST_ANCHORS = 9
"""Of one place."""
FEWEST = 8
"""Places along an axis; as few as a matrix or a box has numbers tell nothing."""
Shape = Sequence[int]


def places_of(outputs: Sequence[np.ndarray], inputs: Iterable[Shape]) -> list[frozenset[int]]:
    """For each output its axes of places or ranks, that of the images being 0; `inputs` are the shapes of one image."""
    images = list(inputs)
    ranked, stack = list_of(outputs)[0], stack_of(outputs)
    return [
        frozenset({1}) if k in ranked or k == stack else _places(y.shape[1:], images) for k, y in enumerate(outputs)
    ]


def _places(shape: Shape, images: Sequence[Shape]) -> frozenset[int]:
    for axis in range(len(shape) - 1, 0, -1):
        if any(_is_map(shape[axis - 1 : axis + 1], sides) for sides in map(_sides, images) if sides is not None):
            return frozenset({axis, axis + 1})
    if len(shape) != 2:
        return frozenset()
    follow = {axis for axis, size in enumerate(shape, start=1) if any(_follows(size, each) for each in images)}
    return frozenset(follow) if len(follow) == 1 else frozenset()  # else one of the two does so by chance


def _sides(image: Shape) -> tuple[int, int] | None:
    """Height and width of an image with its channels first or last, or without."""
    if len(image) == 2:
        return image[0], image[1]
    if len(image) != 3:
        return None
    return (image[1], image[2]) if image[0] <= image[2] else (image[0], image[1])


def _is_map(shape: Shape, sides: tuple[int, int]) -> bool:
    """Whether the axes are those of the image, divided by the same stride, or multiplied."""
    if min(shape) < FEWEST:
        return False
    scaled = [tuple(-(-side // s) for side in sides) for s in STRIDES] + [
        tuple(side * s for side in sides) for s in STRIDES
    ]
    return tuple(shape) in scaled


def _follows(size: int, image: Shape) -> bool:
    """Whether there is one of each of the image's places: k·Σ ⌈H/s⌉·⌈W/s⌉ over successive strides, or its tokens."""
    if size < FEWEST:
        return False
    sides = _sides(image)
    if sides is None:
        return len(image) == 1 and size == image[0]
    cells = [-(-sides[0] // s) * -(-sides[1] // s) for s in STRIDES]
    firsts = range(STRIDES.index(COARSEST) + 1)
    sums = {sum(cells[i:j]) for i in firsts for j in range(i + 1, len(cells) + 1)}
    return any(size % total == 0 and size // total <= MOST_ANCHORS for total in sums if total >= FEWEST)
