"""Small edits of an ONNX graph, each of which leaves it valid and its names unique."""

from pathlib import Path

import numpy as np
import onnx_ir as ir

from ..onnx_file.ir_graph import settled
from ..onnx_file.layer_types import WEIGHTED


def load(path: Path) -> ir.Model:
    """The model in the file at `path`, `settled`."""
    return settled(ir.load(path))


def opset_of(model: ir.Model) -> int:
    """The version of the standard operators that the model is written in."""
    return model.opset_imports[""]


def weight_of(node: ir.Node) -> ir.Value | None:
    """The constant weight of a conv or matrix product; None where `node` is neither, or computes its weight."""
    if node.op_type not in WEIGHTED or node.domain not in ("", "ai.onnx") or len(node.inputs) < 2:
        return None
    weight = node.inputs[1]
    return weight if weight is not None and weight.const_value is not None else None


class Names:
    """Names for new values and nodes of a graph: as asked for, or with underscores where that is taken."""

    def __init__(self, graph: ir.Graph) -> None:
        values = {*graph.inputs, *graph.initializers.values()} | {v for node in graph for v in node.outputs}
        self._taken = {str(known.name) for known in (*values, *graph)}

    def __call__(self, name: str) -> str:
        """A name like this one that is never given again."""
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name


def constant(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    """A new initializer."""
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def node_before(
    graph: ir.Graph, before: ir.Node, op: str, inputs: list[ir.Value], output: ir.Value, **attributes: int
) -> ir.Value:
    """Insert a node of one output, named after it; returns the output."""
    graph.insert_before(before, ir.node(op, inputs, attributes, outputs=[output], name=output.name))
    return output


def value_like(value: ir.Value, name: str, dtype: ir.DataType) -> ir.Value:
    """A value of the shape of another."""
    return ir.Value(name=name, shape=value.shape, type=ir.TensorType(dtype))


def drop_unused_weights(graph: ir.Graph) -> None:
    """Remove the initializers that nothing reads any more."""
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]
