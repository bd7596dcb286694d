"""Q/DQ: what convs and matrix products read, rounded to int8 or fp8, as the graph itself says it.

Given   y = conv(x, w) + b                                             x, w, y float
Result  y = conv(DQ(Q(x)), DQ(w_q)) + b    Q(x) = round(x / s), DQ(q) = s · q    one s for x, one a channel for w

Symmetric (no zero points), as TensorRT wants it. The bias stays as it is: an engine adds it to the exact int32 sum.
A value is quantized once for all nodes that read it. A scale is a number of the type that the rest of the graph is in:
what the weight was divided by is what it will be multiplied by.
"""

from collections.abc import Mapping, Set

import numpy as np
import onnx_ir as ir

from .edit import Names, constant, drop_unused_weights, node_before, value_like, weight_of
from .formats import Quantized


def quantize(
    model: ir.Model,
    kind: Quantized,
    ranges: Mapping[str, float],
    kept: Set[str] = frozenset(),
    rest: ir.DataType = ir.DataType.FLOAT,
) -> None:
    """Quantize every conv and matrix product of `model`, in place, but those named in `kept`.

    Args:
        model: float32 throughout.
        kind: the type to round to.
        ranges: for each value that such a node reads, the largest magnitude that is to be kept; what lies beyond is
            clipped to it.
        kept: names of nodes to leave.
        rest: what the graph will be in otherwise: float32, float16 or bfloat16.

    """
    graph = model.graph
    names = Names(graph)
    activations: dict[ir.Value, ir.Value] = {}
    weights: dict[tuple[ir.Value, int | None], ir.Value] = {}
    for node in list(graph):
        weight = weight_of(node)
        if node.name in kept or not quantizable(node):
            continue
        x = node.inputs[0]
        assert weight is not None and x is not None
        if x not in activations:
            activations[x] = _quantized_value(
                graph, x, kind, _scale(np.float32(ranges[x.name or ""]), kind, rest), node, names
            )
        node.replace_input_with(0, activations[x])
        key = (weight, _channel_axis(node))
        if key not in weights:
            weights[key] = _quantized_weight(graph, weight, kind, key[1], node, rest, names)
        node.replace_input_with(1, weights[key])
    drop_unused_weights(graph)


def quantizable(node: ir.Node) -> bool:
    """Whether `node` is a conv or matrix product of a computed float32 value with a constant float32 weight."""
    weight, x = weight_of(node), node.inputs[0] if node.inputs else None
    return (
        weight is not None
        and weight.dtype == ir.DataType.FLOAT
        and x is not None
        and x.const_value is None
        and x.dtype == ir.DataType.FLOAT
    )


def _channel_axis(node: ir.Node) -> int | None:
    """The axis of the weight along which the output's channels lie; None where no one axis is that."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1 if "group" not in node.attributes or node.attributes["group"].as_int() == 1 else None
    weight = node.inputs[1]
    rank = len(weight.shape) if weight is not None and weight.shape is not None else 0
    if node.op_type == "Gemm":
        return 0 if "transB" in node.attributes and node.attributes["transB"].as_int() else 1
    return 1 if rank == 2 else None


def _quantized_value(
    graph: ir.Graph, x: ir.Value, kind: Quantized, step: np.ndarray, reader: ir.Node, names: Names
) -> ir.Value:
    """DQ(Q(x)), in float32."""
    scale = constant(graph, names(f"{x.name}.scale"), step)
    zero = constant(graph, names(f"{x.name}.zero"), np.zeros((), kind.numpy))
    stored = value_like(x, names(f"{x.name}.quantized"), kind.dtype)
    node_before(graph, reader, "QuantizeLinear", [x, scale, zero], stored)
    result = value_like(x, names(f"{x.name}.dequantized"), ir.DataType.FLOAT)
    return node_before(graph, reader, "DequantizeLinear", [stored, scale, zero], result)


def _quantized_weight(
    graph: ir.Graph,
    weight: ir.Value,
    kind: Quantized,
    axis: int | None,
    reader: ir.Node,
    rest: ir.DataType,
    names: Names,
) -> ir.Value:
    """DQ of the weight as it is stored, in float32."""
    assert weight.const_value is not None
    w = weight.const_value.numpy()
    others = tuple(i for i in range(w.ndim) if i != axis)
    scale = _scale(np.abs(w).max(axis=others if axis is not None else None), kind, rest)
    spread = scale if axis is None else scale.reshape([-1 if i == axis else 1 for i in range(w.ndim)])
    stored = np.clip(w / spread, -kind.largest, kind.largest)
    stored = (np.rint(stored) if kind.numpy.kind == "i" else stored).astype(kind.numpy)
    name = weight.name
    inputs = [
        constant(graph, names(f"{name}.quantized"), stored),
        constant(graph, names(f"{name}.scale"), scale),
        constant(graph, names(f"{name}.zero"), np.zeros(scale.shape, kind.numpy)),
    ]
    result = value_like(weight, names(f"{name}.dequantized"), ir.DataType.FLOAT)
    return node_before(graph, reader, "DequantizeLinear", inputs, result, **({} if axis is None else {"axis": axis}))


def _scale(largest: np.ndarray | np.float32, kind: Quantized, rest: ir.DataType) -> np.ndarray:
    """The step of a value whose largest magnitude this is, rounded up to a number of `rest`; 1 where it is 0."""
    step = np.asarray(largest, np.float32) / np.float32(kind.largest)
    near = step.astype(rest.numpy())
    up = np.where(near.astype(np.float32) < step, np.nextafter(near, near.dtype.type(np.inf)), near).astype(np.float32)
    return np.where(up > 0, up, np.float32(1)).astype(np.float32)
