"""An image, however it is given, as upright 8-bit pixels of three channels or one. Pillow decodes it."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from plainconv.exporter.errors import ImageError
from plainconv.exporter.reading import read_at_most

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
MOST_PIXELS = 2**25 * 8 // 3
"""Of an image from a file: Pillow's own limit, beyond which it takes one for a bomb."""
MOST_FILE = 2**30
"""Bytes of a file: more than that many pixels take with nothing compressed."""
BYTES_A_PIXEL = 30
"""What decoding takes at most: the image (of WebP thrice), it upright, that on white, and as arrays."""
_ORIENTATION = 0x0112  # in the EXIF data
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
_MODES = {"gray": "L", "rgb": "RGB", "bgr": "RGB"}
_DEEP = 257  # of a 16-bit shade an 8-bit one


def opened(source: Any, most: int = MOST_PIXELS) -> Image.Image:
    """The image of a path, of a file's bytes, a Pillow image, or an array [H, W, 3] or [H, W] of uint8.

    Of a file no pixel is decoded yet. Raises ImageError, in one line, where it is none, or has more pixels than `most`.
    """
    if isinstance(source, np.ndarray):
        return _of_array(source)
    if isinstance(source, Image.Image):
        image = source
    elif isinstance(source, str | Path):
        try:
            data = read_at_most(Path(source), MOST_FILE)
        except OSError as error:
            raise ImageError(f"{source} cannot be read ({error.strerror}); wanted an image file") from None
        image = _of_bytes(data, str(source))
    elif isinstance(source, bytes | bytearray | memoryview):
        image = _of_bytes(source, "the file")
    else:
        kind = type(source).__name__
        raise ImageError(f"the image is a {kind}, wanted a path, bytes, a Pillow image or an array [H, W, 3] of uint8")
    if image.width * image.height > most:
        raise _too_many(most)
    return image


def upright(image: Image.Image, color: str) -> tuple[Image.Image, list[str]]:
    """`image` in mode RGB, or L where `color` is gray, as its EXIF data says to hold it; and in words what was done.

    What is transparent is white, 16-bit shades are scaled to 8. Raises ImageError where the file is damaged.
    """
    kind = "JPEG" if image.format == "MPO" else image.format or "image"  # of several JPEGs the first
    try:
        steps = [f"{kind} of {image.width}×{image.height}"]
        if (turn := _turn_of(image)) is not None:
            steps.append("turned upright")
            image = image.transpose(turn)
        return _plain(image, _MODES[color]), [*steps, color.upper() if color != "gray" else color]
    except Exception:  # whatever a decoder makes of damaged bytes
        raise ImageError(f"the {kind} file is damaged, or cut short; send the whole file") from None


def numbers_of(path: Path) -> np.ndarray[Any, Any]:
    """The numbers that a mask's file has for its pixels, [height, width]: a palette's indices, or shades of gray.

    Raises ImageError where it is none.
    """
    image = opened(path)
    if image.mode not in ("L", "P", "1") and not image.mode.startswith("I"):
        raise ImageError(f"{path} has pixels of mode {image.mode}, wanted one number each: a palette, or gray")
    try:
        return np.asarray(image).astype(np.int64)
    except Exception:  # whatever a decoder makes of damaged bytes
        raise ImageError(f"{path} is damaged, or cut short; give the whole file") from None


def _turn_of(image: Image.Image) -> Image.Transpose | None:
    """How it is to be turned; EXIF data that cannot be read says nothing."""
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # whatever a reader makes of damaged bytes
        return None


def _of_bytes(data: bytes | bytearray | memoryview, name: str) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_many(MOST_PIXELS) from None
    except Exception:
        raise ImageError(f"{name} is no image that can be read; give one of {', '.join(FORMATS)}") from None


def _of_array(array: np.ndarray[Any, Any]) -> Image.Image:
    fits = (
        array.dtype == np.uint8 and array.size and (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3)))
    )
    if not fits:
        found = f"{array.dtype.name} {list(array.shape)}"
        raise ImageError(f"the image is {found}, wanted uint8 [height, width, 3], RGB, or [height, width]")
    return Image.fromarray(np.ascontiguousarray(array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array))


def _plain(image: Image.Image, mode: str) -> Image.Image:
    """In 8 bits a channel, without alpha and palette."""
    if image.mode.startswith("I"):  # 16-bit shades, which older files of Pillow's hold in 32
        image = Image.fromarray(np.rint(np.clip(np.asarray(image), 0, 65535) / _DEEP).astype(np.uint8))
    elif image.mode == "F":
        image = Image.fromarray(np.rint(np.clip(np.asarray(image), 0, 255)).astype(np.uint8))
    if image.has_transparency_data:
        clear = image if image.mode == "RGBA" else image.convert("RGBA")
        image = Image.new("RGB", image.size, "white")
        image.paste(clear, mask=clear.getchannel("A"))
    image.load()
    return image if image.mode == mode else image.convert(mode)


def _too_many(most: int) -> ImageError:
    return ImageError(f"the image has more than {most} pixels; give a smaller one", is_large=True)
