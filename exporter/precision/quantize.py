"""Q/DQ: what convs and matrix products read, rounded to int8 or fp8, as the graph itself says it.

Given   y = conv(x, w) + b                                             x, w, y float
Result  y = conv(DQ(Q(x)), DQ(w_q)) + b    Q(x) = round(x / s), DQ(q) = s · q    one s for x, one a channel for w

So for engines: symmetric (no zero points), as TensorRT wants it. The bias stays as it is: an engine adds it to the
exact int32 sum. What a CPU wants is in `cpu`. A value is quantized once for all nodes that read it. A scale is a number
of the type that the rest of the graph is in: what the weight was divided by is what it will be multiplied by.
"""

from collections.abc import Mapping, Set
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from .edit import Names, constant, drop_unused_weights, node_before, value_like, weight_of
from .formats import Quantized
from .layout import ENGINE, Layout

LEVELS = 255
"""Steps of uint8 from end to end."""
MOST_WEIGHT = 64.0
"""What a weight for a CPU may be: x86 without VNNI adds two products in 16 bits, 2 · 255 · 64 < 2¹⁵, and saturates."""
MOST_BIAS = 2**30
"""What a stored bias may be: half of int32, whose other half is for the sum that it is added to."""


def quantize(
    model: ir.Model,
    kind: Quantized,
    ranges: Mapping[str, float],
    kept: Set[str] = frozenset(),
    rest: ir.DataType = ir.DataType.FLOAT,
    layout: Layout = ENGINE,
    lows: Mapping[str, float] | None = None,
) -> None:
    """Quantize the convs and matrix products of `model`, in place, but those named in `kept`.

    Args:
        model: float32 throughout.
        kind: the type to round to.
        ranges: for each value that is stored the largest magnitude to be kept; what lies beyond is clipped to it.
        kept: names of nodes to leave.
        rest: what the graph will be in otherwise: float32, float16 or bfloat16.
        layout: whom it is for.
        lows: the lowest numbers of these values, for an affine layout; without any they reach as far as the highest.

    """
    plan = layout.plan(model.graph, kept)
    made = _Made(model.graph, replace(kind, largest=MOST_WEIGHT) if layout.affine else kind, rest)
    for node in list(model.graph):
        is_layer = node in plan.layers
        for i, x in enumerate(node.inputs):
            if x is not None and x in plan.values and (layout.affine or (is_layer and i == 0)):
                low, high = _ends(x, str(plan.values[x].name), ranges, lows or {})
                stored = made.affine(x, low, high, node) if layout.affine else made.value(x, high, node)
                node.replace_input_with(i, stored)
        if is_layer:
            made.weights(node, with_bias=layout.affine)
    drop_unused_weights(model.graph)


