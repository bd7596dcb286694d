"""The parsed network: its layers' types read back, and an ONNX file's inputs."""

import importlib
import importlib.util

import onnx
import pytest
from onnx import TensorProto, helper

from plainconv.engines.tensorrt.builder_log import log_of
from plainconv.engines.tensorrt.network import node_of, parse, precisions_of, types_of_layers

pytestmark = pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="needs tensorrt-rtx")


@pytest.fixture
def parsed():
    """The network in an ONNX file; what it is made of must outlive it."""
    trt = importlib.import_module("tensorrt_rtx")
    builder = trt.Builder(log_of(trt))
    return lambda path: parse(trt, builder, path, [])


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8", "fp8"])
def test_every_layer_computes_in_what_the_graph_says(tmp_path, make, parsed, precision):
    network = parsed(make.typed_onnx(tmp_path / "m.onnx", precision))
    assert types_of_layers(network) == {"stage.conv": precision, "head": precision}
    assert precisions_of(network)[0] == precision


@pytest.mark.parametrize(("conv", "gemm"), [("int8", "fp32"), ("fp32", "int8"), ("fp8", "int8")])
def test_mixed_layers(tmp_path, make, parsed, conv, gemm):
    network = parsed(make.typed_onnx(tmp_path / "m.onnx", conv, gemm))
    assert types_of_layers(network) == {"stage.conv": conv, "head": gemm}


def test_quantized_layer_among_half_floats(tmp_path, make, parsed):
    network = parsed(make.typed_onnx(tmp_path / "m.onnx", "int8", "fp16", floats="fp16"))
    assert types_of_layers(network) == {"stage.conv": "int8", "head": "fp16"}
    assert precisions_of(network)[:2] == ("int8", "fp16")


@pytest.mark.parametrize("kept", ["activation", "weight"])
def test_layer_of_which_one_operand_alone_is_quantized_computes_in_floats(tmp_path, make, parsed, kept):
    """Given Q/DQ on the weight or the activation alone -> fp32, whatever the tensors around it are stored as."""
    model = onnx.load(make.typed_onnx(tmp_path / "m.onnx", "int8"))
    head = next(node for node in model.graph.node if node.name == "head")
    if kept == "activation":
        model.graph.initializer.append(helper.make_tensor("w_float", TensorProto.FLOAT, [10, 32], [0.1] * 320))
        head.input[1] = "w_float"
    else:
        head.input[0] = "flat_out"
    onnx.save(model, tmp_path / "m.onnx")
    assert types_of_layers(parsed(tmp_path / "m.onnx")) == {"stage.conv": "int8", "head": "fp32"}


def test_transposed_convs_and_products_of_values_count_and_names_are_the_nodes_own(tmp_path, parsed):
    """Given ConvTranspose and MatMul of two values, two nodes of one name -> each by its name, once told apart."""
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("ConvTranspose", ["x", "w"], ["a"], name="up"),
        helper.make_node("MatMul", ["a", "a"], ["b"], name="product"),
        helper.make_node("Relu", ["b"], ["y"], name="relu"),
    ]
    weight = helper.make_tensor("w", TensorProto.FLOAT, [2, 3, 1, 1], [1.0] * 6)
    inputs, outputs = [value("x", 1, [1, 2, 4, 4])], [value("y", 1, [1, 3, 4, 4])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    model.ir_version = 10
    onnx.save(model, tmp_path / "m.onnx")
    network = parsed(tmp_path / "m.onnx")
    assert types_of_layers(network) == {"up": "fp32", "product": "fp32"}
    assert "relu" in {node_of(network.get_layer(i)) for i in range(network.num_layers)}
