"""Graphs as `exporter.precision` types them, built by TensorRT-RTX, which needs no GPU for it. Nothing is run."""

import importlib.util

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from plainconv.engines import backend as backend_module
from plainconv.engines.options import BuildOptions
from plainconv.engines.tensorrt import build as tensorrt
from plainconv.exporter.onnx_file.ir_graph import save
from plainconv.exporter.precision import NAMES, precision_of_name
from plainconv.exporter.precision.calibrate import ranges_of
from plainconv.exporter.precision.edit import settled
from plainconv.exporter.precision.formats import FLOATS, QUANTIZED
from plainconv.exporter.precision.narrow import narrow
from plainconv.exporter.precision.quantize import quantize

pytestmark = pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="needs tensorrt-rtx")

TARGET = "sm89"  # the first with fp8
NET = """(float[2,16,16,16] x) => (float[2,10] logits) {
    a = Conv<pads=[1,1,1,1]>(x, first, bias)
    b = BatchNormalization(a, scale, shift, mean, var)
    c = Relu(b)
    d = Conv<pads=[1,1,1,1], group=4>(c, grouped)
    e = Conv<pads=[1,1,1,1], group=16>(c, depthwise)
    f = Sum(c, d, e)
    g = MaxPool<kernel_shape=[2,2], strides=[2,2]>(f)
    h = Resize<mode="linear", coordinate_transformation_mode="half_pixel">(g, , scales)
    i = Clip(h, low, high)
    s = Sigmoid(d)
    j = Mul(i, s)
    k = Concat<axis=1>(j, c)
    l = GlobalAveragePool(k)
    m = Flatten(l)
    n = Gemm<transB=1>(m, rows, bias20)
    o = Gemm(n, columns)
    logits = MatMul(o, last)
}"""
TRANSPOSED = """(float[1,8,8,8] x) => (float[1,4,17,17] y) {
    a = ConvTranspose<strides=[2,2]>(x, up)
    b = HardSwish(a)
    y = ConvTranspose<group=2>(b, grouped)
}"""
SHAPES = {
    "first": (16, 16, 3, 3), "bias": (16,), "scale": (16,), "shift": (16,), "mean": (16,), "var": (16,),
    "grouped": (16, 4, 3, 3), "depthwise": (16, 1, 3, 3), "rows": (20, 32), "bias20": (20,), "columns": (20, 12),
    "last": (12, 10),
}  # fmt: skip


@pytest.fixture(scope="module")
def rtx():
    return next(b for b in backend_module.backends() if b.name == "tensorrt_rtx")


def graph(text, shapes):
    """`text` as float32 with seeded weights."""
    rng = np.random.default_rng(0)
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 22]> g {text}')
    arrays = {name: np.abs(rng.standard_normal(shape)) + 0.1 for name, shape in shapes.items()}
    arrays |= {"scales": np.array([1, 1, 2, 2]), "low": np.array(0), "high": np.array(6)}
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(a.astype(np.float32), n) for n, a in arrays.items())
    return settled(ir.serde.deserialize_model(proto))


def typed(model, name, kept=frozenset()):
    """`model` in the precision `name` but for the nodes `kept`, calibrated on random images."""
    precision = precision_of_name(name)
    if precision.quantized:
        shape = tuple(model.graph.inputs[0].shape)
        images = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
        ranges = ranges_of(model, {str(model.graph.inputs[0].name): images}, "minmax", shape[0])
        rest = FLOATS.get(precision.rest, ir.DataType.FLOAT)
        quantize(model, QUANTIZED[precision.quantized], ranges, kept, rest)
    if precision.rest != "fp32":
        narrow(model, FLOATS[precision.rest], kept)
    return model


def built(model, rtx, path):
    save(model, path)
    return tensorrt.compile_onnx(path, rtx, BuildOptions(targets=(TARGET,)))


@pytest.mark.parametrize("name", NAMES)
def test_every_precision_builds(rtx, tmp_path, name):
    """Given convs of each kind, a norm, pool, resize, clip, concat, products → every layer is in the type."""
    model = typed(graph(NET, SHAPES), name)
    compiled = built(model, rtx, tmp_path / "net.onnx")
    precision = precision_of_name(name)
    layers = {n.name for n in model.graph if n.op_type in ("Conv", "Gemm", "MatMul")}
    assert compiled.layers == dict.fromkeys(layers, precision.quantized or precision.rest)
    assert compiled.targets == (TARGET,)
    assert memoryview(compiled.data).nbytes > 0


@pytest.mark.parametrize("name", NAMES[1:])
def test_kept_layers_build_among_the_others(rtx, tmp_path, name):
    """Given one conv and one Gemm kept → these two are fp32, all others in the type."""
    kept = {"conv_", "gemm"}
    compiled = built(typed(graph(NET, SHAPES), name, kept), rtx, tmp_path / "net.onnx")
    precision = precision_of_name(name)
    assert {layer for layer, kind in compiled.layers.items() if kind == "fp32"} == kept
    assert {kind for layer, kind in compiled.layers.items() if layer not in kept} == {
        precision.quantized or precision.rest
    }


@pytest.mark.parametrize("name", NAMES)
def test_transposed_convs_build(rtx, tmp_path, name):
    """Given transposed convs and HardSwish, which the builder refuses in bf16 → a graph that it builds all the same."""
    model = typed(graph(TRANSPOSED, {"up": (8, 8, 3, 3), "grouped": (8, 2, 1, 1)}), name)
    compiled = built(model, rtx, tmp_path / "net.onnx")
    precision = precision_of_name(name)
    kind = precision.quantized or precision.rest
    assert set(compiled.layers.values()) == {"fp32" if kind == "bf16" else kind}
