"""Q/DQ for CPUs: which values, by which scales, and that ONNX Runtime has kernels for all of it."""

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from plainconv.exporter.onnx_file.ir_graph import save
from plainconv.exporter.onnx_file.layer_types import types_of_layers
from plainconv.exporter.parity import run_onnx
from plainconv.exporter.precision import CPU
from plainconv.exporter.precision.calibrate import lows_of, ranges_of
from plainconv.exporter.precision.formats import QUANTIZED
from plainconv.exporter.precision.quantize import MOST_BIAS, MOST_WEIGHT, quantize

INT8 = QUANTIZED["int8"]
BLOCK = """(float[1,3,12,12] x) => (float[1,5] y) {
    [first] a = Conv<pads=[1,1,1,1]>(x, w, b)
    a_relu = Relu(a)
    p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a_relu)
    [second] c = Conv<pads=[1,1,1,1]>(p, v)
    s = Sigmoid(c)
    gated = Mul(c, s)
    summed = Add(p, gated)
    shifted = Add(summed, shift)
    r = Relu(shifted)
    both = Concat<axis=1>(r, p)
    g = GlobalAveragePool(both)
    f = Flatten(g)
    [head] y = Gemm<transB=1>(f, u, t)
}"""
WEIGHTS = {"w": (8, 3, 3, 3), "b": (8,), "v": (8, 8, 3, 3), "shift": (1, 8, 1, 1), "u": (5, 16), "t": (5,)}


def quantized(model, x, kept=frozenset()):
    """`model`, for CPUs, its ranges those of `x`."""
    images = {"x": x}
    quantize(
        model, INT8, ranges_of(model, images, "minmax", 1, layout=CPU), kept, layout=CPU, lows=lows_of(model, images, 1)
    )
    return model


def held(model, name):
    return model.graph.initializers[name].const_value.numpy()


