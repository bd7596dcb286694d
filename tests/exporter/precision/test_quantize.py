"""Q/DQ: which values, by which scales, against NumPy."""

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch.nn import functional

from plainconv.exporter.precision.formats import QUANTIZED
from plainconv.exporter.precision.layout import quantizable
from plainconv.exporter.precision.narrow import narrow
from plainconv.exporter.precision.quantize import quantize

INT8, FP8 = QUANTIZED["int8"], QUANTIZED["fp8"]
FLOAT, FP16, BF16 = ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16
kinds = pytest.mark.parametrize("kind", [INT8, FP8], ids=["int8", "fp8"])
CONV = "(float[1,3,6,6] x) => (float[1,4,4,4] y) { y = Conv(x, w, b) }"


def stored_by_hand(kind, values, scale):
    steps = np.clip(values / scale, -kind.largest, kind.largest)
    return np.rint(steps).astype(np.int8) if kind is INT8 else steps.astype(ml_dtypes.float8_e4m3fn)


def held(model, end):
    """The initializer whose name ends so."""
    (value,) = [v for name, v in model.graph.initializers.items() if name.endswith(end)]
    return value.const_value.numpy()


def count(model, op):
    return sum(node.op_type == op for node in model.graph)


@kinds
def test_conv_equals_numpy(made, checked, outputs, kind):
    """Given conv(x, w) + b → conv of what Q/DQ leave of x and w, computed by hand; the bias untouched."""
    model = made(CONV, {"w": (4, 3, 3, 3), "b": (4,)})
    w, b = held(model, "w"), held(model, "b")
    x = np.random.default_rng(1).standard_normal((1, 3, 6, 6)).astype(np.float32)
    largest = 2.5  # some of x lies beyond
    assert np.abs(x).max() > largest
    quantize(model, kind, {"x": largest})
    checked(model)
    sx, sw = np.float32(largest / kind.largest), np.abs(w).max(axis=(1, 2, 3), keepdims=True) / np.float32(kind.largest)
    x_q = np.clip(x / sx, -kind.largest - (kind is INT8), kind.largest)
    x_q = np.rint(x_q) if kind is INT8 else x_q.astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
    w_q = stored_by_hand(kind, w, sw).astype(np.float32) * sw
    want = functional.conv2d(torch.tensor(x_q * sx), torch.tensor(w_q), torch.tensor(b))
    assert_allclose(outputs(model, x)[0], want, rtol=1e-5, atol=1e-5)
    assert_array_equal(held(model, "b"), b)
    assert model.graph.outputs[0].producer().inputs[2].name == "b"


@pytest.mark.parametrize(
    ("text", "shape", "axis"),
    [
        ("(float[1,4,6,6] x) => (float[1,6,4,4] y) { y = Conv(x, w) }", (6, 4, 3, 3), 0),
        ("(float[1,4,6,6] x) => (float[1,6,4,4] y) { y = Conv<group=2>(x, w) }", (6, 2, 3, 3), 0),
        ("(float[1,4,6] x) => (float[1,6,4] y) { y = Conv(x, w) }", (6, 4, 3), 0),
        ("(float[1,4,6,6] x) => (float[1,5,8,8] y) { y = ConvTranspose(x, w) }", (4, 5, 3, 3), 1),
        ("(float[1,4,6,6] x) => (float[1,6,8,8] y) { y = ConvTranspose<group=2>(x, w) }", (4, 3, 3, 3), None),
        ("(float[2,4] x) => (float[2,5] y) { y = Gemm(x, w) }", (4, 5), 1),
        ("(float[2,4] x) => (float[2,5] y) { y = Gemm<transB=1>(x, w) }", (5, 4), 0),
        ("(float[2,4] x) => (float[2,5] y) { y = MatMul(x, w) }", (4, 5), 1),
        ("(float[3,2,4] x) => (float[3,2,5] y) { y = MatMul(x, w) }", (4, 5), 1),
        ("(float[3,2,4] x) => (float[3,2,5] y) { y = MatMul(x, w) }", (3, 4, 5), None),
        ("(float[2,4] x) => (float[2] y) { y = MatMul(x, w) }", (4,), None),
    ],
)
@kinds
def test_one_scale_for_each_channel_of_the_output(made, checked, outputs, kind, text, shape, axis):
    """Given a weight whose channels differ by 1000 → one scale a channel, along the axis on which they lie."""
    random = np.random.default_rng(2).standard_normal(shape).astype(np.float32)
    sizes = np.logspace(0, 3, shape[axis or 0], dtype=np.float32)
    w = random * sizes.reshape([-1 if i == (axis or 0) else 1 for i in range(len(shape))])
    model = made(text, {"w": w})
    x = np.random.default_rng(3).uniform(-1, 1, tuple(model.graph.inputs[0].shape)).astype(np.float32)
    wanted = outputs(model, x)[0]
    quantize(model, kind, {"x": 1.0})
    checked(model)
    node = next(n for n in model.graph if n.op_type == "DequantizeLinear" and n.inputs[0].name.startswith("w"))
    scale, stored = held(model, "w.scale"), held(model, "w.quantized").astype(np.float32)
    assert scale.shape == (() if axis is None else (shape[axis],))
    assert axis is None or node.attributes["axis"].as_int() == axis
    assert_array_equal(np.abs(stored).max(axis=tuple(i for i in range(len(shape)) if i != axis)), kind.largest)
    # |Σ x w − Σ x' w'| ≤ Σ |x − x'||w'| + |x||w − w'|, each off by half a step of int8 or of the largest fp8, |x| ≤ 1
    step = 1 / 254 if kind is INT8 else 1 / 16
    off = np.abs(outputs(model, x)[0] - wanted)
    assert off.max() > 0
    reach = np.prod(shape) if axis is None else np.prod(shape) / shape[axis]
    tops = np.abs(w).max() if axis is None else np.abs(w).max(axis=tuple(i for i in range(len(shape)) if i != axis))
    bound = reach * tops * (2 * step + step**2) * 1.001
    channel = off if axis is None else np.moveaxis(off, 1 if text.count("Conv") else -1, -1)
    assert (channel <= bound).all()


