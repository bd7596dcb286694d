"""float32 → fp16 and bf16: what is in which type, where the Casts are, that the graph stays valid."""

import numpy as np
import onnx_ir as ir
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from plainconv.exporter.precision.formats import QUANTIZED
from plainconv.exporter.precision.narrow import narrow, rounded
from plainconv.exporter.precision.quantize import quantize
from plainconv.exporter.precision.run import run_of

FLOAT, FP16, BF16 = ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16
ULP = {FP16: 2.0**-10, BF16: 2.0**-7}
both = pytest.mark.parametrize("dtype", [FP16, BF16], ids=["fp16", "bf16"])

CONVS = """(float[2,3,8,8] x) => (float[2,5,6,6] y) {
    a = Conv<pads=[1,1,1,1]>(x, v, b)
    r = Relu(a)
    y = Conv(r, w)
}"""
WEIGHTS = {"v": (4, 3, 3, 3), "b": (4,), "w": (5, 4, 3, 3)}


def types(model, op):
    """Of the inputs and outputs of the one node of type `op`."""
    (node,) = [n for n in model.graph if op in (n.op_type, n.name)]
    return [v.dtype for v in node.inputs if v is not None], [v.dtype for v in node.outputs]


def casts(model):
    return [(n.inputs[0].name, n.outputs[0].dtype) for n in model.graph if n.op_type == "Cast"]


@both
def test_every_node_in_the_type_and_the_graph_as_it_was_outside(made, checked, signature, dtype):
    """Given conv → relu → conv → one Cast in, one out; weights stored in the type; the same names, shapes and types."""
    model = made(CONVS, WEIGHTS)
    before = signature(model)
    narrow(model, dtype)
    checked(model)
    assert signature(model) == before
    assert casts(model) == [("x", dtype), (model.graph.outputs[0].producer().inputs[0].name, FLOAT)]
    computing = [n for n in model.graph if n.op_type != "Cast"]
    assert {v.dtype for n in computing for v in (*n.inputs, *n.outputs)} == {dtype}
    assert {v.dtype for v in model.graph.initializers.values()} == {dtype}
    assert len(model.graph.initializers) == 3


@both
def test_kept_node_between_casts(made, checked, dtype):
    """Given relu kept → it alone is float32, and its inputs and outputs pass through Casts."""
    model = made(CONVS, WEIGHTS)
    narrow(model, dtype, {"relu"})
    checked(model)
    assert types(model, "Relu") == ([FLOAT], [FLOAT])
    assert casts(model)[1:3] == [("a", FLOAT), ("r", dtype)]


@both
def test_everything_kept_is_the_graph_as_it_was(made, checked, dtype):
    model, same = made(CONVS, WEIGHTS), made(CONVS, WEIGHTS)
    narrow(model, dtype, {str(n.name) for n in model.graph})
    assert checked(model) == checked(same)


@both
def test_value_is_cast_once_for_all_that_want_it(made, checked, dtype):
    """Given a float32 value read by three, a narrow one read by two kept nodes → one Cast each."""
    model = made(
        """(float[2,4] x) => (float[2,4] y) {
            a = Relu(x)  b = Neg(x)  c = Abs(x)
            d = Exp(a)  e = Tanh(a)
            f = Sum(b, c, d, e)
            y = Relu(f)
        }"""
    )
    narrow(model, dtype, {"exp", "tanh"})
    checked(model)
    assert casts(model).count(("x", dtype)) == 1
    assert casts(model).count(("a", FLOAT)) == 1


@both
def test_output_that_is_also_read_inside(made, checked, signature, outputs, dtype):
    """Given an output y that a narrow and a kept node read → one Cast gives the output and feeds the kept node."""
    model = made("(float[2,4] x) => (float[2,4] y, float[2,4] z) { y = Neg(x) a = Relu(y) b = Exp(y) z = Add(a, b) }")
    before = signature(model)
    narrow(model, dtype, {"exp"})
    checked(model)
    assert signature(model) == before
    assert len([n for n in model.graph if n.op_type == "Cast" and n.inputs[0].name != "x"]) == 3  # y, exp's, and z
    x = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)
    exact = -rounded(x, dtype).astype(np.float32)
    y, z = run_of(model)(x)
    assert_array_equal(y, exact)
    assert_allclose(z, np.maximum(exact, 0) + np.exp(exact), rtol=2 * ULP[dtype])


@both
def test_input_that_is_an_output_and_output_of_integers(made, checked, signature, dtype):
    model = made("(float[2,4] x) => (float[2,4] x, int64[2] s, float[2,4] y) { s = Shape(x) y = Relu(x) }")
    before = signature(model)
    narrow(model, dtype)
    checked(model)
    assert signature(model) == before


