"""A typed graph in float32, each result rounded: against rounding by hand."""

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
import torch
from numpy.testing import assert_array_equal
from torch.nn.functional import conv2d

from plainconv.exporter.precision.emulate import emulated
from plainconv.exporter.precision.narrow import narrow

TYPES = {"fp16": (ir.DataType.FLOAT16, torch.float16), "bf16": (ir.DataType.BFLOAT16, torch.bfloat16)}
CHAIN = """(float[1,2,5,5] x) => (float[1,2,5,5] y) {
    a = Conv<pads=[1,1,1,1]>(x, v)
    r = Relu(a)
    y = Conv<pads=[1,1,1,1]>(r, w)
}"""


def sixteenths(rng, *shape):
    """Numbers k/16, −2 to 2: sums of a few products of two are exact in float32, in whatever order, not in 16 bits."""
    return (rng.integers(-32, 33, shape) / 16).astype(np.float32)


@pytest.mark.parametrize("kind", TYPES)
def test_each_result_is_rounded_as_the_type_would(made, checked, outputs, kind):
    """Given conv → relu → conv, whose sums are exact in float32 → the numbers of rounding by hand, bit for bit."""
    dtype, rounding = TYPES[kind]
    rng = np.random.default_rng(0)
    v, w, x = sixteenths(rng, 2, 2, 3, 3), sixteenths(rng, 2, 2, 3, 3), sixteenths(rng, 1, 2, 5, 5)
    x = x + np.float32(2.0**-9)  # not of the type
    model = made(CHAIN, {"v": v, "w": w})
    narrow(model, dtype)
    wide = emulated(model)
    checked(wide)
    assert {n.dtype for node in wide.graph if node.op_type != "Cast" for n in node.outputs} == {ir.DataType.FLOAT}

    def once(t):
        return torch.as_tensor(t).to(rounding).float()

    a = once(conv2d(once(x), once(v), padding=1))
    want = once(conv2d(torch.relu(a), once(w), padding=1))
    assert_array_equal(outputs(wide, x)[0], want.numpy())
    assert not np.array_equal(outputs(made(CHAIN, {"v": v, "w": w}), x)[0], want.numpy())


def test_given_model_stays_as_it_is(made, checked):
    model = made(CHAIN, {"v": (2, 2, 3, 3), "w": (2, 2, 3, 3)})
    narrow(model, ir.DataType.FLOAT16, {"relu"})
    before = checked(model)
    checked(emulated(model))
    assert checked(model) == before


def test_float32_graph_is_the_same(made, checked):
    model = made(CHAIN, {"v": (2, 2, 3, 3), "w": (2, 2, 3, 3)})
    assert checked(emulated(model)) == checked(model)


def test_cast_from_integers_rounds(made, outputs):
    """Given Cast of 2049 to float16 → 2048, and an overflow → an infinity."""
    model = made("(int64[3] x) => (float[3] y) { a = Cast<to=1>(x) y = Relu(a) }")
    narrow(model, ir.DataType.FLOAT16)
    assert_array_equal(outputs(emulated(model), np.array([2049, 3, 70000]))[0], [2048, 3, np.inf])


def test_names_that_are_taken(made, checked):
    model = made(
        '(float[1,2] x) => (float[1,2] y) { "y.rounded" = Neg(x) "y.exact" = Exp("y.rounded") y = Relu("y.exact") }'
    )
    narrow(model, ir.DataType.FLOAT16)
    checked(emulated(model))


# --- parts of a split graph, which read and give narrow types ------------------------------------------------------

NARROW = {"fp16": ("float16", np.float16), "bf16": ("bfloat16", ml_dtypes.bfloat16)}


def part(made, text, kind, **weights):
    """`text` with T for the type, and weights in it."""
    name, dtype = NARROW[kind]
    return made(text.replace("T[", f"{name}["), {key: value.astype(dtype) for key, value in weights.items()})


@pytest.mark.parametrize("kind", TYPES)
def test_part_that_begins_and_ends_in_a_narrow_type(made, checked, outputs, signature, kind):
    """Given conv → relu of T to T → the same names, in float32, and the numbers of rounding by hand, bit for bit."""
    rng = np.random.default_rng(0)
    w, x = sixteenths(rng, 2, 2, 3, 3), sixteenths(rng, 1, 2, 5, 5)
    model = part(made, "(T[1,2,5,5] x) => (T[1,2,5,5] y) { a = Conv<pads=[1,1,1,1]>(x, w) y = Relu(a) }", kind, w=w)
    wide = emulated(model)
    checked(wide)
    assert signature(wide) == [(name, ir.DataType.FLOAT, [1, 2, 5, 5]) for name in "xy"]
    rounding = TYPES[kind][1]
    a = conv2d(torch.as_tensor(x), torch.as_tensor(w), padding=1).to(rounding).float()
    assert_array_equal(outputs(wide, x)[0], torch.relu(a).numpy())
    assert not np.array_equal(a.numpy(), conv2d(torch.as_tensor(x), torch.as_tensor(w), padding=1).numpy())


