"""Small branched networks as parts in files.

Their numbers are small integers, so that every order of adding them gives the same bits.
"""

import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from plainconv.exporter.bundle import PartRecord, SplitRecord, TensorSpec
from plainconv.exporter.partition import Part, Plan, read_model, write_parts

WEIGHT = np.array([[1, -1, 0, 2], [0, 1, 1, -1], [2, 0, -1, 1], [-1, 1, 0, 1]], np.float32)

DIAMOND = """(float[n,4] x) => (float[n,4] y, float[n,4] z) {
    s = MatMul(x, w)
    a = Relu(s)
    t = Neg(s) b = MatMul(t, w)
    y = Add(a, b) z = Sub(a, b)
}"""
"""A stem, two branches, and two outputs of both."""
DIAMOND_PARTS = (
    Part("stem", 0, 0, ("x",), ("s",)),
    Part("left", 0, 0, ("s",), ("a",)),
    Part("right", 1, 0, ("s",), ("b",)),
    Part("tail", 0, 0, ("a", "b"), ("y", "z")),
)


@dataclass(frozen=True)
class Split:
    """A network as parts: what a bundle says of them, their files, and the network as one file."""

    record: SplitRecord
    files: dict[str, Path]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    whole: Path

    def reference(self, inputs):
        """What the whole network gives, by name."""
        session = onnxruntime.InferenceSession(str(self.whole), providers=["CPUExecutionProvider"])
        names = [spec.name for spec in self.outputs]
        return dict(zip(names, session.run(names, inputs), strict=True))


def make_split(folder, text=DIAMOND, parts=DIAMOND_PARTS, weights=(("w", WEIGHT),)):
    """The network `text`, in ONNX's text syntax, cut into `parts`."""
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> net {text}')
    known = {name for node in proto.graph.node for name in node.input}
    proto.graph.initializer.extend(numpy_helper.from_array(w, name) for name, w in weights if name in known)
    whole = folder / "whole.onnx"
    onnx.save(onnx.shape_inference.infer_shapes(proto), whole)
    plan = Plan(tuple(parts), 1 + max(p.device for p in parts), 1 + max(p.stream for p in parts))
    paths = write_parts(read_model(whole), plan, folder)
    records = tuple(_record(plan, at, path) for at, path in enumerate(paths))
    inputs, outputs = _specs(whole)
    ends = {spec.name: plan.source(spec.name, 0) for spec in outputs}
    results = {name: None if at is None else plan.parts[at].name for name, at in ends.items()}
    split = SplitRecord("fp32", "", plan.devices, plan.streams, records, results)
    files = {part.name: path for part, path in zip(plan.parts, paths, strict=True)}
    return Split(split, files, inputs, outputs, whole)


def integers(*shape, seed=0, dtype=np.float32):
    """Integers from −8 to 8, as floats."""
    return np.random.default_rng(seed).integers(-8, 9, shape).astype(dtype)


def threads_of_places():
    """How many worker threads there are."""
    return sum(thread.name.startswith("place ") for thread in threading.enumerate())


def _record(plan, at, path):
    part, (inputs, outputs) = plan.parts[at], _specs(path)
    writers = {name: plan.writer(name, at) for name in part.reads}
    sources = {name: None if w is None else plan.parts[w].name for name, w in writers.items()}
    return PartRecord(part.name, path.name, "", part.device, part.stream, inputs, outputs, sources)


def _specs(path):
    graph = onnx.load(path).graph
    return tuple(tuple(_spec(value) for value in values) for values in (graph.input, graph.output))


def _spec(value):
    tensor = value.type.tensor_type
    shape = tuple(d.dim_param or d.dim_value for d in tensor.shape.dim)
    return TensorSpec(value.name, helper.tensor_dtype_to_np_dtype(tensor.elem_type).name, shape)