def test_shared_values_are_quantized_once(made, checked):
    """Given one weight and one input for three convs → one Q, one DQ of each."""
    model = made(
        "(float[1,4,6,6] x) => (float[1,4,4,4] y) { a = Conv(x, w) b = Conv(x, w) c = Conv(x, v) y = Sum(a, b, c) }",
        {"w": (4, 4, 3, 3), "v": (4, 4, 3, 3)},
    )
    quantize(model, INT8, {"x": 1.0})
    checked(model)
    assert (count(model, "QuantizeLinear"), count(model, "DequantizeLinear")) == (1, 3)


def test_weight_shared_along_different_axes(made, checked, outputs):
    """Given one weight read as it is and transposed → quantized along either axis, under different names."""
    model = made("(float[2,4] x) => (float[2,4] y) { a = Gemm(x, w) y = Gemm<transB=1>(a, w) }", {"w": (4, 4)})
    x = np.random.default_rng(0).uniform(-1, 1, (2, 4)).astype(np.float32)
    wanted = outputs(model, x)[0]
    quantize(model, INT8, {"x": 1.0, "a": 4.0})
    checked(model)
    assert count(model, "DequantizeLinear") == 4
    assert_allclose(outputs(model, x)[0], wanted, atol=0.2)


@kinds
def test_channels_of_zeros(made, checked, outputs, kind):
    """Given a weight with a channel of zeros, and one all zeros → finite scales, and zeros come out."""
    w = np.ones((4, 3, 3, 3), np.float32)
    w[2] = 0
    for weight in (w, np.zeros_like(w)):
        model = made(CONV, {"w": weight, "b": np.zeros(4, np.float32)})
        quantize(model, kind, {"x": 0.0})
        checked(model)
        assert (held(model, "w.scale") > 0).all()
        assert (held(model, "x.scale") > 0).all()
        assert not outputs(model, np.zeros((1, 3, 6, 6), np.float32))[0].any()
        assert not outputs(model, np.ones((1, 3, 6, 6), np.float32))[0][:, 2].any()


@pytest.mark.parametrize(
    ("rest", "size"),
    [(rest, size) for rest in (FLOAT, BF16) for size in (1e30, 1e4, 1e-3, 1e-5, 1e-7, 1e-30, 1e-44)]
    + [(FP16, size) for size in (1e4, 1e-3, 1e-4, 3e-5, 1e-5, 1e-7, 1e-30)],  # beyond its range layers stay in float32
)
@kinds
def test_huge_and_small_weights(made, checked, kind, rest, size):
    """Given weights of any size → scales are numbers of the other type, and each weight is within half a step."""
    model = made(CONV, {"w": (4, 3, 3, 3), "b": (4,)})
    model.graph.initializers["w"].const_value = ir.tensor(held(model, "w") * np.float32(size), name="w")
    w = held(model, "w")
    quantize(model, kind, {"x": size}, rest=rest)
    checked(model)
    stored, scale = held(model, "w.quantized").astype(np.float32), held(model, "w.scale").reshape(-1, 1, 1, 1)
    assert_array_equal(scale.astype(rest.numpy()).astype(np.float32), scale)
    assert np.isfinite(stored).all() and np.abs(stored).max() <= kind.largest
    w_exact = w.astype(np.float64)
    step = np.abs(w_exact).max(axis=(1, 2, 3), keepdims=True) / kind.largest
    info = ml_dtypes.finfo(rest.numpy())
    least = float(info.smallest_subnormal)
    assert (scale <= step * (1 + float(info.eps)) + least).all() or size < 1e-40  # a step of float32's own is 0 there
    half = scale.astype(np.float64) / 2 if kind is INT8 else np.maximum(np.abs(w_exact) / 16, scale * 2.0**-10)
    assert (np.abs(stored.astype(np.float64) * scale - w_exact) <= half * 1.0001).all()


