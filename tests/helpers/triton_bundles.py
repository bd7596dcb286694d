"""Bundles of a small network, whole and in parts, for the tests of Triton's model repositories."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from plainconv.exporter.bundle import (
    Bundle,
    EngineRecord,
    GraphRecord,
    PartRecord,
    ShapeRange,
    SplitRecord,
    TensorSpec,
    update_bundle,
    write_bundle,
)

NODES = {
    "a": "c = Conv<pads=[1,1,1,1]>(x, w) a = Relu(c)",
    "l": "k = Conv<pads=[1,1,1,1]>(a, v) l = Sigmoid(k)",
    "r": "m = Mul(a, a) r = Tanh(m)",
    "logits": "s = Sub(l, r) g = GlobalAveragePool(s) f = Flatten(g) h = Gemm(f, u) e = ReduceMean<keepdims=0>(x, ax) "
    "logits = Add(h, e)",
}
"""What computes each value that goes from part to part."""
FIVE = {  # name: (device, stream, what it computes, what it reads of whom, what it gives)
    "stem0": (0, 0, ("a",), {"x": None}, ("a",)),
    "stem1": (1, 0, ("a",), {"x": None}, ("a",)),  # again, as it is cheaper than a copy
    "left": (0, 0, ("l",), {"a": "stem0"}, ("l",)),
    "right": (1, 0, ("r",), {"a": "stem1"}, ("r",)),
    "fuse": (0, 1, ("logits",), {"l": "left", "r": "right", "x": None}, ("logits",)),
}
THREE = {
    "left": (0, 0, ("a", "l"), {"x": None}, ("a", "l")),
    "right": (1, 0, ("a", "r"), {"x": None}, ("r", "a")),  # nothing reads this a
    "fuse": (0, 0, ("logits",), {"l": "left", "r": "right", "x": None}, ("logits",)),
}
RESULTS = {"logits": "fuse", "r": "right"}


def spec(name, batch="N", size=8):
    """The tensor of that name."""
    shape = {"x": (batch, 4, size, size), "logits": (batch, 4)}
    return TensorSpec(name, "float32", shape.get(name, (batch, 4, size, size)))


def save(path, inputs, outputs, computed, batch="N", size=8, data=False):
    """An ONNX file that computes some of NODES."""

    def signature(names):
        return ", ".join(f"float[{','.join(map(str, spec(n, batch, size).shape))}] {n}" for n in names)

    text = " ".join(NODES[value] for value in computed)
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 20]> g ({signature(inputs)}) => ({signature(outputs)}) {{ {text} }}'
    )
    model.doc_string = path.name  # so that no two files are the same
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(4, 4, 3, 3)), "v": rng.normal(size=(4, 4, 3, 3)), "u": rng.normal(size=(4, 4))}
    arrays = {name: w.astype(np.float32) for name, w in weights.items()} | {"ax": np.array([2, 3])}
    used = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(numpy_helper.from_array(w, n) for n, w in arrays.items() if n in used)
    onnx.save(
        model, path, save_as_external_data=data, location=f"{path.name}.data" if data else None, size_threshold=100
    )
    return path


def make(target, parts=None, batch="N", size=8, name="small net", data=False, fp16=False, cpu=False):
    """A bundle of the network, with `parts` a split of it."""
    with write_bundle(target) as draft:
        manifest = draft.manifest
        manifest.name = name
        manifest.inputs = (spec("x", batch, size),)
        manifest.outputs = (spec("logits", batch, size), spec("r", batch, size))
        options = {"batch": batch, "size": size, "data": data}
        save(draft.path("model.onnx"), ("x",), ("logits", "r"), ("a", "l", "r", "logits"), **options)
        draft.link("checkpoint", sha256="c" * 64)
        onnx_sha256 = draft.link_onnx().sha256
        if fp16:  # only its name is: what it computes is no matter here
            save(draft.path("model.fp16.onnx"), ("x",), ("logits", "r"), ("a", "l", "r", "logits"), batch, size)
            record = GraphRecord("model.fp16.onnx", "fp16", "", onnx_sha256, {"fp16": 3}, "model.onnx", 0.1)
            draft.add_graph(record)
            if cpu:
                save(draft.path("model.fp16.cpu.onnx"), ("x",), ("logits", "r"), ("a", "l", "r", "logits"), batch, size)
                draft.add_cpu_graph(replace(record, file="model.fp16.cpu.onnx"))
        if parts:
            draft.add_split(split_record(draft, parts, onnx_sha256, **options))
    return Bundle.open(target)


def split_record(draft, parts, onnx_sha256, batch="N", size=8, data=False):
    """The record of `parts`, their files written."""
    records = []
    for name, (device, stream, computed, sources, gives) in parts.items():
        file = f"parts/fp32/{name}.onnx"
        save(draft.path(file), sources, gives, computed, batch, size, data)
        inputs, outputs = (tuple(spec(n, batch, size) for n in names) for names in (sources, gives))
        records.append(PartRecord(name, file, "", device, stream, inputs, outputs, sources))
    devices, streams = (1 + max(part[i] for part in parts.values()) for i in (0, 1))
    return SplitRecord("fp32", onnx_sha256, devices, streams, tuple(records), RESULTS)


def profile(inputs, batches, sizes=(8, 8, 8)):
    """An optimization profile of these inputs."""
    shapes = ((batch, 4, size, size) for batch, size in zip(batches, sizes, strict=True))
    return dict.fromkeys((s.name for s in inputs), ShapeRange(*shapes))


def add_engines(
    target, precision="fp32", backend="tensorrt", batches=((1, 8, 32),), parts=False, sizes=(8, 8, 8), but=()
):
    """Engines that no TensorRT made: of the whole network, or of each of its parts but some."""
    with update_bundle(Path(target)) as draft:
        manifest = draft.manifest
        graphs = {g.precision: g.sha256 for g in manifest.graphs}
        graphs["fp32"] = next(link.sha256 for link in manifest.chain if link.step == "onnx")
        subjects = [("net", graphs[precision], manifest.inputs)]
        if parts:
            split = next(s for s in manifest.splits if s.precision == precision)
            subjects = [(p.name, p.sha256, p.inputs) for p in split.parts if p.name not in but]
        for n, sha256, inputs in subjects:
            file = f"engines/{n}-{backend}-{precision}.engine"
            draft.path(file).write_bytes(file.encode())
            record = draft.record(file)
            profiles = tuple(profile(inputs, b, sizes) for b in batches)
            made_by = (backend, "10.13.3.9", precision, False, ("sm90",), "NVIDIA H100 80GB HBM3", profiles, 1.0)
            draft.add_engine(EngineRecord(file, *made_by, record.size, record.sha256, sha256))
    return Bundle.open(target)
