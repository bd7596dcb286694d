"""Preprocessing by name, and as a user writes it: fitted to the size of a network's input.

A *recipe* is what a published network was evaluated with, for any size of its input: the keys of `Preprocessing`
without sizes, with `rule`, `interpolation` and `antialias` of its resize, and `share`, that of the shortest side which
the crop keeps: resize to ⌊side / share⌋, then the middle.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..errors import SourceError
from ..reading import TooLargeError, read_at_most
from . import strict_json
from .preprocessing import (
    CHANNELS,
    TEN,
    VERSION,
    VERSION_OF_CROPS,
    Letterbox,
    Preprocessing,
    Resize,
    preprocessing_of_json,
)

Recipe = Mapping[str, Any]
NONE = "none"
_UNIT = {"color": "rgb", "scale": 1 / 255, "mean": (0.0,) * 3, "std": (1.0,) * 3}
_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
_BOXED: Recipe = {"rule": "letterbox", "antialias": False}
IMAGENET: Recipe = MappingProxyType(
    {**_UNIT, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "share": 0.875}
)
COCO: Recipe = MappingProxyType(
    {**_BOXED, "color": "rgb", "scale": 1.0, "mean": _MEAN, "std": _STD, "value": _MEAN, "place": "corner"}
)
YOLO: Recipe = MappingProxyType({**_BOXED, **_UNIT, "value": (114.0,) * 3, "place": "centre"})
DIGITS: Recipe = MappingProxyType({"color": "gray", "scale": 1 / 255, "mean": (0.3,), "std": (0.4,)})
PRESETS: Mapping[str, tuple[Recipe, tuple[int, int]]] = {
    "imagenet": (IMAGENET, (224, 224)),
    "coco": (COCO, (800, 1280)),
    "yolo": (YOLO, (640, 640)),
    "digits": (DIGITS, (32, 32)),
}
"""Each with the size that it has where its name says none, as `imagenet-320` and `yolo-384x640` do."""
_NAME = re.compile(r"([a-z]+)(?:-([1-9][0-9]{0,4})(?:x([1-9][0-9]{0,4}))?)?(-tencrop)?")
_MOST_FILE = 2**20
_DEFAULTS: Mapping[str, Any] = {
    "version": VERSION, "color": "rgb", "resize": None, "crop": None, "letterbox": None, "scale": 1.0, "layout": "nchw",
    "type": "float32",
}  # fmt: skip


def fitted(recipe: Recipe, height: int, width: int, type_: str = "float32") -> Preprocessing:
    """A recipe for inputs [batch, channels, height, width] of that type."""
    rule = recipe.get("rule", "shortest")
    share, crop, box = float(recipe.get("share", 1.0)), (height, width), None
    size: tuple[int, ...]
    if rule == "letterbox":
        size, crop = (height, width), (0, 0)
        box = Letterbox(tuple(map(float, recipe["value"])), None, recipe["place"])
    elif rule == "exact":
        size = (math.floor(height / share), math.floor(width / share))
    else:
        size = (math.floor(max(height, width) / share),)
    resize = Resize(rule, size, recipe.get("interpolation", "bilinear"), bool(recipe.get("antialias", True)))
    is_cut = rule != "letterbox" and (rule != "exact" or size != crop)
    mean, std = (tuple(map(float, recipe[key])) for key in ("mean", "std"))
    scale = float(recipe["scale"])
    made = Preprocessing(recipe["color"], resize, crop if is_cut else None, box, scale, mean, std, "nchw", type_)
    return preprocessing_of_json(made.as_json())


def preset(name: str) -> Preprocessing | None:
    """The preprocessing of that name, `NAME[-SIDE]` or `NAME-HEIGHTxWIDTH`, with `-tencrop`; None of `none`.

    Raises SourceError where there is no such name.
    """
    if name == NONE:
        return None
    match = _NAME.fullmatch(name)
    if match is None or match[1] not in PRESETS:
        sizes = "with a size as in imagenet-320 and yolo-384x640, with -tencrop"
        wanted = f"one of {', '.join(PRESETS)}, {NONE}, {sizes}, or FILE.json"
        raise SourceError(f"--preprocessing {name}: there is no such preset; wanted {wanted}")
    recipe, (height, width) = PRESETS[match[1]]
    if match[2]:
        height, width = int(match[2]), int(match[3] or match[2])
    try:
        found = fitted(recipe, height, width)
        return preprocessing_of_json(replace(found, crops=TEN).as_json()) if match[4] else found
    except ValueError as error:
        raise SourceError(f"--preprocessing {name}: {error}") from None


def preprocessing_given(given: "str | Path | Mapping[str, Any] | Preprocessing | None") -> Preprocessing | None:
    """What a user gives: a preset's name, a JSON file, its content, or the record itself.

    Of a file what is missing is as in a plain case: RGB, no resize, scale 1, mean 0, std 1, nchw, float32.
    Raises SourceError, in one line, where it is none of these.
    """
    if given is None or isinstance(given, Preprocessing):
        return given
    if isinstance(given, Mapping):
        return _completed(given, "preprocessing")
    path = Path(given)
    if path.suffix != ".json":
        return preset(str(given))
    try:
        data = strict_json.parse(read_at_most(path, _MOST_FILE))
    except TooLargeError as error:
        raise SourceError(f"{path} is {error.strerror}; wanted a file as exporter/BUNDLE.md has it") from None
    except OSError as error:
        raise SourceError(f"{path} cannot be read ({error.strerror}); give --preprocessing a JSON file") from None
    except ValueError as error:
        raise SourceError(f"{path} is not JSON ({error}); give --preprocessing a JSON file") from None
    return _completed(data, path.name)


def _completed(data: Any, where: str) -> Preprocessing:
    if not isinstance(data, Mapping):
        raise SourceError(f"{where} is a {type(data).__name__}, wanted a JSON object as exporter/BUNDLE.md has it")
    whole = {**_DEFAULTS, **({"version": VERSION_OF_CROPS} if "crops" in data else {}), **data}
    channels = CHANNELS.get(whole["color"], 3) if isinstance(whole["color"], str) else 3
    whole = {"mean": [0.0] * channels, "std": [1.0] * channels, **whole}
    resize, box = whole["resize"], whole["letterbox"]
    if isinstance(resize, Mapping):
        whole["resize"] = {"interpolation": "bilinear", "antialias": True, **resize}
    if isinstance(box, Mapping):
        whole["letterbox"] = {"value": [114.0] * channels, "stride": None, "place": "centre", **box}
    try:
        return preprocessing_of_json(whole)
    except ValueError as error:
        raise SourceError(f"{where}: {error}; exporter/BUNDLE.md has the vocabulary") from None
