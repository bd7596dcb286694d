from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from .base import Pass
from .convs import bias64, conv_of, set_weights
from .edit import bypass, is_weight, producer, sole_user, values64
from .pool_first import gate_of


class ScaleIntoConv(Pass):
    """k·(w*x + b) = (k·w)*x + k·b for a constant k, one for all channels or one a channel.

    k passes sums, (a + b)·k = a·k + b·k, and a relu where it is not negative, and moves between the factors of a
    product: z·(g·k) = (z·k)·g.

    Given  Mul of a constant and z, or of a gate times a constant and z; z a Conv, or sums and relus of Convs, that
    nothing
           else reads
    Result the constant inside the weights of each Conv
    """

    name = "scale-into-conv"

    def rewrite(self, graph: gs.Graph, node: Any) -> bool:  # noqa: D102
        if node.op != "Mul":
            return False
        for z, factor in ((node.inputs[0], node.inputs[1]), (node.inputs[1], node.inputs[0])):
            k_C = _per_channel(factor, z)
            if k_C is not None:
                convs = _scalable(graph, z, node, k_C)
                if convs and bypass(graph, node, z):
                    return _scale(graph, convs, k_C)
            elif factor is gate_of(node) and (inner := producer(factor, "Mul")) and sole_user(graph, factor) is node:
                for gate, constant in ((inner.inputs[0], inner.inputs[1]), (inner.inputs[1], inner.inputs[0])):
                    k_C = _per_channel(constant, z)
                    convs = None if k_C is None else _scalable(graph, z, node, k_C)
                    if convs and k_C is not None and bypass(graph, inner, gate):
                        return _scale(graph, convs, k_C)
        return False


def _per_channel(factor: Any, z: Any) -> np.ndarray | None:
    """k[c], or k[0] for all, if `factor` is a constant that broadcasts over all but the channels of z; else None."""
    if not is_weight(factor) or z.shape is None or len(z.shape) < 3:
        return None
    shape = [1] * (len(z.shape) - len(factor.shape)) + list(factor.shape)
    if len(shape) != len(z.shape) or any(size != 1 for axis, size in enumerate(shape) if axis != 1):
        return None
    return values64(factor).reshape(-1)


def _scalable(graph: gs.Graph, z: Any, user: Any, k_C: np.ndarray) -> list[Any] | None:
    """The Convs whose scaling scales z, which `user` alone reads; None where something else makes a part of z."""
    if sole_user(graph, z) is not user:
        return None
    if (conv := conv_of(z)) is not None:
        return [conv]
    if (relu := producer(z, "Relu")) is not None and (k_C >= 0).all():
        return _scalable(graph, relu.inputs[0], relu, k_C)
    if (add := producer(z, "Add")) is not None and add.inputs[0] is not add.inputs[1]:
        parts = [_scalable(graph, t, add, k_C) for t in add.inputs]
        same = all(t.shape is not None and list(t.shape) == list(z.shape) for t in add.inputs)
        return [c for part in parts for c in part or []] if same and None not in parts else None
    return None


def _scale(graph: gs.Graph, convs: list[Any], k_C: np.ndarray) -> bool:
    for conv in convs:
        w_OIK = values64(conv.inputs[1])
        bias = bias64(conv) * k_C if len(conv.inputs) > 2 else None
        set_weights(graph, conv, w_OIK * k_C.reshape(-1, *[1] * (w_OIK.ndim - 1)), bias)
    return True
