"""A typed graph in float32, each result rounded: against rounding by hand."""

import numpy as np
import onnx_ir as ir
import pytest
import torch
from numpy.testing import assert_array_equal
from torch.nn.functional import conv2d

from exporter.precision.emulate import emulated
from exporter.precision.narrow import narrow

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
