"""What every graph is brought to before it is typed."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

from plainconv.exporter.precision.edit import (
    Names,
    constant,
    drop_unused_weights,
    load,
    opset_of,
    weight_of,
)


def saved(path, text, weights=()):
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20, "other" : 1]> g {text}')
    model.graph.initializer.extend(onnx.numpy_helper.from_array(a, name) for name, a in weights)
    onnx.save(model, path)
    return path


def test_nodes_are_named_and_types_known(tmp_path):
    """Given nodes without names, one name twice, values without types → names, none twice; a type for each value."""
    path = saved(
        tmp_path / "a.onnx", "(float[1,2] x) => (float[1,2] y) { a = Relu(x) b = Relu(a) c = Neg(b) y = Neg(c) }"
    )
    model = onnx.load(path)
    model.graph.node[2].name = model.graph.node[3].name = "neg"
    onnx.save(model, path)
    graph = load(path).graph
    assert [n.name for n in graph] == ["relu", "relu_", "neg", "neg_"]
    assert {v.dtype for n in graph for v in n.outputs} == {ir.DataType.FLOAT}


def test_given_names_stay(tmp_path, made):
    path = tmp_path / "a.onnx"
    model = made("(float[1,2] x) => (float[1,2] y) { y = Relu(x) }")
    next(iter(model.graph)).name = "stage.0/relu"
    ir.save(model, path)
    assert [n.name for n in load(path).graph] == ["stage.0/relu"]


def test_constants_are_initializers(tmp_path):
    """Given a weight in a Constant node, and one that is an input with a default → both are weights."""
    path = saved(
        tmp_path / "a.onnx",
        """(float[1,1] x, float[1,1] v) => (float[1,1] y) {
            w = Constant<value = float[1,1] {2.}>()  a = MatMul(x, w)  y = MatMul(a, v)
        }""",
        [("v", np.ones((1, 1), np.float32))],
    )
    graph = load(path).graph
    assert [weight_of(n).name for n in graph] == ["w", "v"]
    assert [v.name for v in graph.inputs] == ["x"]


@pytest.mark.parametrize(
    ("text", "weight"),
    [
        ("y = MatMul(x, w)", "w"),
        ("y = MatMul(w, x)", None),
        ("v = Neg(w) y = MatMul(x, v)", None),
        ("y = Add(x, w)", None),
        ("y = other.MatMul(x, w)", None),
    ],
)
def test_weight_is_the_constant_second_operand(made, text, weight):
    model = made(f"(float[2,2] x) => (float[2,2] y) {{ {text} }}", {"w": (2, 2)})
    found = weight_of(list(model.graph)[-1])
    assert (found.name if found is not None else None) == weight


def test_names_are_never_given_twice(made):
    names = Names(made("(float[2] x) => (float[2] y) { y = Add(x, w) }", {"w": (2,)}).graph)
    assert [names(n) for n in ("x", "y", "w", "add", "z", "z")] == ["x_", "y_", "w_", "add_", "z", "z_"]


def test_weights_that_nothing_reads_are_dropped(made):
    """Given a weight that is an output and one that a branch reads → they stay; one that nothing reads goes."""
    model = made(
        """(bool c) => (float[1] o, float[1] y) {
            y = If<
                then_branch = t () => (float[1] p) { p = Neg(w) }, else_branch = e () => (float[1] q) { q = Neg(w) }
            >(c)
        }""",
        {"o": (1,), "w": (1,)},
    )
    constant(model.graph, "z", np.zeros(2, np.float32))
    drop_unused_weights(model.graph)
    assert set(model.graph.initializers) == {"o", "w"}


def test_external_weights_are_read(tmp_path):
    w = np.arange(2048, dtype=np.float32).reshape(1, 2048)
    path = saved(tmp_path / "a.onnx", "(float[1,1] x) => (float[1,2048] y) { y = MatMul(x, w) }", [("w", w)])
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="a.data", size_threshold=0)
    model = load(path)
    assert opset_of(model) == 20
    np.testing.assert_array_equal(weight_of(next(iter(model.graph))).const_value.numpy(), w)
    assert helper.find_min_ir_version_for([helper.make_opsetid("", 20)]) <= model.ir_version