def images(*shape, seed=1):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def ops_as_run(path, tmp_path):
    """How many of each op there are in the graph that ONNX Runtime runs."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)


def test_all_of_a_network_has_kernels_in_int8(made, checked, outputs, tmp_path):
    """Given convs, a gate, a residual, a shift, a concat and pools -> no float op is left, and the same numbers."""
    model, x = made(BLOCK, WEIGHTS), images(4, 3, 12, 12)
    wanted = outputs(model, x[:1])[0]
    quantized(model, x)
    checked(model)
    assert types_of_layers(model) == {"first": "int8", "second": "int8", "head": "int8"}
    save(model, tmp_path / "net.onnx")
    ops = ops_as_run(tmp_path / "net.onnx", tmp_path)
    assert (ops["QLinearConv"], ops["QGemm"], ops["QLinearAdd"], ops["QLinearMul"]) == (2, 1, 2, 1)
    assert not {"Conv", "FusedConv", "Gemm", "Add", "Mul", "Relu", "Sigmoid", "Concat"} & set(ops)
    emulated = outputs(model, x[:1])[0]
    served = run_onnx(tmp_path / "net.onnx")(x[:1])[0]
    assert 0 < np.abs(emulated - wanted).max() < 0.1 * np.abs(wanted).max()
    assert_allclose(served, emulated, atol=0.02 * np.abs(wanted).max())  # a step where a sum lies between two


def test_zero_points_and_scales(made, checked):
    """Given a signed input and what a ReLU gives -> 255 steps from the lowest number to the highest; 0 is exact."""
    model, x = made(BLOCK, WEIGHTS), images(4, 3, 12, 12)
    low, high = float(x.min()), float(np.abs(x).max())
    quantized(model, x)
    scale, zero = held(model, "x.scale"), held(model, "x.zero")
    assert_allclose(scale, (high - low) / 255, rtol=1e-6)
    assert zero == np.rint(-low / scale) and zero.dtype == np.uint8
    assert held(model, "a_relu.zero") == 0
    assert_array_equal(held(model, "p.scale"), held(model, "a_relu.scale"))  # a pool only moves
    assert "a.scale" not in model.graph.initializers and "y.scale" not in model.graph.initializers


def test_weights_and_biases_are_stored(made):
    """Given a conv with a bias -> weights within ±64, one scale a channel; the bias by both scales."""
    model = made(BLOCK, WEIGHTS)
    w, b = held(model, "w"), held(model, "b")
    quantized(model, images(4, 3, 12, 12))
    stored, scale = held(model, "w.quantized"), held(model, "w.scale")
    assert stored.dtype == np.int8 and np.abs(stored.astype(int)).max() == MOST_WEIGHT
    assert_array_equal(np.abs(stored.astype(int)).max(axis=(1, 2, 3)), MOST_WEIGHT)
    assert_allclose(stored * scale.reshape(-1, 1, 1, 1), w, atol=scale.max() / 2 * 1.001)
    b_q, b_step = held(model, "b.quantized"), held(model, "b.scale")
    assert b_q.dtype == np.int32
    assert_allclose(b_step, scale * held(model, "x.scale"), rtol=1e-6)
    assert_allclose(b_q * b_step.astype(np.float64), b, atol=b_step.max())


def test_sums_of_two_products_fit_into_16_bits():
    """Given x86 without VNNI, which adds two products of a uint8 and a weight in int16 -> never beyond."""
    assert 2 * 255 * MOST_WEIGHT < 2**15


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-12])
def test_a_bias_over_weights_of_next_to_nothing(made, checked, outputs, size):
    """Given channels whose weights vanish beside their bias -> the bias fits into its type, and comes out."""
    text = """(float[1,3,6,6] x) => (float[1,2] y) {
        a = Conv(x, w, b)  r = Relu(a)  g = GlobalAveragePool(r)  f = Flatten(g)  y = Gemm<transB=1>(f, u)
    }"""
    w = images(4, 3, 3, 3)
    w[1] *= size
    model = made(text, {"w": w, "b": np.array([1, 2, 0, 3], np.float32), "u": images(2, 4)})
    x = images(3, 3, 6, 6)
    wanted = outputs(model, x[:1])[0]
    quantized(model, x)
    checked(model)
    assert np.abs(held(model, "b.quantized").astype(np.int64)).max() <= MOST_BIAS
    assert (held(model, "b.scale") > 0).all()
    assert_allclose(outputs(model, x[:1])[0], wanted, atol=0.1)


def test_the_end_of_a_network_stays_as_it_is(made, checked):
    """Given a conv whose result is an output -> it has no kernel in int8, and neither it nor its result is rounded."""
    text = """(float[1,3,6,6] x) => (float[1,2,4,4] y) {
        [body] a = Conv<pads=[1,1,1,1]>(x, w)  r = Relu(a)  [end] c = Conv(r, v)  y = Sigmoid(c)
    }"""
    model = made(text, {"w": (4, 3, 3, 3), "v": (2, 4, 3, 3)})
    quantized(model, images(2, 3, 6, 6))
    checked(model)
    assert types_of_layers(model) == {"body": "int8", "end": "fp32"}
    assert not {"c.scale", "y.scale", "v.scale"} & set(model.graph.initializers)


def test_kept_layers_and_transposed_convs_are_left(made, checked):
    text = """(float[1,3,6,6] x) => (float[1,2] y) {
        [up] a = ConvTranspose(x, w)  [kept] b = Conv(a, v)  g = GlobalAveragePool(b)  f = Flatten(g)
        [head] y = Gemm<transB=1>(f, u)
    }"""
    model = made(text, {"w": (3, 4, 2, 2), "v": (4, 4, 3, 3), "u": (2, 4)})
    quantized(model, images(2, 3, 6, 6), {"kept"})
    checked(model)
    assert types_of_layers(model) == {"up": "fp32", "kept": "fp32", "head": "int8"}
    assert [n for n in model.graph.initializers if n.endswith(".zero")] == ["f.zero", "u.zero"]
