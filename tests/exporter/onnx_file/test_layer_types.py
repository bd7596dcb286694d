"""What type each layer computes in, read from the graph."""

import subprocess
import sys

import onnx
import onnx_ir as ir
import pytest
from onnx import parser

from plainconv.exporter.onnx_file.layer_types import types_in_file, types_of_layers

HEAD = '<ir_version: 10, opset_import: ["": 22, "own": 1]>'


def graph(signature, body):
    """A model of these nodes; the file gives no types but those of inputs, outputs and constants."""
    return parser.parse_model(f"{HEAD} g {signature} {{ {body} }}")


def types(model, tmp_path):
    """Of the file, which are those of the model where that gives its types."""
    onnx.save(model, tmp_path / "m.onnx")
    return types_in_file(tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("name", "wanted"), [("float", "fp32"), ("float16", "fp16"), ("bfloat16", "bf16"), ("double", "double")]
)
def test_a_layer_computes_in_the_type_of_its_operands(name, wanted, tmp_path):
    """Given a conv and a Gemm behind it -> the type of both; a ReLU has none."""
    model = graph(
        f"({name}[1,3,8,8] x, {name}[4,3,3,3] w, {name}[144,5] v) => ({name}[1,5] y)",
        "[c] a = Conv(x, w)  [r] b = Relu(a)  [f] f = Flatten(b)  [g] y = Gemm(f, v)",
    )
    assert types(model, tmp_path) == {"c": wanted, "g": wanted}


QUANTIZED = """
[q] xq = QuantizeLinear(x, s, zx)  [d] xd = DequantizeLinear(xq, s, zx)
[e] wd = DequantizeLinear(w, s, zx)
"""


@pytest.mark.parametrize(("name", "wanted"), [("int8", "int8"), ("float8e4m3fn", "fp8")])
@pytest.mark.parametrize(("rest", "else_"), [("float", "fp32"), ("float16", "fp16")])
def test_a_layer_computes_in_a_quantized_type_where_both_operands_are_in_it(name, wanted, rest, else_, tmp_path):
    """Given Q/DQ before x and w, before x alone, before w alone -> quantized, and twice the type of the rest."""
    model = graph(
        f"({rest}[1,3,8,8] x, {rest} s, {name} zx, {name}[4,3,3,3] w, {rest}[4,3,3,3] v) "
        f"=> ({rest} both, {rest} one, {rest} weight)",
        f"{QUANTIZED} [both] both = Conv(xd, wd)  [x] one = Conv(xd, v)  [w] weight = Conv(x, wd)",
    )
    assert types(model, tmp_path) == {"both": wanted, "x": else_, "w": else_}


def test_what_is_no_layer_is_left_out(tmp_path):
    """Given an op of another domain of the same name, and ops without weights -> nothing."""
    model = graph("(float[1,3] x, float[3,3] w) => (float[1,3] y)", "[m] a = own.MatMul(x, w)  [s] y = Add(x, a)")
    assert types(model, tmp_path) == {}


def test_layers_without_names_are_told_apart(tmp_path):
    """Given nodes without names -> each under the name of its output."""
    model = graph(
        "(float[1,3] x, float[3,3] w, float16[3,3] v) => (float16[1,3] y)",
        "a = MatMul(x, w)  b = Cast <to = 10> (a)  y = MatMul(b, v)",
    )
    assert types(model, tmp_path) == {"node_of_a": "fp32", "node_of_y": "fp16"}


def test_a_type_that_no_one_knows(tmp_path):
    """Given values of an unknown op -> the type of the weight; of no operand's type known, left out."""
    model = graph(
        "(float[1,3] x, float16[3,3] w) => (float16[1,3] y, float16[1,1] z)",
        "a = own.Mystery(x)  b = own.Mystery(x)  [known] y = MatMul(a, w)  [unknown] z = MatMul(a, b)",
    )
    assert types(model, tmp_path) == {"known": "fp16"}


def test_a_model_is_left_as_it_is():
    """Given a model without types -> they stay unknown, and so does what depends on them."""
    model = ir.from_proto(
        graph(
            "(float[1,3] x, float[3,3] w) => (float[1,3] y)", "[a] a = Relu(x)  [b] b = Relu(a)  [m] y = MatMul(b, b)"
        )
    )
    assert types_of_layers(model) == {}
    assert all(value.dtype is None for node in list(model.graph)[:2] for value in node.outputs)


def test_import_is_light():
    """Given the planner, which reads types off graphs -> neither torch nor a runtime is imported with it."""
    heavy = "{'torch', 'onnxruntime', 'onnxscript'} & set(sys.modules)"
    code = f"import sys; from plainconv.exporter import partition; print({heavy} or 'light')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "light\n"