@pytest.mark.parametrize("kind", TYPES)
def test_narrow_output_that_the_part_reads_too(made, checked, outputs, signature, kind):
    """Given an output in T that another node reads → both have the rounded numbers, under the names they had."""
    text = "(T[4] x, T[4] z) => (T[4] s, T[4] y) { s = Add(x, z) y = Mul(s, s) }"
    wide = emulated(part(made, text, kind))
    checked(wide)
    assert [name for name, *_ in signature(wide)] == ["x", "z", "s", "y"]
    dtype = NARROW[kind][1]
    x, z = (np.array(v, dtype) for v in ([1, 3, 200, -7], [1 / 3, 1 / 512, 1, 1e-3]))
    s, y = outputs(wide, x.astype(np.float32), z.astype(np.float32))
    once = (x.astype(np.float32) + z.astype(np.float32)).astype(dtype).astype(np.float32)
    assert_array_equal(s, once)
    assert_array_equal(y, (once * once).astype(dtype).astype(np.float32))


@pytest.mark.parametrize("kind", TYPES)
def test_part_that_narrows_and_part_that_widens(made, checked, outputs, kind):
    """Given float32 cast to T in one part and back in the next → together one rounding of each number."""
    name, dtype = NARROW[kind]
    code = int(TYPES[kind][0])
    down = emulated(made(f"(float[3] x) => ({name}[3] c) {{ c = Cast<to={code}>(x) }}"))
    up = emulated(made(f"({name}[3] c) => (float[3] y) {{ y = Cast<to=1>(c) }}"))
    for model in (down, up):
        checked(model)
    x = np.array([1 / 3, 2049, 1e30], np.float32)
    with np.errstate(over="ignore"):
        wanted = x.astype(dtype).astype(np.float32)
    (between,) = outputs(down, x)
    assert between.dtype == np.float32
    assert_array_equal(between, wanted)
    assert_array_equal(outputs(up, between)[0], wanted)


def test_several_narrow_outputs_of_one_node(made, checked, outputs, signature):
    """Given Split, both halves outputs, one read again → their names, in order."""
    text = "(T[4] x) => (T[2] b, T[2] a, T[2] y) { a, b = Split<num_outputs=2>(x) y = Add(a, a) }"
    wide = emulated(part(made, text, "fp16"))
    checked(wide)
    assert [name for name, *_ in signature(wide)] == ["x", "b", "a", "y"]
    b, a, y = outputs(wide, np.array([1, 2, 3, 4], np.float32))
    assert_array_equal(np.concatenate([a, b, y]), [1, 2, 3, 4, 2, 4])


def test_names_that_are_taken_where_an_output_is_narrow(made, checked, outputs, signature):
    """Given values called as the new ones would be → the output keeps its name, none is there twice."""
    text = """(T[2] x) => (T[2] y) {
        "y.raw" = Neg(x) "y.rounded" = Exp("y.raw") "y.exact" = Relu("y.rounded") y = Neg("y.exact")
    }"""
    wide = emulated(part(made, text, "fp16"))
    checked(wide)
    assert [name for name, *_ in signature(wide)] == ["x", "y"]
    x = np.array([0.5, -0.25], np.float32)
    wanted = -np.exp(-x).astype(np.float16).astype(np.float32)
    assert_array_equal(outputs(wide, x)[0], wanted)


def test_narrow_weights_and_quantized_values_at_the_ends(made, checked, outputs, signature):
    """Given a part from int8 to int8 through float16 → int8 stays int8, scales of the type are exact in float32."""
    text = """(int8[4] q) => (int8[4] p) {
        x = DequantizeLinear(q, s) y = Add(x, b) p = QuantizeLinear(y, s, z)
    }"""
    weights = {"s": np.array(0.1, np.float16), "b": np.array(0.3, np.float16), "z": np.array(0, np.int8)}
    wide = emulated(made(text, weights))
    checked(wide)
    assert [dtype for _, dtype, _ in signature(wide)] == [ir.DataType.INT8] * 2
    scale, bias = np.float16(0.1).astype(np.float32), np.float16(0.3).astype(np.float32)
    q = np.array([-128, -1, 5, 127], np.int8)
    x = (q * scale).astype(np.float16).astype(np.float32)
    y = (x + bias).astype(np.float16).astype(np.float32)
    assert_array_equal(outputs(wide, q)[0], np.clip(np.rint(y / scale), -128, 127).astype(np.int8))
