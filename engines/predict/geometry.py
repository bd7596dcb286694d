"""Where the pixels of an image come to lie in an input, in whole pixels; and back."""

from collections.abc import Callable
from dataclasses import dataclass

from plainconv.exporter.bundle import Preprocessing, Resize
from plainconv.exporter.errors import ImageError

from ..runner import Array

Size = tuple[int, int]  # height, width


@dataclass(frozen=True)
class Geometry:
    """y_input = (y + ½)·resized / image + shift − ½ of each axis; a `shift` below 0 is a crop, above it a letterbox."""

    image: Size
    resized: Size
    shift: Size
    input: Size

    def to_image(self, boxes_N4: Array) -> Array:
        """x1 y1 x2 y2 in pixels of the input → of the image, within it."""
        (top, left), limits = self.shift, (self.image[1], self.image[0]) * 2
        scales = (self.image[1] / self.resized[1], self.image[0] / self.resized[0]) * 2
        mapped = (boxes_N4 - (left, top, left, top)) * scales
        clipped: Array = mapped.clip(0, limits)
        return clipped


def geometry_of(wanted: Preprocessing, image: Size, given: tuple[int | None, int | None] = (None, None)) -> Geometry:
    """For an image of that size, and an input whose sides are `given`, None where they are open.

    Raises ImageError where the image would have to have another size.
    """
    resized = image if wanted.resize is None else _resized(wanted.resize, image)
    shift, size = (0, 0), resized
    if wanted.letterbox is not None and wanted.resize is not None:
        stride, whole = wanted.letterbox.stride, wanted.resize.size
        size = (whole[0], whole[1]) if stride is None else _each(resized, lambda side: -(-side // stride) * stride)
        shift = (0, 0) if wanted.letterbox.place == "corner" else _each(_minus(size, resized), lambda gap: gap // 2)
    elif wanted.crop is not None:
        size = (wanted.crop[0], wanted.crop[1])
        if resized[0] < size[0] or resized[1] < size[1]:
            raise ImageError(f"the image is {_said(resized)}, its middle {_said(size)} is wanted; give a larger one")
        shift = _each(_minus(resized, size), lambda gap: -round(gap / 2))
    if any(side not in (None, own) for side, own in zip(given, size, strict=True)):
        sides = "×".join("any" if side is None else str(side) for side in reversed(given))
        raise ImageError(f"the image makes an input of {_said(size)}, the network takes {sides}; give one of that size")
    return Geometry(image, resized, shift, size)


def places_of(wanted: Preprocessing, where: Geometry) -> list[tuple[Size, bool]]:
    """The `shift` of each crop of an image, and whether it is mirrored.

    Of ten the middle, top left, top right, bottom left, bottom right, then the mirror images of these.
    """
    if wanted.crops == 1:
        return [(where.shift, False)]
    down, across = _minus(where.input, where.resized)
    shifts = [where.shift, (0, 0), (0, across), (down, 0), (down, across)]
    return [(shift, is_mirrored) for is_mirrored in (False, True) for shift in shifts]


def _resized(resize: Resize, image: Size) -> Size:
    (height, width), size = image, resize.size
    short, long = min(image), max(image)
    if resize.rule == "exact":
        return size[0], size[1]
    if resize.rule == "letterbox":
        if size[0] * width <= size[1] * height:
            return size[0], _rounded(width * size[0], height, size[1])
        return _rounded(height * size[1], width, size[0]), size[1]
    if resize.rule == "longest":
        sides = size[0], _rounded(short * size[0], long, size[0])
    else:
        sides = max(1, long * size[0] // short), size[0]
        if len(size) == 2 and sides[0] > size[1]:
            sides = size[1], max(1, short * size[1] // long)
    return sides if height >= width else (sides[1], sides[0])


def _rounded(over: int, under: int, most: int) -> int:
    """over / under, halves up, from 1 to `most`."""
    return min(most, max(1, (2 * over + under) // (2 * under)))


def _each(size: Size, function: Callable[[int], int]) -> Size:
    return function(size[0]), function(size[1])


def _minus(one: Size, other: Size) -> Size:
    return one[0] - other[0], one[1] - other[1]


def _said(size: Size) -> str:
    return f"{size[1]}×{size[0]}"
