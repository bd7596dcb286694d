"""An image file -> the input of a classifier, as its bundle says; and a row of its output -> the top classes.

    pixel = low + (high − low)·v/255,  x = (pixel − mean) / std,  computed in float64 and rounded once

An image of the input's size is taken as it is. Any other is cut to the input's proportions around its middle and scaled
in floating point: bilinear, with a filter as wide as the step where it becomes smaller. The only file that imports
Pillow.
"""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from plainconv.exporter.bundle import TensorSpec

from ...runner import Array, Profiles, dtype_of
from ..refusals import BadRequestError, FailedError, TooLargeError, shown

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
MOST_PIXELS = 2**25
BYTES_A_PIXEL = 30
"""What decoding takes at most: the image (of WebP thrice), its middle, that on white, one channel of it in floats."""
TOP = 5
_CHANNELS = {"gray": 1, "RGB": 3}
_FLOATS = ("float16", "bfloat16", "float32", "float64")
_OPEN_SIZE = 224
_ORIENTATION = 0x0112  # in the EXIF data
_NEEDED = "the form needs a bundle that says how an image becomes its input"


@dataclass(frozen=True)
class ImageInput:
    """The one input of an image classifier: [rows, channels, height, width], and how pixels become numbers in it.

    `output` is the output whose rows are scores of classes.
    """

    name: str
    dtype: str
    rows: int
    height: int
    width: int
    color: str
    low: float
    high: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    output: str

    def __str__(self) -> str:
        mean, std = (", ".join(f"{each:g}" for each in values) for values in (self.mean, self.std))
        normalized = f"(pixel − {mean}) / {std}" if len(self.mean) == 1 else f"(pixel − [{mean}]) / [{std}]"
        size = f"{self.width}×{self.height}"
        return f"{self.color} images of {size}, {normalized} with pixels {self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Top:
    """One class of an answer: its number, what the network gave for it, and its share of all classes."""

    number: int
    score: float
    share: float


def image_input(
    preprocessing: Mapping[str, Any] | None,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    profiles: Profiles = (),
) -> ImageInput:
    """What a model takes that classifies images. An open height or width is what an engine is tuned for, else 224.

    Raises BadRequestError, in one sentence, where the bundle does not describe an image classifier.
    """
    if not preprocessing:
        raise BadRequestError(f"the bundle has no preprocessing; {_NEEDED}")
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].dtype not in _FLOATS:
        found, axes = ", ".join(map(str, inputs)), "[batch, channels, height, width]"
        raise BadRequestError(f"the model takes {found}, wanted one floating-point input {axes}")
    spec = inputs[0]
    output = next((each for each in outputs if _is_scores(each)), None)
    if output is None:
        raise BadRequestError(f"the model gives {', '.join(map(str, outputs))}, wanted an output [batch, classes]")
    layout = preprocessing.get("layout")
    if layout not in (None, "NCHW"):
        raise BadRequestError(f"the bundle's preprocessing has layout {shown(layout)}, wanted 'NCHW'")
    color, channels = _color(preprocessing.get("color"), spec)
    low, high = _numbers(preprocessing, "range", 2, (0.0, 1.0))
    std = _numbers(preprocessing, "std", channels, (1.0,) * channels)
    if min(std) <= 0:
        raise BadRequestError(f"the bundle's preprocessing has std {shown(list(std))}, wanted positive numbers")
    tuned = next((profile[spec.name].opt for profile in profiles if spec.name in profile), (1, 0, 0, 0))
    least = next((profile[spec.name].min[0] for profile in profiles if spec.name in profile), 1)
    rows, _, height, width = spec.shape
    return ImageInput(
        spec.name,
        spec.dtype,
        rows if isinstance(rows, int) else least,
        height if isinstance(height, int) else tuned[2] or _OPEN_SIZE,
        width if isinstance(width, int) else tuned[3] or _OPEN_SIZE,
        color,
        low,
        high,
        _numbers(preprocessing, "mean", channels, (0.0,) * channels),
        std,
        output.name,
    )


