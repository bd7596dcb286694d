"""Bundles of a few nodes that say something of images."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from plainconv.exporter.bundle import TensorSpec, write_bundle
from plainconv.exporter.bundle.postprocessing import postprocessing_given
from plainconv.exporter.bundle.presets import preprocessing_given

Shape = tuple[int, ...]


def make(
    target: Path,
    nodes: Sequence[onnx.NodeProto],
    arrays: Mapping[str, Any],
    x: tuple[str, Shape],
    y: tuple[str, Shape],
    preprocessing: Any,
    postprocess: str | None = None,
    classes: Sequence[str] = (),
) -> Path:
    """A bundle of the graph of these nodes and constants, from float32 `x` to float32 `y`."""
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in (x, y)]
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], tensors)
    with write_bundle(target) as draft:
        draft.manifest.name = target.name
        draft.manifest.inputs = (TensorSpec(x[0], "float32", x[1]),)
        draft.manifest.outputs = (TensorSpec(y[0], "float32", y[1]),)
        draft.manifest.preprocessing = preprocessing_given(preprocessing)
        draft.manifest.postprocessing = postprocessing_given(postprocess, draft.manifest.outputs)
        draft.manifest.classes = tuple(classes)
        model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])
        onnx.save(model, draft.path("model.onnx"))
        draft.link("checkpoint", sha256="c" * 64)
        draft.link_onnx()
    return target


def two_inputs(target: Path, shape: Shape = (3,), postprocess: str | None = None, *, fixed: bool = False) -> Path:
    """y = a·b, of float32 `a` [1, *shape] and int64 `b` [1, 1, …]; `fixed` adds a `gain` without a batch axis."""
    one = (1,) * len(shape)
    nodes = [
        helper.make_node("Cast", ["b"], ["c"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Mul", ["a", "c"], ["y"]),
    ]
    specs = [TensorSpec("a", "float32", ("N", *shape)), TensorSpec("b", "int64", ("N", *one))]
    specs += [TensorSpec("gain", "float32", (3,))] if fixed else []
    types = {"float32": onnx.TensorProto.FLOAT, "int64": onnx.TensorProto.INT64}
    inputs = [helper.make_tensor_value_info(spec.name, types[spec.dtype], spec.shape) for spec in specs]
    y = TensorSpec("y", "float32", ("N", *shape))
    outputs = [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, y.shape)]
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    with write_bundle(target) as draft:
        draft.manifest.name = target.name
        draft.manifest.inputs, draft.manifest.outputs = tuple(specs), (y,)
        draft.manifest.postprocessing = postprocessing_given(postprocess, (y,))
        model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])
        onnx.save(model, draft.path("model.onnx"))
        draft.link("checkpoint", sha256="c" * 64)
        draft.link_onnx()
    return target


def named(target: Path, name: str = "x") -> Path:
    """Its scores of `dark` and `bright` images are 0 and their mean pixel, from −1 to 1; its input is called `name`."""
    nodes = [
        helper.make_node("ReduceMean", [name, "axes"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "w"], ["y"]),
    ]
    arrays = {"axes": np.array([2, 3]), "w": np.array([[0, 1]], np.float32)}
    said = {"color": "gray", "resize": {"rule": "exact", "size": [4, 4]}, "scale": 2 / 255, "mean": [1]}
    return make(
        target,
        nodes,
        arrays,
        (name, (1, 1, 4, 4)),
        ("y", (1, 2)),
        said,
        None,
        ("dark", f"bright{name * (name != 'x')}"),
    )


def found(target: Path, classes: Sequence[str] = ("all", "half")) -> Path:
    """It finds three boxes in any image, letterboxed to 8×8: of it all, of its middle half, and nearly that again."""
    rows = np.array([[4, 4, 8, 8, 0.9, 0], [4, 4, 4, 4, 0, 0.6], [5, 4, 4, 4, 0, 0.5]], np.float32).T[None]
    nodes = [
        helper.make_node("ReduceMin", ["x", "axes"], ["least"], keepdims=0),
        helper.make_node("Mul", ["least", "zero"], ["nothing"]),
        helper.make_node("Add", ["rows", "nothing"], ["y"]),
    ]
    arrays = {"axes": np.array([0, 1, 2, 3]), "zero": np.float32(0), "rows": rows}
    return make(target, nodes, arrays, ("x", (1, 3, 8, 8)), ("y", (1, 6, 3)), "yolo-8", "detect", classes)


def colours(target: Path) -> Path:
    """Its class of each pixel of 8×8 is the channel that is brightest."""
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    said = {"resize": {"rule": "exact", "size": [8, 8], "interpolation": "nearest"}}
    classes = ("red", "green", "blue")
    return make(target, nodes, {}, ("x", (1, 3, 8, 8)), ("y", (1, 3, 8, 8)), said, "segment", classes)