@both
def test_resize_keeps_its_scales(made, checked, dtype):
    """Given Resize(x, , scales) → x narrow, scales float32 as the schema wants them."""
    model = made(
        """(float[1,2,4,4] x) => (float[1,2,8,8] y) {
            a = Relu(x)
            y = Resize<mode="linear", coordinate_transformation_mode="half_pixel">(a, , scales)
        }""",
        {"scales": np.array([1, 1, 2, 2], np.float32)},
    )
    narrow(model, dtype)
    checked(model)
    assert types(model, "Resize") == ([dtype, FLOAT], [dtype])


@both
@pytest.mark.parametrize(
    ("text", "weights", "inside"),
    [
        ("y = Clip(x, low, high)", {"low": np.float32(0), "high": np.float32(6)}, "nnn n"),
        ("y = Clip(x, , high)", {"high": np.float32(6)}, "nn n"),
        ("y = BatchNormalization(x, s, b, m, v)", {k: np.ones(2, np.float32) for k in "sbmv"}, "nnnnn n"),
        ("y = Concat<axis=0>(x, c, x, c)", {"c": (1, 2, 3, 3)}, "nnnn n"),
        ("y = Gather(x, i)", {"i": np.array([0, 0])}, "ni n"),
        ("y = Reshape(x, i)", {"i": np.array([2, 9])}, "ni n"),
        ("y = ReduceMean(x, i)", {"i": np.array([2, 3])}, "ni n"),
        ("y = Pow(x, e)", {"e": np.float32(2)}, "nn n"),
        ("y, i = MaxPool<kernel_shape=[2,2]>(x)", {}, "n ni"),
        ("i = Cast<to=7>(x) y = Cast<to=1>(i)", {}, None),
        ("i = Shape(x) y = ConstantOfShape<value = float[1] {2.}>(i)", {}, None),
        ("i = ArgMax(x) y = Cast<to=1>(i)", {}, None),
        ("c = Constant<value = float[1] {2.}>() y = Mul(x, c)", {}, None),
        ("c = Greater(x, z) y = Where(c, x, z)", {"z": np.float32(0)}, None),
        ("s, u = Split<num_outputs=2, axis=1>(x) y = Add(s, u)", {}, None),
        ("y, k = Dropout(x)", {}, None),
        ("d = Cast<to=11>(x) e = Exp(d) y = Cast<to=1>(e)", {}, None),
    ],
)
def test_ops_of_several_kinds_of_operand(made, checked, outputs, dtype, text, weights, inside):
    """Given an op with constants, integers or a type of its own → the checker takes it, and it computes the same.

    `inside` spells the types of inputs and outputs: n narrow, i integer.
    """
    model = made(f"(float[1,2,3,3] x) => (y) {{ {text} }}", weights)
    x = np.random.default_rng(0).standard_normal((1, 2, 3, 3)).astype(np.float32)
    x = rounded(x, dtype).astype(np.float32)
    before, (wanted, *_) = model.graph.outputs[0].dtype, outputs(model, x)
    narrow(model, dtype)
    checked(model)
    assert model.graph.outputs[0].dtype == before
    assert_allclose(run_of(model)(x)[0], wanted, rtol=4 * ULP[dtype], atol=4 * ULP[dtype])
    if inside is not None:
        op = text.split("= ")[1].split("<")[0].split("(")[0]
        spelled = {dtype: "n", ir.DataType.INT64: "i"}
        assert " ".join("".join(spelled[t] for t in side) for side in types(model, op)) == inside


@both
@pytest.mark.parametrize(
    "op", ["RandomNormalLike<dtype=1>(x)", "RandomNormalLike(x)", "EyeLike(x)", "EyeLike<dtype=1>(x)"]
)
def test_op_that_says_its_type_itself(made, checked, dtype, op):
    """Given an attribute that says float32 → the op stays; without it, the type follows the input's."""
    model = made(f"(float[2,2] x) => (float[2,2] y) {{ a = {op} y = Relu(a) }}")
    narrow(model, dtype)
    checked(model)
    assert types(model, op.split("Like")[0] + "Like")[1] == [FLOAT if "dtype" in op else dtype]
    assert types(model, "Relu") == ([dtype], [dtype])


@both
def test_op_without_float_output_reads_what_is_there(made, checked, dtype):
    """Given Shape of a narrow value, of a float32 one → no Cast for either."""
    model = made("(float[1,2] x) => (int64[2] s, int64[2] t) { a = Relu(x) s = Shape(a) t = Shape(x) }")
    narrow(model, dtype)
    checked(model)
    assert casts(model) == [("x", dtype)]