def open_image(data: bytes | memoryview) -> Image.Image:
    """The image in a file, of which no pixel is decoded yet.

    Raises BadRequestError where it is no image of `FORMATS`, TooLargeError where it has too many pixels.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_many() from None
    except Exception:
        raise BadRequestError(f"the file is no image that can be read; send one of {', '.join(FORMATS)}") from None
    if image.width * image.height > MOST_PIXELS:
        raise _too_many()
    return image


def prepare(image: Image.Image, wanted: ImageInput) -> tuple[Array, str]:
    """The input that `image` makes, [rows, channels, height, width] of the same image, and in words how it was made.

    Raises BadRequestError where the file is damaged.
    """
    kind, size = image.format, f"{image.width}×{image.height}"
    try:
        channels, steps = _fitted(image, wanted)
    except Exception:  # whatever a decoder makes of damaged bytes
        raise BadRequestError(f"the {kind} file is damaged, or cut short; send the whole file") from None
    values = np.stack([np.asarray(channel, np.float64) for channel in channels])
    pixels = wanted.low + (wanted.high - wanted.low) * (values / 255)
    mean, std = (np.array(each)[:, None, None] for each in (wanted.mean, wanted.std))
    x = ((pixels - mean) / std).astype(dtype_of(wanted.dtype))
    return np.ascontiguousarray(np.broadcast_to(x, (wanted.rows, *x.shape))), ", ".join([f"{kind} of {size}", *steps])


def top_classes(output: Array) -> tuple[list[Top], bool]:
    """The highest of a [batch, classes] output's first row, and whether it is probabilities; else shares are softmax.

    Raises BadRequestError for fewer than two classes, FailedError for what is no number.
    """
    scores = output[0].astype(np.float64)
    if scores.size < 2:
        raise BadRequestError("the model's output has one number an image, wanted two classes or more")
    if not np.isfinite(scores).all():
        raise FailedError("the model's output has values that are no numbers")
    is_probability = bool(scores.min() >= 0 and abs(scores.sum() - 1) < 1e-3)
    powers = np.exp(scores - scores.max())
    shares = scores if is_probability else powers / powers.sum()
    order = np.argsort(-scores, kind="stable")[:TOP]
    return [Top(int(i), float(scores[i]), float(shares[i])) for i in order], is_probability


def _fitted(image: Image.Image, wanted: ImageInput) -> tuple[list[Any], list[str]]:
    """The channels, 0 to 255 in floating point, in the input's size; and in words what was done to them."""
    steps = ["turned upright"] if image.getexif().get(_ORIENTATION, 1) != 1 else []
    ImageOps.exif_transpose(image, in_place=True)
    cut, size = _middle(image.width, image.height, wanted), (wanted.width, wanted.height)
    if cut != (0, 0, *image.size):
        image = image.crop(cut)
        steps.append(f"its middle {image.width}×{image.height}")
    if image.size != size:
        steps.append(f"scaled to {wanted.width}×{wanted.height} (bilinear)")
    bands = _bands(image, wanted.color)
    channels = [band if band.size == size else band.resize(size, Image.Resampling.BILINEAR) for band in bands]
    return channels, [*steps, wanted.color]


def _bands(image: Image.Image, color: str) -> Any:
    """Each channel as floats from 0 to 255; what is transparent is white."""
    if image.mode.startswith("I;16"):
        gray = Image.fromarray((np.asarray(image, np.float64) / 257).astype(np.float32))
        yield from [gray] * _CHANNELS[color]
        return
    if image.has_transparency_data:
        clear = image if image.mode == "RGBA" else image.convert("RGBA")
        image = Image.new("RGB", image.size, "white")
        image.paste(clear, mask=clear.getchannel("A"))
        del clear
    mode = "RGB" if color == "RGB" else "L"
    plain = image if image.mode == mode else image.convert(mode)
    for index in range(_CHANNELS[color]):
        yield plain.getchannel(index).convert("F")


def _middle(width: int, height: int, wanted: ImageInput) -> tuple[int, int, int, int]:
    """The largest box of the input's proportions in the middle of an image: left, top, right, bottom."""
    across = min(width, max(1, round(height * wanted.width / wanted.height)))
    down = min(height, max(1, round(width * wanted.height / wanted.width)))
    left, top = (width - across) // 2, (height - down) // 2
    return left, top, left + across, top + down


def _is_scores(spec: TensorSpec) -> bool:
    return len(spec.shape) == 2 and spec.shape[1] != 1 and spec.dtype in _FLOATS


def _color(color: object, spec: TensorSpec) -> tuple[str, int]:
    """The color and how many channels it has. Raises BadRequestError where the input has others."""
    if color is None:
        color = next((name for name, count in _CHANNELS.items() if count == spec.shape[1]), None)
    if not isinstance(color, str) or color not in _CHANNELS:
        raise BadRequestError(f"the bundle's preprocessing has color {shown(color)}, wanted 'gray' or 'RGB'")
    count = _CHANNELS[color]
    if isinstance(spec.shape[1], int) and spec.shape[1] != count:
        raise BadRequestError(f"the bundle's preprocessing is {color}, its input is {spec}; {_NEEDED}")
    return color, count


def _numbers(section: Mapping[str, Any], key: str, count: int, default: tuple[float, ...]) -> tuple[float, ...]:
    """That member of the preprocessing. Raises BadRequestError where it is not as many finite numbers."""
    given = section.get(key)
    if given is None:
        return default
    is_numbers = isinstance(given, (list, tuple)) and len(given) == count
    if not is_numbers or not all(type(each) in (int, float) and math.isfinite(each) for each in given):
        wanted = f"wanted a list of numbers of length {count}"
        raise BadRequestError(f"the bundle's preprocessing has {key} {shown(given)}, {wanted}")
    return tuple(map(float, given))


def _too_many() -> TooLargeError:
    return TooLargeError(f"the image has more than the {MOST_PIXELS} pixels that this page takes; send a smaller one")
