from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from ..base import Pass
from ..edit import (
    bypass,
    ints,
    is_constant,
    is_output,
    is_same_shape,
    is_same_value,
    is_same_view,
    is_weight,
    producer,
    scalar,
    spatial,
    values64,
)

BARE_CLIP = 11
"""The opset from which Clip takes its limits as inputs, and has none where they are left out but those of the type."""
INFERENCE = 7
"""The opset from which Dropout does nothing unless told that it trains."""


class RemoveNoops(Pass):
    """f(x) = x. The same shape is not enough: a Slice may run backwards, a Resize by 1.05 give as many samples.

    Given  y = f(x), f one of: Identity; Dropout at inference, its mask unread; LeakyRelu of slope 1; Add, Sub of 0;
           Mul, Div of 1; Sum, Mean, Max, Min or Concat of one value; Split into one; Clip without limits; Pad by
           nothing; Transpose that moves nothing; Cast to the same type, or back from one that holds every value;
           Reshape, Flatten, Expand, Squeeze, Unsqueeze to the same shape; Slice of all in steps of 1; Resize or
           Upsample by 1; a 1×1 pool of stride 1; a global pool of 1×1
    Result x
    """

    name = "remove-noops"
    within = True

    def rewrite(self, graph: gs.Graph, node: Any) -> bool:  # noqa: D102
        source = _source(graph, node)
        return source is not None and not is_constant(source) and bypass(graph, node, source)


def _source(graph: gs.Graph, node: Any) -> Any:
    """The input that `node` hands on unchanged, or None."""
    if (node.domain or "") not in ("", "ai.onnx") or not node.inputs:
        return None
    x, y, attrs = node.inputs[0], node.outputs[0], node.attrs
    alone = all(not out.outputs and not is_output(graph, out) for out in node.outputs[1:])
    match node.op:
        case "Identity":
            noop = True
        case "Dropout":
            off = graph.opset >= INFERENCE or bool(attrs.get("is_test", 0))
            noop = alone and off and (len(node.inputs) < 3 or _is_false(node.inputs[2]))
        case "LeakyRelu":
            noop = attrs.get("alpha", 0.01) == 1.0
        case "Add" | "Mul":
            neutral = 0.0 if node.op == "Add" else 1.0
            for value, other in ((x, node.inputs[1]), (node.inputs[1], x)):
                if scalar(other) == neutral and is_same_shape(value, y):
                    return value
            return None
        case "Sub" | "Div":
            noop = scalar(node.inputs[1]) == (0.0 if node.op == "Sub" else 1.0) and is_same_shape(x, y)
        case "Pad":
            pads = attrs.get("pads") or (ints(node.inputs[1]) if len(node.inputs) > 1 else None)
            noop = pads is not None and not any(pads)
        case "Concat" | "Sum" | "Mean" | "Max" | "Min":
            noop = len(node.inputs) == 1
        case "Split":
            noop = len(node.outputs) == 1
        case "Clip":
            noop = graph.opset >= BARE_CLIP and all(t.is_empty() for t in node.inputs[1:])
        case "Transpose":
            noop = "perm" in attrs and list(attrs["perm"]) == sorted(attrs["perm"])
        case "Cast":
            if x.dtype is not None and x.dtype == y.dtype:
                return x
            return _before_cast(x, y)
        case "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze":
            noop = is_same_view(graph, x, y)
        case "Expand":
            noop = is_same_value(graph, x, y)
        case "Slice":
            noop = is_same_value(graph, x, y) and _steps_by_one(node)
        case "Resize" | "Upsample":
            noop = _scales_by_one(node)
        case "GlobalAveragePool" | "GlobalMaxPool":
            noop = set(spatial(x) or [0]) == {1}
        case "MaxPool" | "AveragePool":
            ones = [*attrs.get("kernel_shape", [0]), *attrs.get("strides", [])]
            noop = alone and set(ones) == {1} and not any(attrs.get("pads", []))
            noop = noop and attrs.get("auto_pad", "NOTSET") in ("NOTSET", "VALID")
        case _:
            noop = False
    return x if noop else None


def _is_false(tensor: Any) -> bool:
    return tensor.is_empty() or (is_constant(tensor) and not np.any(tensor.values))


def _before_cast(x: Any, y: Any) -> Any:
    """What was cast to x, if y is of its type again and x has held all its values; else None."""
    cast = producer(x, "Cast")
    source = cast.inputs[0] if cast is not None else None
    if source is None or source.dtype is None or source.dtype != y.dtype:
        return None
    plain = all(isinstance(t.dtype, np.dtype) and t.dtype.kind in "biuf" for t in (source, x))
    return source if plain and np.can_cast(source.dtype, x.dtype, "safe") else None


def _steps_by_one(node: Any) -> bool:
    """Whether a Slice takes every element that it passes, forwards."""
    return len(node.inputs) < 5 or node.inputs[4].is_empty() or set(ints(node.inputs[4]) or [0]) == {1}


def _scales_by_one(node: Any) -> bool:
    """Whether a Resize samples each element where it lies: x' = x for scales of 1, but for a crop of its own."""
    if node.attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        return False
    scales = node.attrs.get("scales")
    if scales is None:
        slot = 1 if node.op == "Upsample" or len(node.inputs) == 2 else 2  # Resize has a region of interest since 11
        given = node.inputs[slot] if len(node.inputs) > slot else None
        if given is None or not is_weight(given) or int(np.prod(given.shape)) == 0:
            return False
        scales = values64(given).reshape(-1)
    return all(scale == 1.0 for scale in scales)
