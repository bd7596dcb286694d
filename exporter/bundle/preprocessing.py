"""How an image becomes a network's input, as data: a small closed vocabulary, which `exporter/BUNDLE.md` specifies.

image → upright → colour → resize → crop → letterbox → x = (v·scale − mean) / std, v from 0 to 255 → layout → type

Ten crops of an image, the middle, the four corners and their mirror images, are ten rows of a batch.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from .tensor import TensorSpec

VERSION, VERSION_OF_CROPS = 1, 2
TEN = 10
CHANNELS: Mapping[str, int] = {"rgb": 3, "bgr": 3, "gray": 1}
RULES = ("shortest", "longest", "exact", "letterbox")
INTERPOLATIONS = ("bilinear", "bicubic", "nearest")
PLACES = ("centre", "corner")
LAYOUTS = ("nchw", "nhwc")
TYPES = ("uint8", "float16", "bfloat16", "float32", "float64")
MOST_PIXELS = 2**15
"""Of one side of an image that is resized, cut or padded."""
_SIZES: Mapping[str, tuple[int, ...]] = {"shortest": (1, 2), "longest": (1,), "exact": (2,), "letterbox": (2,)}
_BYTE = 255


@dataclass(frozen=True)
class Resize:
    """To which size: [height, width], of `longest` [side], of `shortest` [side] or [side, most of the other].

    With `antialias` the filter is as wide as the step where an image becomes smaller.
    """

    rule: str
    size: tuple[int, ...]
    interpolation: str
    antialias: bool


@dataclass(frozen=True)
class Letterbox:
    """What goes around an image that was resized by the rule `letterbox`, whose size is the whole's.

    `value` is a pixel's, one number a channel. With `stride` only up to the next multiple of it.
    """

    value: tuple[float, ...]
    stride: int | None
    place: str


@dataclass(frozen=True)
class Preprocessing:
    """All of it; `mean`, `std` and the letterbox's value are in the order of `color`."""

    color: str
    resize: Resize | None
    crop: tuple[int, ...] | None
    letterbox: Letterbox | None
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    layout: str
    type: str
    crops: int = 1

    @property
    def shape(self) -> tuple[int | None, ...]:
        """Of the input without its batch, None for a side that depends on the image."""
        size: tuple[int | None, ...] = (None, None)
        if self.crop is not None:
            size = self.crop
        elif self.resize is not None and len(self.resize.size) == 2 and self.resize.rule != "shortest":
            size = self.resize.size if self.letterbox is None or self.letterbox.stride is None else size
        channels = CHANNELS[self.color]
        return (channels, *size) if self.layout == "nchw" else (*size, channels)

    def __str__(self) -> str:
        words = [self.color.upper() if self.color != "gray" else "gray"]
        if self.resize is not None:
            size = "×".join(map(str, reversed(self.resize.size)))
            edge = {"shortest": "shortest side to ", "longest": "longest side to "}.get(self.resize.rule, "")
            words.append(f"{edge}{size} ({self.resize.interpolation})")
        if self.crop is not None:
            words.append(
                f"{'the middle' if self.crops == 1 else f'{self.crops} crops of'} {self.crop[1]}×{self.crop[0]}"
            )
        if self.letterbox is not None:
            words.append("letterboxed")
        shade = {1.0: "v", 1 / _BYTE: f"v/{_BYTE}"}.get(self.scale, f"v·{self.scale:.6g}")
        mean, std = (", ".join(f"{each:g}" for each in values) for values in (self.mean, self.std))
        return ", ".join([*words, f"({shade} − [{mean}]) / [{std}]"])

    def as_json(self) -> dict[str, Any]:
        """As the manifest has it."""
        members = asdict(self)
        if self.crops == 1:
            del members["crops"]
        return {"version": VERSION if self.crops == 1 else VERSION_OF_CROPS, **members}


def preprocessing_of_json(data: Any) -> Preprocessing:
    """The record that a JSON object says, in which nothing may be missing, unknown or unlike the vocabulary.

    Raises ValueError, in one line, with the first thing that is.
    """
    version = data.get("version") if isinstance(data, dict) else None
    if type(version) is not int or version not in (VERSION, VERSION_OF_CROPS):
        raise ValueError(f"version is {_shown(version)}, wanted {VERSION} or {VERSION_OF_CROPS}")
    names = [each.name for each in fields(Preprocessing) if each.name != "crops" or version == VERSION_OF_CROPS]
    _keys(data, ("version", *names), "")
    color = _choice(data, "color", tuple(CHANNELS))
    channels = CHANNELS[color]
    found = Preprocessing(
        color,
        None if data["resize"] is None else _resize(data["resize"]),
        None if data["crop"] is None else _sizes(data, "crop", (2,)),
        None if data["letterbox"] is None else _letterbox(data["letterbox"], channels),
        _numbers([data["scale"]], "scale", 1)[0],
        _numbers(data["mean"], "mean", channels),
        _numbers(data["std"], "std", channels),
        _choice(data, "layout", LAYOUTS),
        _choice(data, "type", TYPES),
        TEN if version == VERSION_OF_CROPS else 1,
    )
    if version == VERSION_OF_CROPS and (type(data["crops"]) is not int or data["crops"] != TEN):
        raise ValueError(f"crops is {_shown(data['crops'])}, wanted {TEN}")
    if not found.scale > 0:
        raise ValueError(f"scale is {_shown(data['scale'])}, wanted a number above 0")
    if min(found.std) <= 0:
        raise ValueError(f"std is {_shown(data['std'])}, wanted numbers above 0")
    if (found.letterbox is not None) != (found.resize is not None and found.resize.rule == "letterbox"):
        raise ValueError("letterbox and the rule 'letterbox' of resize go together, wanted both or neither")
    if found.type == "uint8" and (found.scale, set(found.mean), set(found.std)) != (1, {0}, {1}):
        raise ValueError("type is 'uint8', wanted with it scale 1, mean 0 and std 1: pixels as they are")
    if found.crops != 1 and (found.crop is None or found.letterbox is not None):
        raise ValueError(f"crops is {found.crops}, wanted with it crop, their size, and no letterbox")
    return found


