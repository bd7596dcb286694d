"""Eight small networks, one for each kind of output that users deploy, each step of which is tried with faults."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper, parser
from places import ASSETS

from plainconv.exporter.onnx_file.file import read
from plainconv.exporter.onnx_module import module_from_onnx
from plainconv.exporter.parity import Reference, reference_from_module
from plainconv.exporter.pipeline.export import Job, export_bundle
from plainconv.exporter.source.network import Request
from plainconv.exporter.source.resolve import load_network
from plainconv.exporter.surgery.edit import sort
from plainconv.models.training.scenes import read_scenes

BODY = "a = Conv<pads=[1,1,1,1]>(x, w0) b = Relu(a) c = Conv<pads=[1,1,1,1]>(b, w1, b1) d = Relu(c)"
IMAGE, N = "float[N,3,16,16] x", "N"
BOXES = """e = Conv(d, w2, b2) f = Reshape(e, flat) h, s = Split<axis=1>(f, boxes_scores)
    bw = Mul(h, sixteen) boxes = Add(bw, middle) scores = Sigmoid(s)"""
TEXTS = {
    "classifier": (IMAGE, "float[N,10] y", f"{BODY} e = GlobalAveragePool(d) f = Flatten(e) y = Gemm<transB=1>(f, v)"),
    "decoded detector": (IMAGE, "float[N,9,256] y", f"{BODY} {BOXES} y = Concat<axis=1>(boxes, scores)"),
    "raw detector maps": (
        IMAGE,
        "float[N,9,16,16] y, float[N,9,8,8] z",
        f"{BODY} y = Conv(d, w2, b2) p = MaxPool<kernel_shape=[2,2],strides=[2,2]>(d) z = Conv(p, w3, b2)",
    ),
    "segmenter": (IMAGE, "float[N,6,16,16] y", f"{BODY} y = Conv(d, v6)"),
    "embedding": (
        IMAGE,
        "float[N,32] y",
        f"{BODY} e = GlobalAveragePool(d) f = Flatten(e) g = Gemm<transB=1>(f, v32) n = ReduceL2<axes=[1]>(g) "
        "y = Div(g, n)",
    ),
    "argmax": (IMAGE, "int64[N,16,16] y", f"{BODY} e = Conv(d, v6) y = ArgMax<axis=1,keepdims=0>(e)"),
    "two outputs": (
        IMAGE,
        "float[N,6,16,16] z, float[N,10] y",
        f"{BODY} z = Conv(d, v6) e = GlobalAveragePool(d) f = Flatten(e) y = Gemm<transB=1>(f, v)",
    ),
    "token scores": (
        "int64[N,12] x",
        "float[N,12,24] y",
        "a = Gather(words, x) b = MatMul(a, m0) c = Relu(b) d = MatMul(c, m1) e = Add(a, d) y = MatMul(e, m2)",
    ),
}
SHAPES = {
    "w0": (8, 3, 3, 3), "w1": (16, 8, 3, 3), "b1": (16,), "w2": (9, 16, 1, 1), "w3": (9, 16, 1, 1), "b2": (9,),
    "v": (10, 16), "v6": (6, 16, 1, 1), "v32": (32, 16), "words": (20, 16), "m0": (16, 32), "m1": (32, 16),
    "m2": (16, 24),
}  # fmt: skip
ARRAYS = {
    "flat": np.array([0, 9, -1]),
    "boxes_scores": np.array([4, 5]),
    "sixteen": np.full(1, 16, np.float32),
    "middle": np.full((1, 4, 1), 160, np.float32),
}


@dataclass(frozen=True)
class Net:
    """A file, and its reference."""

    path: Path
    reference: Reference
    images: np.ndarray


def make_net(kind: str, folder: Path) -> Net:
    """The network of `TEXTS`, seeded weights, and its reference on 13 random images and the edges."""
    inputs, outputs, text = TEXTS[kind]
    rng = np.random.default_rng(3)
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g ({inputs}) => ({outputs}) {{ {text} }}')
    for name, shape in SHAPES.items():
        if f"{name})" in text or f"{name}," in text:
            fan_in = np.prod(shape) / shape[-1 if name[0] == "m" else 0] if len(shape) > 1 else 4
            values = rng.standard_normal(shape) * (np.sqrt(2 / fan_in) if name != "words" else 1)
            model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    for name, values in ARRAYS.items():
        if name in text:
            model.graph.initializer.append(numpy_helper.from_array(values, name))
    path = folder / "net.onnx"
    onnx.save(model, path)
    graph, _ = read(path)
    sort(graph)
    shape = [1, 12] if kind == "token scores" else [1, 3, 16, 16]
    example = torch.arange(12)[None] + 7 if kind == "token scores" else torch.zeros(shape)
    names = [t.name for t in graph.outputs]
    reference = reference_from_module(module_from_onnx(graph), {"x": example}, output_names=names)
    return Net(path, reference, reference.arrays[0])


def make_trained(name: str, folder: Path) -> Net:
    """A trained network of the catalogue as the bundle has it, and its reference on held-out scenes besides."""
    request = Request(checkpoint=ASSETS / f"{name}.pth")
    path = export_bundle(Job(name, request, folder / "b", end_to_end=False)) / "model.onnx"
    images = read_scenes(ASSETS / "scenes_heldout.npz").images.numpy()
    network = load_network(name, request)
    reference = reference_from_module(
        network.module, {"input": network.example}, output_names=network.output_names, data=images[:13]
    )
    return Net(path, reference, images)


@pytest.fixture(scope="session")
def net_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Net]:
    """Makes each of the networks once: a kind of `TEXTS`, or a trained one by its name."""
    made: dict[str, Net] = {}

    def get(kind: str) -> Net:
        if kind not in made:
            make = make_net if kind in TEXTS else make_trained
            made[kind] = make(kind, tmp_path_factory.mktemp("net"))
        return made[kind]

    return get
