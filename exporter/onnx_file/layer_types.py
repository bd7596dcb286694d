"""What type each conv and matrix product of an ONNX graph computes in. Imports neither torch nor a runtime."""

from pathlib import Path

import onnx_ir as ir

from .ir_graph import infer

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""The ops whose second operand is a weight, and which hardware computes in every precision."""

TYPE_NAMES = {
    ir.DataType.FLOAT: "fp32",
    ir.DataType.FLOAT16: "fp16",
    ir.DataType.BFLOAT16: "bf16",
    ir.DataType.INT8: "int8",
    ir.DataType.UINT8: "int8",
    ir.DataType.FLOAT8E4M3FN: "fp8",
}


def types_in_file(path: Path) -> dict[str, str]:
    """`types_of_layers` of the ONNX file at `path`, types that it leaves out inferred."""
    model = ir.load(path)
    infer(model)
    return types_of_layers(model)


def types_of_layers(model: ir.Model) -> dict[str, str]:
    """For each conv and matrix product by its name: "fp32", "fp16", "bf16", "int8", "fp8".

    That is the type of its operands, or of what a DequantizeLinear made the first from where both come from one: that
    is what a kernel reads. A layer both of whose operands the model computes and gives no type is left out. A node
    without a name is called as TensorRT's parser calls it, "node_of_" and its first output.
    """
    found = {}
    for node in model.graph:
        if node.op_type in WEIGHTED and node.domain in ("", "ai.onnx"):
            operands = [value for value in node.inputs[:2] if value is not None]
            stored = [_stored(value) for value in operands]
            known = [value.dtype for value in operands if value.dtype is not None]
            dtype = stored[0] if len(stored) == 2 and None not in stored else next(iter(known), None)
            if dtype is not None:
                found[node.name or f"node_of_{node.outputs[0].name}"] = TYPE_NAMES.get(dtype, dtype.name.lower())
    return found


def _stored(value: ir.Value) -> ir.DataType | None:
    """The type that a DequantizeLinear made `value` from; None where none did."""
    producer = value.producer()
    if producer is None or producer.op_type != "DequantizeLinear" or producer.inputs[0] is None:
        return None
    return producer.inputs[0].dtype
