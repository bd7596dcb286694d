"""What outputs mean, as data: classes of an image, of its pixels, or boxes. `exporter/BUNDLE.md` specifies it."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import SourceError
from .preprocessing import is_number
from .tensor import TensorSpec

VERSION, VERSION_OF_MASKS = 1, 2
KINDS = ("classify", "segment", "detect", "none")
FORMS = ("rows", "dense", "final")
COORDINATES = ("xyxy", "cxcywh")
MOST = 100_000
"""Classes, or boxes, of one answer."""
TOP = 5
FLOATS = ("float16", "bfloat16", "float32", "float64")
INTEGERS = ("bool", "int8", "uint8", "int32", "int64")
_REAL, _WHOLE, _ANY = "real numbers", "whole numbers", "numbers"
_NUMBERS: Mapping[str, tuple[str, ...]] = {_REAL: FLOATS, _WHOLE: INTEGERS, _ANY: (*FLOATS, *INTEGERS)}
_KEYS: Mapping[str, tuple[str, ...]] = {
    "classify": ("output", "top"),
    "segment": ("output",),
    "detect": ("form", "coordinates", "boxes", "scores", "labels", "count", "score", "iou", "max"),
    "none": (),
}
_WRITTEN = re.compile(r"(classify|segment|detect|none)(?::(.*))?")


@dataclass(frozen=True)
class Postprocessing:
    """How an answer is read off the outputs, by their names. A kind has its own members; the others are as here.

    `detect` has a `form`: `rows`, one output [batch, 4 + classes, boxes] of coordinates and scores; `dense`, `boxes`
    [batch, boxes, 4] and `scores` [batch, boxes, classes]; `final`, `boxes`, `scores` and `labels` [batch, boxes] and
    their `count` [batch], suppressed already, and `masks` [batch, boxes, h, w]. `coordinates` are corners, or centre
    and size. `score` is the least, `iou` what suppresses, `max` how many.
    """

    kind: str
    output: str = ""
    top: int = TOP
    form: str = ""
    coordinates: str = "xyxy"
    boxes: str = ""
    scores: str = ""
    labels: str | None = None
    count: str | None = None
    masks: str | None = None
    score: float = 0.25
    iou: float = 0.45
    max: int = 300

    def as_json(self) -> dict[str, Any]:
        """As the manifest has it: the members of its kind."""
        version = VERSION if self.masks is None else VERSION_OF_MASKS
        return {"version": version, "kind": self.kind, **{key: getattr(self, key) for key in _keys(self.kind, version)}}

    @property
    def names(self) -> tuple[str, ...]:
        """The outputs that it reads."""
        names = (self.output, self.boxes, self.scores, self.labels, self.count, self.masks)
        return tuple(dict.fromkeys(each for each in names if each))


def postprocessing_of_json(data: Any) -> Postprocessing:
    """The record that a JSON object says. Raises ValueError, in one line, with the first thing that is wrong."""
    version = data.get("version") if isinstance(data, dict) else None
    if type(version) is not int or version not in (VERSION, VERSION_OF_MASKS):
        raise ValueError(f"version is {version!r:.60}, wanted {VERSION} or {VERSION_OF_MASKS}")
    kind = data.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(f"kind is {kind!r:.60}, wanted {' or '.join(map(repr, KINDS))}")
    known = ("version", "kind", *_keys(kind, version))
    for key in known:
        if key not in data:
            raise ValueError(f"{key} is missing")
    for key, value in data.items():
        if key not in known:
            raise ValueError(f"{key} is unknown, wanted {', '.join(known)}")
        if key in _TYPES and not _TYPES[key](value):
            raise ValueError(f"{key} is {value!r:.60}, wanted {_WANTED[key]}")
    members: dict[str, Any] = {key: float(data[key]) if key in ("score", "iou") else data[key] for key in known[1:]}
    return Postprocessing(**members)


def _keys(kind: str, version: int) -> tuple[str, ...]:
    has_masks = kind == "detect" and version == VERSION_OF_MASKS
    return (*_KEYS[kind], "masks") if has_masks else _KEYS[kind]


def _is_share(value: Any) -> bool:
    return is_number(value) and 0 <= value <= 1


def _is_count(value: Any) -> bool:
    return type(value) is int and 1 <= value <= MOST


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _is_name_or_none(value: Any) -> bool:
    return value is None or _is_name(value)


_TYPES: Mapping[str, Callable[[Any], bool]] = {
    "output": _is_name, "boxes": _is_name, "scores": _is_name, "labels": _is_name_or_none, "count": _is_name_or_none,
    "masks": _is_name_or_none,
    "top": _is_count, "max": _is_count, "score": _is_share, "iou": _is_share, "form": lambda value: value in FORMS,
    "coordinates": lambda value: value in COORDINATES,
}  # fmt: skip
_WANTED = {
    **dict.fromkeys(("output", "boxes", "scores"), "the name of an output"),
    **dict.fromkeys(("labels", "count", "masks"), "the name of an output or null"),
    **dict.fromkeys(("top", "max"), f"a whole number from 1 to {MOST}"),
    **dict.fromkeys(("score", "iou"), "a number from 0 to 1"),
    "form": " or ".join(map(repr, FORMS)),
    "coordinates": " or ".join(map(repr, COORDINATES)),
}


def misread(record: Postprocessing, outputs: Sequence[TensorSpec]) -> str | None:
    """Why these outputs cannot be read so, in one line; None where they can."""
    known = {spec.name: spec for spec in outputs}
    for name in record.names:
        if name not in known:
            return f"postprocessing reads {name}, the network gives {', '.join(known)}"
    for name, ranks, numbers in _shapes(record):
        spec = known[name]
        if len(spec.shape) not in ranks or spec.dtype not in _NUMBERS[numbers]:
            axes = " or ".join(map(str, ranks))
            return f"postprocessing reads {spec} as {record.kind}, wanted {numbers} of {axes} axes"
    if record.kind == "detect":
        box = known[record.boxes].shape
        if record.form != "rows" and box[2] != 4:
            return f"postprocessing reads {known[record.boxes]} as boxes, wanted 4 numbers each"
        if record.form == "rows" and (record.boxes != record.scores or (isinstance(box[1], int) and box[1] < 5)):
            return f"postprocessing reads {known[record.boxes]} as rows, wanted one output [batch, 4 + classes, boxes]"
        if record.form == "final" and record.labels is None:
            return "postprocessing has form final without labels, wanted the output with each box's class"
        if record.form != "final" and record.masks is not None:
            return "postprocessing has masks, wanted with them the form final: one of each box"
    return None


def not_averaged(crops: int, record: Postprocessing | None) -> str | None:
    """Why answers about crops of an image cannot be averaged, in one line; None where they can, or there is one."""
    if crops == 1 or record is None or record.kind in ("classify", "none"):
        return None
    return f"preprocessing gives {crops} crops of an image, and postprocessing is {record.kind}, wanted classify"


def _shapes(record: Postprocessing) -> list[tuple[str, tuple[int, ...], str]]:
    if record.kind == "classify":
        return [(record.output, (2,), _REAL)]
    if record.kind == "segment":
        return [(record.output, (3, 4), _ANY)]
    if record.kind == "none":
        return []
    scores = 2 if record.form == "final" else 3
    found: list[tuple[str, tuple[int, ...], str]] = [(record.boxes, (3,), _REAL), (record.scores, (scores,), _REAL)]
    found += [(record.labels, (2,), _WHOLE)] if record.labels is not None else []
    found += [(record.count, (1, 2), _WHOLE)] if record.count is not None else []
    return found + ([(record.masks, (4,), _ANY)] if record.masks is not None else [])


def classes_of(record: Postprocessing, outputs: Sequence[TensorSpec]) -> int | None:
    """How many classes the outputs tell apart; None where their shapes do not say."""
    shapes = {spec.name: spec.shape for spec in outputs}
    size: int | str | None = None
    if record.kind == "classify" or (record.kind == "segment" and len(shapes[record.output]) == 4):
        size = shapes[record.output][1]
    elif record.kind == "detect" and record.form != "final":
        size = shapes[record.scores][1 if record.form == "rows" else 2]
        size = size - 4 if record.form == "rows" and isinstance(size, int) else size
    return size if isinstance(size, int) else None


def default_of(outputs: Sequence[TensorSpec]) -> Postprocessing | None:
    """What outputs mean of which nothing is said: boxes by their names, else the first [batch, classes] are classes."""
    if {"boxes", "scores", "labels"} <= {spec.name for spec in outputs}:
        record = _detector(outputs, {})
        if record is not None:
            return record
    for spec in outputs:
        if len(spec.shape) == 2 and spec.shape[1] != 1 and spec.dtype in FLOATS:
            return Postprocessing("classify", output=spec.name)
    return None


def postprocessing_given(text: str | None, outputs: Sequence[TensorSpec] | None = None) -> Postprocessing | None:
    """What a user writes, `classify[:k]`, `segment`, `detect[:score,iou,max,coordinates]` or `none`, for these outputs.

    Of rows the coordinates are centre and size where nothing else is said, else corners.

    Raises SourceError, in one line, where it is none of these, or the outputs, where they are known, are not.
    """
    if text is None:
        return None
    match = _WRITTEN.fullmatch(text)
    if match is None:
        raise SourceError(f"--postprocess {text}: wanted classify[:k], segment, detect[:score,iou,max] or none")
    kind, numbers = match[1], match[2]
    found: Postprocessing | None = None
    if kind in ("segment", "none") and numbers is not None:
        raise SourceError(f"--postprocess {text}: {kind} has no numbers; leave them out")
    top = _counted(numbers, TOP, text) if kind == "classify" else TOP
    thresholds = _thresholds(numbers, text) if kind == "detect" else {}
    if kind == "none" or outputs is None:
        return Postprocessing("none")
    if kind == "classify":
        names = [s.name for s in outputs if len(s.shape) == 2 and s.shape[1] != 1 and s.dtype in FLOATS]
        found = Postprocessing("classify", output=names[0], top=top) if names else None
        wanted = "an output [batch, classes] of numbers"
    elif kind == "segment":
        names = [s.name for s in outputs if len(s.shape) == 4 and s.dtype in FLOATS]
        names += [s.name for s in outputs if len(s.shape) == 3 and s.dtype in INTEGERS]
        found = Postprocessing("segment", output=names[0]) if names else None
        wanted = "an output [batch, classes, height, width], or [batch, height, width] of whole numbers"
    else:
        found = _detector(outputs, thresholds)
        wanted = "boxes [batch, n, 4] and scores, or one output [batch, 4 + classes, boxes]"
    if found is None:
        given = ", ".join(map(str, outputs))
        raise SourceError(f"--postprocess {text}: the network gives {given}; wanted {wanted}")
    return found


def _detector(outputs: Sequence[TensorSpec], numbers: Mapping[str, Any]) -> Postprocessing | None:
    boxes = next((s for s in outputs if len(s.shape) == 3 and s.shape[2] == 4 and s.dtype in FLOATS), None)
    if boxes is None:
        rows = next((s for s in outputs if len(s.shape) == 3 and s.dtype in FLOATS and not _is_short(s.shape[1])), None)
        if rows is None:
            return None
        return Postprocessing(
            "detect", form="rows", boxes=rows.name, scores=rows.name, **{"coordinates": "cxcywh", **numbers}
        )
    others = [s for s in outputs if s is not boxes and s.shape[1:2] == boxes.shape[1:2]]
    dense = next((s for s in others if len(s.shape) == 3 and s.dtype in FLOATS), None)
    scores = next((s for s in others if len(s.shape) == 2 and s.dtype in FLOATS), None)
    labels = next((s for s in others if len(s.shape) == 2 and s.dtype in INTEGERS and s.dtype != "bool"), None)
    if scores is not None and labels is not None:
        count = next((s.name for s in outputs if s.name == "count" and s.dtype in INTEGERS), None)
        names: dict[str, Any] = {"boxes": boxes.name, "scores": scores.name, "labels": labels.name, "count": count}
        names["masks"] = next((s.name for s in others if s.name == "masks" and len(s.shape) == 4), None)
        return Postprocessing("detect", form="final", **names, **numbers)
    if dense is None:
        return None
    return Postprocessing("detect", form="dense", boxes=boxes.name, scores=dense.name, **numbers)


def _is_short(axis: int | str) -> bool:
    return isinstance(axis, int) and axis < 5


def _counted(numbers: str | None, default: int, text: str) -> int:
    if numbers is None:
        return default
    if not (numbers.isascii() and numbers.isdecimal()) or not 1 <= int(numbers[:7]) <= MOST:
        raise SourceError(f"--postprocess {text}: {numbers!r} is no number of classes, wanted 1 to {MOST}")
    return int(numbers)


def _thresholds(numbers: str | None, text: str) -> dict[str, Any]:
    parts = [] if numbers is None else numbers.split(",")
    kinds: Mapping[str, Callable[[str], Any]] = {"score": float, "iou": float, "max": int, "coordinates": str}
    try:
        values = {key: kinds[key](part) for key, part in zip(kinds, parts, strict=False) if part}
    except ValueError:
        values = {"score": math.nan}
    if len(parts) > len(kinds) or not all(_TYPES[key](value) for key, value in values.items()):
        raise SourceError(f"--postprocess {text}: wanted detect:SCORE,IOU,MAX like detect:0.25,0.45,300 (,cxcywh)")
    return values
