"""float32 → float16 or bfloat16, node by node, as the graph itself says it: strongly typed.

Given   y = f(x, w)                    x, w, y float32
Result  y = f(T(x), T(w))              T(x) by a Cast, w rounded here, y in T

A value is cast once for all nodes that want it in the other type. Inputs and outputs of the graph stay float32. A node
that gives no float (QuantizeLinear, Shape, Greater) reads what it computes with in the type that it is in; a
DequantizeLinear gives float32 where nothing reads it in the other type.
"""

from collections.abc import Set

import numpy as np
import onnx
import onnx_ir as ir

from .edit import Names, constant, drop_unused_weights, node_before, opset_of, value_like

_TYPED_BY_ATTRIBUTE = {"Constant", "ConstantOfShape", "RandomNormal", "RandomUniform"}
_TYPES = {"dtype", "output_dtype", "output_datatype"}
"""Attributes that say what type an op gives."""
_NOT_BUILT = {(ir.DataType.BFLOAT16, op) for op in ("ConvTranspose", "HardSwish", "Mish")}
"""What ONNX has and TensorRT-RTX 1.7 refuses."""
_GRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


def narrow(model: ir.Model, dtype: ir.DataType, kept: Set[str] = frozenset()) -> None:
    """Give every float32 node of `model` that can have it the type `dtype`, in place, but those named in `kept`."""
    graph = model.graph
    casts = _Casts(graph)
    captured = _captured(graph)
    opset = opset_of(model)
    for node in list(graph):
        takes = _takes(node, dtype, opset, kept)
        for i, value in enumerate(node.inputs):
            if value is None:
                continue
            fits = takes is not None and takes.input(i)
            if fits and value.dtype == ir.DataType.FLOAT:
                node.replace_input_with(i, casts.get(value, dtype, node))
            elif not fits and value.dtype == dtype:
                node.replace_input_with(i, casts.get(value, ir.DataType.FLOAT, node))
        for inner, i, value in captured.get(node, ()):
            if value.dtype == dtype:
                inner.replace_input_with(i, casts.get(value, ir.DataType.FLOAT, node))
        for k, value in enumerate(node.outputs):
            if takes is not None and takes.output(k) and value.dtype == ir.DataType.FLOAT:
                value.type = ir.TensorType(dtype)
                if node.op_type == "Cast":
                    node.attributes["to"] = ir.AttrInt64("to", int(dtype))
    for k, value in enumerate(graph.outputs):
        if value.dtype == dtype:
            graph.outputs[k] = casts.output(value)
    drop_unused_weights(graph)


class _Casts:
    """The values of a graph in other types, each made once."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._names = Names(graph)
        self._made: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def get(self, value: ir.Value, dtype: ir.DataType, reader: ir.Node) -> ir.Value:
        """`value` in `dtype`: a constant rounded, another by a Cast before `reader`, the first that wants it."""
        key = (value, dtype)
        if key not in self._made:
            name = self._names(f"{value.name}.{dtype.name.lower()}")
            if value.const_value is not None:
                self._made[key] = constant(self._graph, name, rounded(value.const_value.numpy(), dtype))
            else:
                out = value_like(value, name, dtype)
                self._made[key] = node_before(self._graph, reader, "Cast", [value], out, to=int(dtype))
        return self._made[key]

    def output(self, value: ir.Value) -> ir.Value:
        """The output `value` of the graph in float32, under its name, which `value` loses."""
        name, float32 = str(value.name), ir.DataType.FLOAT
        assert value.dtype is not None
        value.name = self._names(f"{name}.{value.dtype.name.lower()}")
        wide = self._made.get((value, float32))
        if wide is None:
            wide = value_like(value, name, float32)
            node = ir.node("Cast", [value], {"to": int(float32)}, outputs=[wide], name=self._names(f"{name}.float"))
            self._graph.append(node)
        wide.name = name
        return wide


class _Takes:
    """Which inputs and outputs of an op may be in a type, by its schema."""

    def __init__(self, schema: onnx.defs.OpSchema, dtype: ir.DataType) -> None:
        wanted = f"tensor({dtype.name.lower()})"
        allowed = {c.type_param_str: wanted in c.allowed_type_strs for c in schema.type_constraints}
        self._inputs = [allowed.get(i.type_str, False) for i in schema.inputs]
        self._outputs = [allowed.get(o.type_str, False) for o in schema.outputs]

    def input(self, i: int) -> bool:
        return bool(self._inputs) and self._inputs[min(i, len(self._inputs) - 1)]

    def output(self, k: int) -> bool:
        return bool(self._outputs) and self._outputs[min(k, len(self._outputs) - 1)]


def _takes(node: ir.Node, dtype: ir.DataType, opset: int, kept: Set[str]) -> _Takes | None:
    """Where `node` may be in `dtype`; None where it has to stay in float32 as a whole."""
    if node.name in kept or node.domain not in ("", "ai.onnx") or (dtype, node.op_type) in _NOT_BUILT:
        return None
    if node.op_type in _TYPED_BY_ATTRIBUTE or _TYPES & node.attributes.keys():
        return None
    if any(a.type in _GRAPHS for a in node.attributes.values()):
        return None
    if any(value is not None and value.name and value.dtype is None for value in (*node.inputs, *node.outputs)):
        return None  # behind an op of another domain
    try:
        takes = _Takes(onnx.defs.get_schema(node.op_type, opset, ""), dtype)
    except onnx.defs.SchemaError:
        return None
    if node.op_type == "DequantizeLinear" and not any(
        _takes(n, dtype, opset, kept) for n in node.outputs[0].consumers()
    ):
        return None
    floats = [k for k, value in enumerate(node.outputs) if value.dtype == ir.DataType.FLOAT]
    read = [value for value in node.inputs if value is not None and value.const_value is None]
    if not floats and any(value.dtype == ir.DataType.FLOAT for value in read):
        return None
    return takes if all(takes.output(k) for k in floats) else None


def rounded(array: np.ndarray, dtype: ir.DataType) -> np.ndarray:
    """float32 numbers to the nearest of `dtype`; one beyond its range becomes an infinity."""
    with np.errstate(over="ignore"):
        return array.astype(dtype.numpy())


def _captured(graph: ir.Graph) -> dict[ir.Node, list[tuple[ir.Node, int, ir.Value]]]:
    """For each node with subgraphs, what is read in them from outside: by which node, as which of its inputs."""
    outside = {value for node in graph for value in node.outputs}
    found = {}
    for node in graph:
        inner = [
            n for a in node.attributes.values() for g in _graphs(a) for n in ir.traversal.RecursiveGraphIterator(g)
        ]
        if inner:
            found[node] = [(n, i, v) for n in inner for i, v in enumerate(n.inputs) if v is not None and v in outside]
    return found


def _graphs(attribute: ir.Attr) -> list[ir.Graph]:
    if attribute.type not in _GRAPHS:
        return []
    return [attribute.as_graph()] if attribute.type == ir.AttributeType.GRAPH else list(attribute.as_graphs())
