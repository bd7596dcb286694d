"""Images, and what networks make of them, the same for whatever predicts: `tests/engines/predict/cases.json`."""

import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper
from PIL import Image
from places import ROOT

from plainconv.exporter.bundle import TensorSpec, write_bundle
from plainconv.exporter.bundle.postprocessing import postprocessing_given
from plainconv.exporter.bundle.presets import preprocessing_given

FILE = json.loads((ROOT / "tests" / "engines" / "predict" / "cases.json").read_text(encoding="utf-8"))
TYPES = {"bool": 9, "uint8": 2, "float16": 10, "float32": 1, "float64": 11, "int64": 7}
"""ONNX's numbers of them."""


def image_file(said: dict[str, Any]) -> bytes:
    """The file that a case says: its size, mode, format and what is odd about it."""
    draw = np.random.default_rng(said.get("seed", 0))
    height, width = said.get("size", (40, 64))
    image = Image.fromarray(draw.integers(0, 256, (-(-height // 4), -(-width // 4), 4), np.uint8), "RGBA")
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    mode, kind = said.get("mode", "RGB"), said.get("format", "PNG")
    more: dict[str, Any] = dict(said.get("save", {}))
    if "orientation" in said:
        more["exif"] = Image.Exif()
        more["exif"][0x0112] = said["orientation"]
    if mode == "I;16":
        image = Image.fromarray(draw.integers(0, 2**16, (height, width)).astype(np.uint16))
    elif mode == "P":
        image = image.convert("RGB").quantize(said.get("colors", 256))
    elif mode.startswith("raw"):
        return _png(draw, width, height, *map(int, mode.removeprefix("raw").split("_")))
    else:
        image = image if mode == "RGBA" else image.convert("RGB").convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, kind, **more)
    data = buffer.getvalue()
    return data[: int(len(data) * said["cut"])] if "cut" in said else data


def write_case(target: Path, said: dict[str, Any]) -> Path:
    """The bundle of a case: its input comes out as it is, or `outputs` do, whatever the image is."""
    wanted = preprocessing_given(said["preprocessing"])
    assert wanted is not None
    axes = ["h" if side is None else side for side in wanted.shape]
    if wanted.layout == "nchw":
        shape: list[Any] = [wanted.crops, axes[0], "h", "w"]
    else:
        shape = [wanted.crops, "h", "w", axes[2]]
    given = {name: np.array(value["numbers"], value["type"]) for name, value in said.get("outputs", {}).items()}
    nodes = [helper.make_node("Constant", [], [n], value=onnx.numpy_helper.from_array(a)) for n, a in given.items()]
    whole = ("y", ("float64", shape))
    if not given:
        nodes = [helper.make_node("Cast", ["x"], ["y"], to=TYPES["float64"])]
    if wanted.crops > 1:  # whose numbers are averaged as if they were scores
        nodes[0].output[0] = "numbers"
        nodes.append(helper.make_node("Flatten", ["numbers"], ["y"]))
        whole = ("y", ("float64", [wanted.crops, int(np.prod([axis or 0 for axis in wanted.shape]))]))
    outputs = {name: (str(a.dtype), list(a.shape)) for name, a in given.items()} or dict([whole])
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TYPES[wanted.type], shape)],
        [helper.make_tensor_value_info(name, TYPES[kind], sizes) for name, (kind, sizes) in outputs.items()],
    )
    with write_bundle(target) as draft:
        draft.manifest.name = "case"
        draft.manifest.inputs = (TensorSpec("x", wanted.type, tuple(shape)),)
        draft.manifest.outputs = tuple(TensorSpec(n, kind, tuple(sizes)) for n, (kind, sizes) in outputs.items())
        draft.manifest.preprocessing = wanted
        draft.manifest.postprocessing = postprocessing_given(said.get("postprocess"), draft.manifest.outputs)
        draft.manifest.classes = tuple(said.get("classes", ()))
        model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])
        onnx.save(model, draft.path("model.onnx"))
        draft.link("checkpoint", sha256="c" * 64)
        draft.link_onnx()
    return target


def _png(draw: np.random.Generator, width: int, height: int, bits: int, color: int) -> bytes:
    """A PNG of so many bits a sample and a colour type that Pillow does not write."""
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[color]
    rows = b"".join(b"\0" + draw.bytes((width * bits * channels + 7) // 8) for _ in range(height))
    head = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    chunks = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
