from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from ..base import Pass
from ..edit import bypass, ints, is_constant, is_same_shape, scalar, spatial


class RemoveNoops(Pass):
    """f(x) = x.

    Given  y = f(x), f one of: Identity; Dropout at inference; LeakyRelu of slope 1; Add, Sub of 0; Mul, Div of 1;
           Pad by nothing; Concat of one value; Transpose that moves nothing; Cast to the same type; Reshape, Flatten,
           Expand, Squeeze, Unsqueeze or Slice to the same shape; a 1×1 pool of stride 1; a global pool of 1×1
    Result x
    """

    name = "remove-noops"

    def rewrite(self, graph: gs.Graph, node: Any) -> bool:  # noqa: D102
        source = _source(node)
        return source is not None and not is_constant(source) and bypass(graph, node, source)


def _source(node: Any) -> Any:
    """The input that `node` hands on unchanged, or None."""
    if (node.domain or "") not in ("", "ai.onnx") or not node.inputs:
        return None
    x, y, attrs = node.inputs[0], node.outputs[0], node.attrs
    alone = len(node.outputs) == 1 or all(not out.outputs for out in node.outputs[1:])
    match node.op:
        case "Identity":
            noop = True
        case "Dropout":
            noop = alone and (len(node.inputs) < 3 or _is_false(node.inputs[2]))
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
        case "Concat":
            noop = len(node.inputs) == 1
        case "Transpose":
            noop = "perm" in attrs and list(attrs["perm"]) == sorted(attrs["perm"])
        case "Cast":
            noop = x.dtype is not None and x.dtype == y.dtype
        case "Reshape" | "Flatten" | "Expand" | "Squeeze" | "Unsqueeze" | "Slice":
            noop = is_same_shape(x, y)
        case "GlobalAveragePool" | "GlobalMaxPool":
            noop = set(spatial(x) or [0]) == {1}
        case "MaxPool" | "AveragePool" | "LpPool":
            ones = [*attrs.get("kernel_shape", [0]), *attrs.get("strides", [])]
            noop = node.op != "LpPool" and alone and set(ones) == {1} and not any(attrs.get("pads", []))
            noop = noop and attrs.get("auto_pad", "NOTSET") in ("NOTSET", "VALID")
        case _:
            noop = False
    return x if noop else None


def _is_false(tensor: Any) -> bool:
    return tensor.is_empty() or (is_constant(tensor) and not np.any(tensor.values))
