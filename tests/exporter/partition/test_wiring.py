"""Who makes and reads what: constants, shape arithmetic, Q/DQ, subgraphs, randomness."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from plainconv.exporter.errors import ExportError
from plainconv.exporter.partition import prepared, read_model, wiring_of


def test_constants_are_no_reads(made):
    """Given a weight and a Constant node → neither is read; both are constants that every part has."""
    wiring = wiring_of(
        made(
            "(float[2] x) => (float[2] y) { c = Constant<value = float[1] {2.}>() a = Mul(x, c) y = Add(a, w) }",
            w=np.ones(2, np.float32),
        )
    )
    assert [(op.kind, op.reads, op.writes) for op in wiring.ops] == [("Mul", ("x",), ("a",)), ("Add", ("a",), ("y",))]
    assert wiring.constants == {"c", "w"}


def test_what_constants_decide_is_soft(made):
    """Given a weight that a DequantizeLinear makes → it is folded into whoever reads it, whatever its name."""
    text = "(float[2] x) => (float[2] y) { d = DequantizeLinear(q, s) e = Relu(d) y = Add(x, e) }"
    wiring = wiring_of(made(text, q=np.ones(2, np.int8), s=np.float32(1)))
    assert [wiring.ops[at].kind for at in wiring.folded] == ["DequantizeLinear", "Relu"]
    assert wiring.soft == {"d", "e"}


def test_shape_arithmetic_and_dequantized_values_are_soft(made):
    """Given Shape → Reshape, and Q → DQ → the shape's integers and the DQ's output stay; the int8 goes."""
    text = """(float[b,4] x) => (float[b,4] y) {
        s = Shape(x)
        r = Reshape(x, s)
        q = QuantizeLinear(r, scale)
        d = DequantizeLinear(q, scale)
        y = Relu(d)
    }"""
    wiring = wiring_of(made(text, scale=np.float32(0.1)))
    assert wiring.soft == {"s", "d"}
    assert wiring.specs["q"].itemsize == 1.0 or wiring.specs["q"].dtype in ("UINT8", "INT8")


def test_value_of_unknown_type_is_soft():
    """Given an op of another domain → nobody knows its output's type, so it does not go from part to part."""
    head = '<ir_version: 10, opset_import: ["" : 18, "other" : 1]> g (float[2] x) => (float[2] y)'
    text = head + "{ a = other.Op(x) y = Relu(a) }"
    wiring = wiring_of(prepared(ir.serde.deserialize_model(onnx.parser.parse_model(text))))
    assert wiring.soft == {"a"}
    assert wiring.ops[0].kind == "other.Op"


def test_value_read_inside_a_branch_is_read_by_the_node(made):
    """Given an If whose branches read values around it → these are reads of the If."""
    text = """(float[2] x, bool c) => (float[2] y) {
        a = Relu(x)
        b = Neg(x)
        y = If(c) <
            then_branch = t () => (float[2] u) { u = Add(a, w) },
            else_branch = e () => (float[2] v) { v = Identity(b) }
        >
    }"""
    wiring = wiring_of(made(text, w=np.ones(2, np.float32)))
    (branch,) = [op for op in wiring.ops if op.kind == "If"]
    assert set(branch.reads) == {"c", "a", "b"}


def test_random_op_is_never_folded_or_soft(made):
    """Given noise of no input → it is random: computed once, and sent."""
    wiring = wiring_of(made("(float[2] x) => (float[2] y) { n = RandomNormal<shape = [2]>() y = Add(x, n) }"))
    assert [op.random for op in wiring.ops] == [True, False]
    assert not wiring.folded and not wiring.soft


def test_needed_stops_at_reads_and_names_the_inputs_it_ends_at(made):
    text = "(float[2] x, float[2] z) => (float[2] y) { a = Relu(x) b = Neg(a) y = Add(b, z) }"
    wiring = wiring_of(made(text))
    assert wiring.needed(["y"], ["a"]) == ([1, 2], {"a", "z"})
    assert wiring.needed(["a"], []) == ([0], {"x"})
    assert wiring.needed(["a"], ["a"]) == ([], {"a"})


def test_nodes_out_of_order_and_without_names(made):
    """Given a node listed before the one it reads from → sorted, and each has a name of its own."""
    wiring = wiring_of(made("(float[2] x) => (float[2] y) { a = Relu(x) b = Relu(a) y = Relu(b) }"))
    assert len({op.name for op in wiring.ops}) == 3
    assert [op.writes[0] for op in wiring.ops] == ["a", "b", "y"]


def test_open_axes_take_the_sizes_given(made):
    spec = wiring_of(made("(float[b,3] x) => (float[b,3] y) { y = Relu(x) }")).specs["y"]
    assert spec.sizes({}) == (1, 3)
    assert spec.sizes({"b": 8}) == (8, 3)


def test_file_that_is_no_onnx(tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(b"no protobuf")
    with pytest.raises(ExportError, match=r"net\.onnx cannot be read as ONNX") as error:
        read_model(path)
    assert "\n" not in str(error.value)
