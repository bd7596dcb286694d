"""`cases.json`: requests and their answers, the same for every server of a bundle; and the bundle that they are for."""

import base64
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from places import ROOT

from plainconv.exporter.bundle import TensorSpec, write_bundle
from plainconv.exporter.version import __version__

FILE = json.loads((ROOT / "tests" / "engines" / "serving" / "cases.json").read_text(encoding="utf-8"))
ALL: list[dict[str, Any]] = FILE["cases"]
CASES = [case for case in ALL if not case.get("large")]
LARGE = [case for case in ALL if case.get("large")]
OPTIONS: dict[str, Any] = FILE["options"]
LARGE_OPTIONS: dict[str, Any] = FILE["large_options"]
"""Of the server, without the dashes: `--name tiny` and so on."""
_DTYPES = {"FP32": np.dtype("<f4"), "INT64": np.dtype("<i8")}
_TINY = """<ir_version: 10, opset_import: ["" : 20]>
g (float[N,3,2,2] x, int64[N,2] k) => (float[N,3] sum, int64[N,2] twice) <int64[2] axes = {2, 3}> {
    sum = ReduceSum<keepdims=0>(x, axes)
    twice = Add(k, k)
}"""


def write_tiny(target: Path) -> Path:
    """The bundle: x [N, 3, 2, 2] and k [N, 2] to sum [N, 3], of each channel, and twice [N, 2], which is 2 k."""
    with write_bundle(target) as draft:
        draft.manifest.name = "tiny"
        draft.manifest.inputs = (TensorSpec("x", "float32", ("N", 3, 2, 2)), TensorSpec("k", "int64", ("N", 2)))
        draft.manifest.outputs = (TensorSpec("sum", "float32", ("N", 3)), TensorSpec("twice", "int64", ("N", 2)))
        onnx.save(onnx.parser.parse_model(_TINY), draft.path("model.onnx"))
        draft.link("checkpoint", sha256="c" * 64)
        draft.link_onnx()
    return target


def message_of(case: Mapping[str, Any]) -> tuple[bytes, dict[str, str]]:
    """What is to be sent: the body (of a case with "raw", all of it), and the headers."""
    pieces = [_bytes(piece) for piece in case.get("raw", case.get("body", ()))]
    headers = {k: v.replace("{json}", str(len(pieces[0]))) for k, v in case.get("headers", {}).items()}
    fill = next((piece["fill"] for piece in case.get("body", ()) if "fill" in piece), 0)
    return b"".join(pieces).ljust(fill), headers


def wrong(case: Mapping[str, Any], status: int, headers: Mapping[str, str], body: bytes) -> str:
    """What is wrong with an answer, "" where it is what the case wants. Names of headers are in small letters."""
    wanted = case["status"] if isinstance(case["status"], list) else [case["status"]]
    if status not in wanted:
        return f"status {status}, wanted {wanted}: {body[:300]!r}"
    if "text" in case:
        return "" if re.search(case["text"], body.decode()) else f"no {case['text']} in {body[:2000]!r}"
    length = headers.get("inference-header-content-length")
    answer = json.loads(body if length is None else body[: int(length)]) if body and status != 0 else {}
    if "error" in case:
        sentence = answer.get("error", "")
        same = list(answer) == ["error"] and re.search(case["error"], sentence) and "\n" not in sentence
        return "" if same else f"{answer}, wanted only error: {case['error']}"
    for key, value in case.get("answer", {}).items():
        if answer.get(key) != (__version__ if value == "{version}" else value):
            return f"{key} is {answer.get(key)!r}, wanted {value!r}"
    if any(key in answer for key in case.get("absent", ())):
        return f"{answer} has one of {case['absent']}"
    if "outputs" in case:
        found = _outputs(answer, body[len(body) if length is None else int(length) :])
        return "" if found == case["outputs"] else f"outputs {found}, wanted {case['outputs']}"
    return ""


def _bytes(piece: Any) -> bytes:
    if isinstance(piece, str):
        return piece.encode()
    (kind,) = piece.keys() - {"times"}
    value = piece[kind]
    if kind in _DTYPES:
        return np.array([float(v) if isinstance(v, str) else v for v in value], _DTYPES[kind]).tobytes()
    known = {
        "json": lambda: json.dumps(value).encode(),
        "base64": lambda: base64.b64decode(value),
        "zeros": lambda: bytes(value),
        "spaces": lambda: b" " * value,
        "repeat": lambda: value.encode() * piece["times"],
        "fill": lambda: b"",
    }
    return known[kind]()


def _outputs(answer: Mapping[str, Any], binary: bytes) -> list[dict[str, Any]]:
    """The outputs as a case lists them. Raises ValueError where their binary tensors are not all of the rest."""
    outputs, end = [], 0
    for given in answer["outputs"]:
        output = {key: given[key] for key in ("name", "datatype", "shape")}
        size = given.get("parameters", {}).get("binary_data_size")
        if size is None:
            output["data"] = given["data"]
        else:
            numbers = np.frombuffer(binary[end : end + size], _DTYPES[given["datatype"]])
            output |= {"data": [named(value) for value in numbers.tolist()], "binary": True}
            end += size
        outputs.append(output)
    if end != len(binary):
        raise ValueError(f"{len(binary)} bytes behind the JSON, wanted {end}")
    return outputs


def named(value: Any) -> Any:
    """NaN and infinity by name, as JSON has none."""
    if value != value or value in (np.inf, -np.inf):
        return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}[str(value)]
    return value