class _Made:
    """What of a graph is stored by now: each value, each constant by each scale, once."""

    def __init__(self, graph: ir.Graph, kind: Quantized, rest: ir.DataType) -> None:
        self._graph, self._kind, self._rest = graph, kind, rest
        self._names = Names(graph)
        self._values: dict[ir.Value, ir.Value] = {}
        self._weights: dict[tuple[ir.Value, int | None, bytes], ir.Value] = {}

    def value(self, x: ir.Value, largest: float, reader: ir.Node) -> ir.Value:
        """DQ(Q(x)), in float32, of numbers that reach to `largest` on either side."""
        if x not in self._values:
            self._store(x, self._scale(np.float32(largest)), np.zeros((), self._kind.numpy), reader)
        return self._values[x]

    def affine(self, x: ir.Value, low: float, high: float, reader: ir.Node) -> ir.Value:
        """DQ(Q(x)), in float32, of numbers from `low`, or 0, to `high`; zero itself is stored exactly."""
        if x not in self._values:
            low = min(low, 0.0)
            step = np.float32(high / LEVELS - low / LEVELS)
            step = step if step > 0 else np.float32(1)
            zero = np.clip(np.rint(-low / step), 0, LEVELS)
            self._store(x, np.asarray(step), np.asarray(zero, np.uint8), reader)
        return self._values[x]

    def _store(self, x: ir.Value, scale: np.ndarray, zero: np.ndarray, reader: ir.Node) -> None:
        by = [self._constant(x, "scale", scale), self._constant(x, "zero", zero)]
        known = x.const_value
        if known is None:
            stored = value_like(x, self._names(f"{x.name}.quantized"), ir.DataType.from_numpy(zero.dtype))
            node_before(self._graph, reader, "QuantizeLinear", [x, *by], stored)
        else:
            steps = np.rint(known.numpy() / scale) + zero
            stored = self._constant(x, "quantized", np.clip(steps, 0, LEVELS).astype(zero.dtype))
        self._values[x] = self._dequantized(x, [stored, *by], reader)

    def weights(self, layer: ir.Node, *, with_bias: bool) -> None:
        """Have `layer`, whose input is stored, read DQ of its weight as that is stored, and of its bias in int32."""
        weight, axis = weight_of(layer), _channel_axis(layer)
        assert weight is not None and weight.const_value is not None
        w = weight.const_value.numpy()
        largest = np.abs(w).max(axis=None if axis is None else tuple(i for i in range(w.ndim) if i != axis))
        bias = _bias_of(layer) if with_bias else None
        if bias is not None:
            assert bias.const_value is not None
            b, step = bias.const_value.numpy().astype(np.float64), _step_of(layer.inputs[0])
            least = np.maximum(np.abs(b) / MOST_BIAS, np.finfo(np.float32).tiny) / step
            largest = np.maximum(largest, least * self._kind.largest).astype(np.float32)
        scale = self._scale(largest)
        layer.replace_input_with(1, self._weight(weight, w, scale, axis, layer))
        if bias is not None:
            self._bias(bias, b, (step * scale).astype(np.float32), layer)

    def _weight(
        self, weight: ir.Value, w: np.ndarray, scale: np.ndarray, axis: int | None, reader: ir.Node
    ) -> ir.Value:
        key = (weight, axis, scale.tobytes())
        if key not in self._weights:
            spread = scale if axis is None else scale.reshape([-1 if i == axis else 1 for i in range(w.ndim)])
            steps = np.clip(w / spread, -self._kind.largest, self._kind.largest)
            stored = (np.rint(steps) if self._kind.numpy.kind == "i" else steps).astype(self._kind.numpy)
            inputs = [
                self._constant(weight, "quantized", stored),
                self._constant(weight, "scale", scale),
                self._constant(weight, "zero", np.zeros(scale.shape, self._kind.numpy)),
            ]
            self._weights[key] = self._dequantized(weight, inputs, reader, axis)
        return self._weights[key]

    def _bias(self, bias: ir.Value, b: np.ndarray, step: np.ndarray, reader: ir.Node) -> None:
        stored = np.rint(b / step).astype(np.int32)
        inputs = [self._constant(bias, "quantized", stored), self._constant(bias, "scale", step)]
        reader.replace_input_with(2, self._dequantized(bias, inputs, reader, 0))

    def _dequantized(self, x: ir.Value, inputs: list[ir.Value], reader: ir.Node, axis: int | None = None) -> ir.Value:
        result = value_like(x, self._names(f"{x.name}.dequantized"), ir.DataType.FLOAT)
        along = {} if axis is None else {"axis": axis}
        return node_before(self._graph, reader, "DequantizeLinear", inputs, result, **along)

    def _constant(self, x: ir.Value, role: str, array: np.ndarray) -> ir.Value:
        return constant(self._graph, self._names(f"{x.name}.{role}"), array)

    def _scale(self, largest: np.ndarray | np.float32) -> np.ndarray:
        """The step of a value of this largest magnitude, rounded up to a number of the rest's type; 1 where it is 0."""
        step = np.asarray(largest, np.float32) / np.float32(self._kind.largest)
        near = step.astype(self._rest.numpy())
        above = np.nextafter(near, near.dtype.type(np.inf))
        up = np.where(near.astype(np.float32) < step, above, near).astype(np.float32)
        return np.where(up > 0, up, np.float32(1)).astype(np.float32)


def _ends(x: ir.Value, name: str, ranges: Mapping[str, float], lows: Mapping[str, float]) -> tuple[float, float]:
    """The lowest and the highest number of `x` to be kept; `name` is what it, if it is computed, has a range as."""
    if x.const_value is not None:
        array = x.const_value.numpy()
        return float(np.min(array, initial=0)), float(np.max(array, initial=0))
    return max(-ranges[name], lows.get(name, -np.inf)), ranges[name]


def _step_of(x: ir.Value | None) -> float:
    """The scale of a stored value."""
    producer = None if x is None else x.producer()
    scale = None if producer is None else producer.inputs[1]
    assert scale is not None and scale.const_value is not None
    return float(scale.const_value.numpy())


def _bias_of(layer: ir.Node) -> ir.Value | None:
    """The constant bias of a layer, one number a channel, that is added to its sums as they are; None without one."""
    bias = layer.inputs[2] if len(layer.inputs) > 2 else None
    factors = (layer.attributes[name].as_float() for name in ("alpha", "beta") if name in layer.attributes)
    if bias is None or bias.const_value is None or any(factor != 1 for factor in factors):
        return None
    weight, axis = layer.inputs[1], _channel_axis(layer)
    channels = None if axis is None or weight is None or weight.shape is None else weight.shape[axis]
    return bias if bias.const_value.shape.numpy() == (channels,) else None


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
