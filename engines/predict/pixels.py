"""Pixels of an image → the numbers of an input.

    x = (v·scale − mean) / std, in float64, rounded once to the input's type; v a whole number from 0 to 255

With antialias the pixels are Pillow's own `Image.resize` of 8-bit images, as torchvision and timm resize them: columns
first, but rows where many more of those go, as Pillow does from version 13 on; any version gives the same. Without,
they are sums of the nearest 2×2 or 4×4 pixels (bilinear, bicubic with a = −¾) around (i + ½)·old / new − ½, the border
repeated, rounded once: what PyTorch's `interpolate(align_corners=False)` and OpenCV have. Nearest is the pixel
⌊(2i + 1)·old / 2·new⌋, PyTorch's `nearest-exact`.
"""

import numpy as np
from PIL import Image

from plainconv.exporter.bundle import Preprocessing

from ..runner import Array, dtype_of
from .geometry import Geometry, Size, places_of

_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
_SHADES = 256
_A = -0.75


def resized(image: Image.Image, size: Size, interpolation: str, antialias: bool) -> Image.Image:
    """`image`, of mode RGB or L, in that height and width."""
    height, width = size
    if image.size == (width, height):
        return image
    if interpolation == "nearest":
        rows, columns = (
            (2 * np.arange(new) + 1) * old // (2 * new) for old, new in zip(image.size[::-1], size, strict=True)
        )
        return Image.fromarray(np.asarray(image)[rows][:, columns])
    if antialias:
        rows_first = height < image.height and image.height - height > 2 * (image.width - width)
        between = (image.width, height) if rows_first else (width, image.height)
        return image.resize(between, _FILTERS[interpolation]).resize((width, height), _FILTERS[interpolation])
    pixels = np.asarray(image, np.float64)
    for axis, side in enumerate((height, width)):
        index, weight = _taps(pixels.shape[axis], side, interpolation)
        shape = (-1,) + (1,) * (pixels.ndim - 1 - axis)
        taken = [np.take(pixels, i, axis) * w.reshape(shape) for i, w in zip(index, weight, strict=True)]
        pixels = np.sum(taken, axis=0)
    return Image.fromarray(np.floor(np.clip(pixels, 0, 255) + 0.5).astype(np.uint8))


def input_of(image: Image.Image, wanted: Preprocessing, where: Geometry) -> Array:
    """`image`, of mode RGB or L, as the rows of one input, one a crop, in the layout and type of `wanted`."""
    if wanted.resize is not None:
        image = resized(image, where.resized, wanted.resize.interpolation, wanted.resize.antialias)
    x = np.stack(
        [
            _crop(image, wanted, shift, where.input)[..., :: -1 if is_mirrored else 1]
            for shift, is_mirrored in places_of(wanted, where)
        ]
    )
    return np.ascontiguousarray(x if wanted.layout == "nchw" else x.transpose(0, 2, 3, 1))


def _crop(image: Image.Image, wanted: Preprocessing, shift: Size, size: Size) -> Array:
    """[channels, height, width] of the image that was resized."""
    (top, left), (height, width) = shift, size
    cut = (
        max(0, -left),
        max(0, -top),
        max(0, -left) + min(width, image.width),
        max(0, -top) + min(height, image.height),
    )
    if cut != (0, 0, *image.size):
        image = image.crop(cut)
    pixels = np.asarray(image)
    pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
    pixels = pixels[:, :, ::-1] if wanted.color == "bgr" else pixels
    channels, dtype = pixels.shape[2], dtype_of(wanted.type)
    x = np.empty((channels, height, width), dtype)
    rows, columns = (slice(max(0, at), max(0, at) + size) for at, size in zip((top, left), pixels.shape, strict=False))
    for c in range(channels):
        table = _table(wanted, c, dtype)
        if wanted.letterbox is not None:
            x[c] = _number(wanted, c, np.array(wanted.letterbox.value[c]), dtype)
        x[c, rows, columns] = table[pixels[:, :, c]]
    return x


def _table(wanted: Preprocessing, channel: int, dtype: "np.dtype[np.generic]") -> Array:
    return _number(wanted, channel, np.arange(_SHADES, dtype=np.float64), dtype)


def _number(wanted: Preprocessing, channel: int, shades: Array, dtype: "np.dtype[np.generic]") -> Array:
    x = (shades * wanted.scale - wanted.mean[channel]) / wanted.std[channel]
    return np.asarray(np.floor(x + 0.5) if wanted.type == "uint8" else x).astype(dtype)


def _taps(old: int, new: int, interpolation: str) -> tuple[list[Array], list[Array]]:
    """For each tap the source's index and the weight at each of `new` places."""
    at = (np.arange(new) + 0.5) * (old / new) - 0.5
    first = np.floor(at)
    t = at - first
    if interpolation == "bilinear":
        offsets, weights = (0, 1), [1 - t, t]
    else:
        offsets = (-1, 0, 1, 2)  # type: ignore[assignment]
        near = [((_A + 2) * d - (_A + 3)) * d * d + 1 for d in (t, 1 - t)]
        far = [((_A * d - 5 * _A) * d + 8 * _A) * d - 4 * _A for d in (t + 1, 2 - t)]
        weights = [far[0], near[0], near[1], far[1]]
    return [np.clip(first + each, 0, old - 1).astype(np.int64) for each in offsets], weights