@pytest.mark.parametrize("rest", [FP16, BF16])
def test_scale_survives_in_the_other_type(made, checked, rest):
    """Given weights so small that their scale is coarse in the other type → narrowed, the graph has the same scale."""
    model = made(CONV, {"w": (4, 3, 3, 3), "b": (4,)})
    model.graph.initializers["w"].const_value = ir.tensor(held(model, "w") * np.float32(1e-5), name="w")
    quantize(model, INT8, {"x": 1.0}, rest=rest)
    before = held(model, "w.scale"), held(model, "x.scale")
    narrow(model, rest)
    checked(model)
    name = rest.name.lower()
    assert_array_equal(held(model, f"w.scale.{name}").astype(np.float32), before[0])
    q, dq = (n for n in model.graph if n.name in ("x.quantized", "x.dequantized"))
    assert float(q.inputs[1].const_value.numpy()) == float(dq.inputs[1].const_value.numpy()) == float(before[1])


def test_int8_range_is_symmetric(made):
    """Given weights −1 and 1 → −127 and 127, never −128."""
    w = np.linspace(-1, 1, 4 * 27, dtype=np.float32).reshape(4, 3, 3, 3)
    model = made(CONV, {"w": w, "b": (4,)})
    quantize(model, INT8, {"x": 1.0})
    stored = held(model, "w.quantized")
    assert (stored.min(), stored.max()) == (-127, 127)
    assert_array_equal(stored, -stored[::-1, ::-1, ::-1, ::-1])


def test_fp8_saturates(made, outputs):
    """Given values beyond the range → 448 steps, where a cast by itself would give not a number."""
    assert np.isnan(np.float32(500).astype(ml_dtypes.float8_e4m3fn).astype(np.float32))
    model = made("(float[1,1] x) => (float[1,1] y) { y = MatMul(x, w) }", {"w": np.array([[3.3]], np.float32)})
    quantize(model, FP8, {"x": 1.0})
    assert held(model, "w.quantized").astype(np.float32) == 448
    assert_allclose(outputs(model, np.array([[100]], np.float32))[0], [[3.3]], rtol=1e-6)


def test_kept_nodes_and_what_has_no_weight_are_left(made, checked):
    """Given a kept product, one of two computed values, one with its constant on the left → each as it was."""
    model = made(
        """(float[2,2] x) => (float[2,2] y) {
            a = MatMul(x, w)  b = MatMul(a, a)  c = MatMul(w, b)  v = Neg(w)  y = MatMul(c, v)
        }""",
        {"w": (2, 2)},
    )
    before = checked(model)
    assert [quantizable(n) for n in model.graph] == [True, False, False, False, False]
    quantize(model, INT8, {"x": 1.0}, {"matmul"})
    assert checked(model) == before


def test_weight_that_is_no_float32_is_left(made, checked):
    model = made(
        "(float16[1,3,6,6] x) => (float16[1,4,4,4] y) { y = Conv(x, w) }", {"w": np.ones((4, 3, 3, 3), np.float16)}
    )
    before = checked(model)
    quantize(model, INT8, {})
    assert checked(model) == before


def test_kept_reader_of_a_quantized_value_reads_it_exactly(made, checked):
    model = made(
        "(float[1,4,6,6] x) => (float[1,4,4,4] y) { a = Conv(x, w) b = Conv(x, w) y = Add(a, b) }", {"w": (4, 4, 3, 3)}
    )
    quantize(model, INT8, {"x": 1.0}, {"conv"})
    checked(model)
    kept, other = (n for n in model.graph if n.op_type == "Conv")
    assert [v.name for v in kept.inputs] == ["x", "w"]
    assert {v.producer().op_type for v in other.inputs} == {"DequantizeLinear"}


def test_names_that_are_taken(made, checked):
    model = made(
        '(float[2,2] x) => (float[2,2] y) { "x.quantized" = MatMul(x, w) y = MatMul("x.quantized", "x.scale") }',
        {"w": (2, 2), "x.scale": (2, 2)},
    )
    quantize(model, INT8, {"x": 1.0, "x.quantized": 1.0})
    checked(model)
    assert count(model, "QuantizeLinear") == 2