def misfit(wanted: Preprocessing, inputs: tuple[TensorSpec, ...]) -> str | None:
    """Why what it gives cannot go into a network of these inputs, in one line; None where it can."""
    found = ", ".join(map(str, inputs))
    sides = ", ".join("any" if side is None else str(side) for side in wanted.shape)
    said = f"preprocessing gives {wanted.type}[batch, {sides}], the network takes {found}"
    if len(inputs) != 1 or len(inputs[0].shape) != 4:
        return said
    is_any = wanted.resize is None and wanted.crop is None  # an image has to have the input's size itself
    pairs = zip(wanted.shape, inputs[0].shape[1:], strict=True)
    fits = all(isinstance(axis, str) or side == axis or (is_any and side is None) for side, axis in pairs)
    if not fits or wanted.type != inputs[0].dtype:
        return said
    batch = inputs[0].shape[0]
    if isinstance(batch, int) and wanted.crops > 1 and batch < wanted.crops:
        return f"preprocessing gives {wanted.crops} crops of an image, the network takes a batch of {batch}"
    return None


def _resize(data: Any) -> Resize:
    _keys(data, tuple(each.name for each in fields(Resize)), "resize.")
    rule = _choice(data, "rule", RULES, "resize.")
    if not isinstance(data["antialias"], bool):
        raise ValueError(f"resize.antialias is {_shown(data['antialias'])}, wanted true or false")
    size = _sizes(data, "size", _SIZES[rule], "resize.")
    return Resize(rule, size, _choice(data, "interpolation", INTERPOLATIONS, "resize."), data["antialias"])


def _letterbox(data: Any, channels: int) -> Letterbox:
    _keys(data, tuple(each.name for each in fields(Letterbox)), "letterbox.")
    value = _numbers(data["value"], "letterbox.value", channels)
    if not all(0 <= each <= _BYTE for each in value):
        raise ValueError(f"letterbox.value is {_shown(data['value'])}, wanted numbers from 0 to {_BYTE}")
    stride = data["stride"]
    if stride is not None:
        stride = _sizes({"stride": [stride]}, "stride", (1,), "letterbox.")[0]
    return Letterbox(value, stride, _choice(data, "place", PLACES, "letterbox."))


def _keys(data: Any, names: tuple[str, ...], where: str) -> None:
    if not isinstance(data, dict):
        raise ValueError(f"{where.rstrip('.')} is {_shown(data)}, wanted an object or null")
    for name in names:
        if name not in data:
            raise ValueError(f"{where}{name} is missing")
    for name in data:
        if name not in names:
            raise ValueError(f"{where}{name} is unknown, wanted {', '.join(names)}")


def _choice(data: Mapping[str, Any], key: str, wanted: tuple[str, ...], where: str = "") -> str:
    value = data[key]
    if not isinstance(value, str) or value not in wanted:
        raise ValueError(f"{where}{key} is {_shown(value)}, wanted {' or '.join(map(repr, wanted))}")
    return value


def _sizes(data: Mapping[str, Any], key: str, counts: tuple[int, ...], where: str = "") -> tuple[int, ...]:
    value = data[key]
    is_list = isinstance(value, list | tuple) and len(value) in counts
    if not is_list or not all(type(each) is int and 1 <= each <= MOST_PIXELS for each in value):
        count = " or ".join(map(str, counts))
        raise ValueError(f"{where}{key} is {_shown(value)}, wanted {count} whole numbers from 1 to {MOST_PIXELS}")
    return tuple(value)


def _numbers(value: Any, name: str, count: int) -> tuple[float, ...]:
    is_list = isinstance(value, list | tuple) and len(value) == count
    if not is_list or not all(is_number(each) for each in value):
        raise ValueError(f"{name} is {_shown(value)}, wanted {count} numbers, one a channel")
    return tuple(float(each) for each in value)


def is_number(value: Any) -> bool:
    """Whether it is a number that any reader takes for the same: an integer of 64 bits, or a finite float."""
    return (type(value) is int and -(2**63) <= value < 2**63) or (type(value) is float and math.isfinite(value))


def _shown(value: Any) -> str:
    return f"{value!r:.60}"
