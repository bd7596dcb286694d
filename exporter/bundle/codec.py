"""The exact bytes of manifest.json, canonical JSON that carries its own hash, and back. See exporter/BUNDLE.md."""

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any, TypeVar

from ..errors import BundleError, escaped
from . import strict_json
from .manifest import (
    FORMAT,
    FORMAT_VERSION,
    MANIFEST,
    EngineRecord,
    FileRecord,
    GraphRecord,
    JsonObject,
    Link,
    Manifest,
    PartRecord,
    ShapeRange,
    SplitRecord,
)
from .postprocessing import postprocessing_of_json
from .preprocessing import preprocessing_of_json
from .tensor import TensorSpec

_OWN_HASH = re.compile(rb'^  "manifest_sha256": "([0-9a-f]{64})",?$', re.MULTILINE)
_ZEROS = "0" * 64
_FOREIGN = "it was not written by this program; exporter/BUNDLE.md has the rules"

T = TypeVar("T")


def bytes_of_manifest(manifest: Manifest) -> bytes:
    """The manifest as it stands in manifest.json.

    manifest_sha256 = SHA-256 of these very bytes, with the 64 digits of manifest_sha256 itself written as zeros.
    """
    data = {
        **manifest.extra,
        **{f.name: getattr(manifest, f.name) for f in dataclasses.fields(manifest) if f.name != "extra"},
        "chain": [_json_of_link(link) for link in manifest.chain],
        "preprocessing": None if manifest.preprocessing is None else manifest.preprocessing.as_json(),
        "postprocessing": None if manifest.postprocessing is None else manifest.postprocessing.as_json(),
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "manifest_sha256": _ZEROS,
    }
    text = json.dumps(plain_json(data), sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    own_hash = hashlib.sha256(text.encode()).hexdigest()
    return text.replace(f'\n  "manifest_sha256": "{_ZEROS}"', f'\n  "manifest_sha256": "{own_hash}"').encode()


def sha256_in_manifest(raw: bytes) -> str | None:
    """The manifest_sha256 that the bytes of a manifest.json carry; None where they carry none or do not match it."""
    lines = list(_OWN_HASH.finditer(raw))
    if len(lines) != 1:
        return None
    start, end = lines[0].span(1)
    own_hash = raw[start:end].decode()
    return own_hash if hashlib.sha256(raw[:start] + _ZEROS.encode() + raw[end:]).hexdigest() == own_hash else None


def manifest_of_bytes(raw: bytes) -> Manifest:
    """Parse a manifest.json.

    Raises BundleError where any byte of it was changed, it is of another format version, or a key is missing or of the
    wrong type. Whether its parts agree with each other is for `rules.problems`.
    """
    if sha256_in_manifest(raw) is None:
        raise BundleError(
            f"{MANIFEST} is damaged (its bytes do not have the manifest_sha256 it carries); export again or restore it"
        )
    try:
        data = strict_json.parse(raw)
    except ValueError as error:
        raise BundleError(f"{MANIFEST} is not JSON ({error}); {_FOREIGN}") from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise BundleError(f'{MANIFEST} has no "format": "{FORMAT}"; {_FOREIGN}')
    version = _take(data, "format_version", int)
    if version != FORMAT_VERSION:
        raise BundleError(
            f"{MANIFEST} has format version {version}, this program reads {FORMAT_VERSION}; "
            + ("export again, or " if version < FORMAT_VERSION else "")
            + "install the plainconv that wrote it (its version is under tools)"
        )
    known = {f.name for f in dataclasses.fields(Manifest)} - {"extra"} | {"format", "format_version", "manifest_sha256"}
    tools = _take(data, "tools", dict)
    return Manifest(
        name=_take(data, "name", str),
        inputs=tuple(_tensor_of_json(item, at) for at, item in _members(data, "inputs")),
        outputs=tuple(_tensor_of_json(item, at) for at, item in _members(data, "outputs")),
        preprocessing=_said(data, "preprocessing", preprocessing_of_json),
        postprocessing=_said({"postprocessing": None} | data, "postprocessing", postprocessing_of_json),
        classes=_take_all({"classes": []} | data, "classes", str),
        source=_take(data, "source", dict),
        counts=_take(data, "counts", dict),
        tools={tool: _take(tools, tool, str, "tools.") for tool in tools},
        parities=list(_take_all(data, "parities", dict)),
        chain=tuple(_link_of_json(item, at) for at, item in _members(data, "chain")),
        graphs=tuple(_graph_of_json(item, at) for at, item in _members(data, "graphs")),
        cpu_graphs=tuple(_graph_of_json(item, at) for at, item in _members({"cpu_graphs": []} | data, "cpu_graphs")),
        engines=tuple(_engine_of_json(item, at) for at, item in _members(data, "engines")),
        splits=tuple(_split_of_json(item, at) for at, item in _members({"splits": []} | data, "splits")),
        files={name: _file_of_json(item, f"files.{name}.") for name, item in _take(data, "files", dict).items()},
        written=_take(data, "written", str),
        extra={key: value for key, value in data.items() if key not in known},
    )


def plain_json(value: Any) -> Any:
    """`value` as JSON can hold it: dataclasses become objects, tuples arrays, paths and NumPy scalars plain values.

    JSON has no NaN or infinity: they become the strings "nan", "inf" and "-inf".
    """
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str | PurePath):
        return str(value).encode("utf-8", "backslashreplace").decode()
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {plain_json(str(key)): plain_json(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        return plain_json(value.tolist())
    if isinstance(value, list | tuple):
        return [plain_json(item) for item in value]
    raise TypeError(f"a manifest cannot hold a {type(value).__name__}")


def _take(data: Any, key: str, kind: type[T], where: str = "") -> T:
    value: Any = data.get(key) if isinstance(data, dict) else None
    is_big = type(value) is int and not -(2**63) <= value < 2**63
    if kind is float and type(value) is int and not is_big:
        value = float(value)
    if is_big or not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        found = f"{value!r:.60}" if isinstance(data, dict) and key in data else "missing"
        at = escaped(f"{where}{key}")
        raise BundleError(f"{MANIFEST}: {at} is {found}, wanted {kind.__name__}; {_FOREIGN}")
    return value


def _take_or_none(data: Any, key: str, kind: type[T], where: str = "") -> T | None:
    return None if isinstance(data, dict) and key in data and data[key] is None else _take(data, key, kind, where)


def _take_all(data: Any, key: str, kind: type[T], where: str = "") -> tuple[T, ...]:
    items = _take(data, key, list, where)
    return tuple(_take({key: item}, key, kind, f"{where}[{i}] of ") for i, item in enumerate(items))


def _said(data: JsonObject, key: str, read: Callable[[JsonObject], T]) -> T | None:
    """What a section of its own version says; None where it is null, or has no version, as those once written."""
    section = _take_or_none(data, key, dict)
    if section is None or "version" not in section:
        return None
    try:
        return read(section)
    except ValueError as error:
        raise BundleError(f"{MANIFEST}: {escaped(f'{key}.{error}')}; {_FOREIGN}") from None


def _members(data: Any, key: str, where: str = "") -> list[tuple[str, Any]]:
    return [(f"{where}{key}[{i}].", item) for i, item in enumerate(_take(data, key, list, where))]


def _tensor_of_json(data: Any, at: str) -> TensorSpec:
    axes = _take(data, "shape", list, at)
    shape = tuple(axis if isinstance(axis, str) else _take({"shape": axis}, "shape", int, at) for axis in axes)
    return TensorSpec(_take(data, "name", str, at), _take(data, "dtype", str, at), shape)


def _file_of_json(data: Any, at: str) -> FileRecord:
    return FileRecord(_take(data, "size", int, at), _take(data, "sha256", str, at))


def _json_of_link(link: Link) -> JsonObject:
    return {"step": link.step, "sha256": link.sha256, "from": link.parent, "files": link.files}


def _link_of_json(data: Any, at: str) -> Link:
    parent = _take_or_none(data, "from", str, at)
    return Link(_take(data, "step", str, at), _take(data, "sha256", str, at), parent, _take_all(data, "files", str, at))


def _counts(data: Any, key: str, at: str) -> dict[str, int]:
    members = _take(data, key, dict, at)
    return {name: _take(members, name, int, f"{at}{key}.") for name in members}


def _names_or_none(data: Any, key: str, at: str) -> dict[str, str | None]:
    members = _take(data, key, dict, at)
    return {name: _take_or_none(members, name, str, f"{at}{key}.") for name in members}


def _part_of_json(data: Any, at: str) -> PartRecord:
    def tensors(key: str) -> tuple[TensorSpec, ...]:
        return tuple(_tensor_of_json(item, where) for where, item in _members(data, key, at))

    return PartRecord(
        name=_take(data, "name", str, at),
        file=_take(data, "file", str, at),
        sha256=_take(data, "sha256", str, at),
        device=_take(data, "device", int, at),
        stream=_take(data, "stream", int, at),
        inputs=tensors("inputs"),
        outputs=tensors("outputs"),
        sources=_names_or_none(data, "sources", at),
    )


def _split_of_json(data: Any, at: str) -> SplitRecord:
    return SplitRecord(
        precision=_take(data, "precision", str, at),
        onnx_sha256=_take(data, "onnx_sha256", str, at),
        devices=_take(data, "devices", int, at),
        streams=_take(data, "streams", int, at),
        parts=tuple(_part_of_json(item, where) for where, item in _members(data, "parts", at)),
        results=_names_or_none(data, "results", at),
        engines=tuple(_engine_of_json(item, where) for where, item in _members(data, "engines", at)),
        plan=_take(data, "plan", dict, at),
    )


def _graph_of_json(data: Any, at: str) -> GraphRecord:
    return GraphRecord(
        file=_take(data, "file", str, at),
        precision=_take(data, "precision", str, at),
        sha256=_take(data, "sha256", str, at),
        onnx_sha256=_take(data, "onnx_sha256", str, at),
        layers=_counts(data, "layers", at),
        reference=_take(data, "reference", str, at),
        tolerance=_take(data, "tolerance", float, at),
        kept=_take_all(data, "kept", dict, at),
        calibration=_take_or_none(data, "calibration", dict, at),
    )


def _engine_of_json(data: Any, at: str) -> EngineRecord:
    def profile(inputs: JsonObject) -> dict[str, ShapeRange]:
        def ints(shapes: Any, key: str) -> tuple[int, ...]:
            return _take_all(shapes, key, int, f"{at}profiles.")

        return {name: ShapeRange(ints(s, "min"), ints(s, "opt"), ints(s, "max")) for name, s in inputs.items()}

    return EngineRecord(
        file=_take(data, "file", str, at),
        backend=_take(data, "backend", str, at),
        backend_version=_take(data, "backend_version", str, at),
        precision=_take(data, "precision", str, at),
        tf32=_take(data, "tf32", bool, at),
        targets=_take_all(data, "targets", str, at),
        device=_take_or_none(data, "device", str, at),
        profiles=tuple(profile(item) for item in _take_all(data, "profiles", dict, at)),
        seconds=_take(data, "seconds", float, at),
        size=_take(data, "size", int, at),
        sha256=_take(data, "sha256", str, at),
        onnx_sha256=_take(data, "onnx_sha256", str, at),
        layers=_counts(data, "layers", at),
        options=_counts(data, "options", at),
        log=_take_or_none(data, "log", str, at),
        warnings=_take_all(data, "warnings", str, at),
    )