@both
def test_op_of_another_domain_stays(made, dtype):
    """Given other.Op, whose types nobody knows → it and what reads it stay float32, what is beside it does not."""
    model = made(
        "(float[1,2] x) => (float[1,2] y) { a = Relu(x) b = other.Op(a) c = Relu(b) d = Neg(a) y = Add(d, c) }"
    )
    narrow(model, dtype)
    assert types(model, "Op")[0] == [FLOAT]
    assert types(model, "relu_")[0] == [None]
    assert types(model, "Neg") == ([dtype], [dtype])
    assert model.graph.outputs[0].dtype == FLOAT


@both
def test_branches_read_what_they_did(made, checked, outputs, dtype):
    """Given If, whose branches read a value from outside → they read it in float32; what follows is narrow again."""
    model = made(
        """(float[1,2] x, bool c) => (float[1,2] y) {
            a = Relu(x)
            b = If<
                then_branch = t () => (float[1,2] p) { p = Neg(a) },
                else_branch = e () => (float[1,2] q) { q = Exp(a) }
            >(c)
            y = Add(a, b)
        }"""
    )
    x = np.array([[-1, 0.5]], np.float32)
    wanted = [outputs(model, x, np.array(c))[0] for c in (True, False)]
    narrow(model, dtype)
    checked(model)
    assert types(model, "Add") == ([dtype, dtype], [dtype])
    for c, y in zip((True, False), wanted, strict=True):
        assert_allclose(run_of(model)(x, np.array(c))[0], y, rtol=4 * ULP[dtype])


@both
def test_constant_of_a_kept_and_a_narrow_node(made, checked, dtype):
    """Given one weight for both → it is stored in both types, each once."""
    model = made(
        "(float[1,4] x) => (float[1,4] y) { a = MatMul(x, w) b = MatMul(a, w) y = MatMul(b, w) }", {"w": (4, 4)}
    )
    narrow(model, dtype, {"matmul"})
    checked(model)
    assert sorted(v.dtype for v in model.graph.initializers.values()) == sorted([FLOAT, dtype])


def test_conv_at_an_opset_that_has_none_in_the_type_stays(made, checked):
    """Given opset 20, whose Conv takes no bfloat16 → the conv stays in float32; the ReLU, which can be, is not."""
    model = made(CONVS, WEIGHTS, opset=20)
    narrow(model, BF16)
    checked(model)
    assert {t for side in types(model, "conv") for t in side} == {FLOAT}
    assert types(model, "Relu") == ([BF16], [BF16])


@both
@pytest.mark.parametrize("op", ["ConvTranspose(x, w)", "HardSwish(x)", "Mish(x)"])
def test_op_that_the_builder_has_not_in_bfloat16_stays(made, checked, dtype, op):
    """Given ops that ONNX has in bfloat16 and TensorRT has not → float32 there, and float16 in the other."""
    model = made(f"(float[1,2,3,3] x) => (y) {{ y = {op} }}", {"w": (2, 2, 1, 1)} if "w" in op else {})
    narrow(model, dtype)
    checked(model)
    stays = FLOAT if dtype == BF16 else dtype
    assert {t for side in types(model, op.split("(")[0]) for t in side} == {stays}


def test_dequantized_values_are_what_their_readers_are(made, checked):
    """Given a quantized conv that stays in float32, and one that does not → each reads its weight in its own type."""
    model = made(
        "(float[1,2,3,3] x) => (float[1,2,3,3] y) { a = Conv(x, w) y = Conv(a, v) }",
        {"w": (2, 2, 1, 1), "v": (2, 2, 1, 1)},
    )
    quantize(model, QUANTIZED["int8"], {"x": 1.0, "a": 1.0}, rest=FP16)
    narrow(model, FP16, {"conv"})
    checked(model)
    assert types(model, "conv") == ([FLOAT, FLOAT], [FLOAT])
    assert types(model, "conv_") == ([FP16, FP16], [FP16])
    assert [types(model, f"{name}.dequantized")[1] for name in "xwav"] == [[FLOAT], [FLOAT], [FP16], [FP16]]
    assert casts(model)[:-1] == []


def test_names_that_are_taken(made, checked):
    """Given values that are called as a Cast's would be → other names, and none twice."""
    model = made(
        '(float[1,2] x) => (float[1,2] y) { "x.float16" = Neg(x) "y.float16" = Exp("x.float16") y = Relu("y.float16") }'
    )
    narrow(model, FP16)
    checked(model)


def test_rounding_beyond_the_range_is_an_infinity():
    assert_array_equal(rounded(np.array([1e5, -1e5, 65504, 1e-9], np.float32), FP16), [np.inf, -np.inf, 65504, 0])
    assert rounded(np.array([1 + 2.0**-8], np.float32), BF16)[0] == 1  # to even
