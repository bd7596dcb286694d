"""A float16 or bfloat16 graph as one that any machine runs: float32, each result rounded as the type would.

Given   y = f(x)                x, y in T
Result  y = float32(T(f(x)))    all in float32

That is what tensor cores compute: products and sums in float32, stored in T. ONNX Runtime on a CPU has few ops in
float16, fewer in bfloat16, and leaves roundings out where it has none.
"""

import onnx_ir as ir

from .edit import Names, constant, drop_unused_weights, value_like
from .formats import FLOATS


def emulated(model: ir.Model) -> ir.Model:
    """A float32 graph of the same outputs as `model`, which stays as it is. Q/DQ nodes stay: they run everywhere.

    Inputs and outputs in T, as a part of a split network has, are float32 here that hold numbers of T.
    """
    model = model.clone()
    graph = model.graph
    narrow = set(FLOATS.values())
    names = Names(graph)
    for value in list(graph.initializers.values()):
        if value.dtype in narrow and value.const_value is not None:
            wide = constant(graph, names(f"{value.name}.exact"), value.const_value.numpy().astype("float32"))
            value.replace_all_uses_with(wide)
    drop_unused_weights(graph)
    for value in graph.inputs:
        if value.dtype in narrow:
            value.type = ir.TensorType(ir.DataType.FLOAT)
    for node in list(graph):
        for value in node.outputs:
            if value.dtype in narrow:
                _round_output(graph, node, value, names)
    return model


def _round_output(graph: ir.Graph, node: ir.Node, value: ir.Value, names: Names) -> None:
    """Have `node` give its output in float32, and its readers read that rounded."""
    dtype = value.dtype
    assert dtype is not None
    value.type = ir.TensorType(ir.DataType.FLOAT)
    rounded = value_like(value, names(f"{value.name}.rounded"), dtype)
    wide = value_like(value, names(f"{value.name}.exact"), ir.DataType.FLOAT)
    value.replace_all_uses_with(wide, replace_graph_outputs=True)
    source = value
    if node.op_type == "Cast":  # it rounds by itself
        node.attributes["to"] = ir.AttrInt64("to", int(ir.DataType.FLOAT))
    down = ir.node("Cast", [source], {"to": int(dtype)}, outputs=[rounded], name=rounded.name)
    up = ir.node("Cast", [rounded], {"to": int(ir.DataType.FLOAT)}, outputs=[wide], name=wide.name)
    graph.insert_after(node, [down, up])
    if wide.is_graph_output():  # under the name that its readers know
        wide.name, value.name = value.name, names(f"{value.name}.raw")
