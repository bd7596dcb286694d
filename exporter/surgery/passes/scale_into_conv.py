from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from ..base import Pass
from ..convs import channels_read, conv_readers
from ..edit import bypass, detach, is_constant, producer, redirect, sole_user
from ..takers import Edits, per_channel, scale_input, take_scale
from .pool_first import gate_of


class ScaleIntoConv(Pass):
    """k·(w*x + b) = (k·w)*x + k·b, and w*(k·x) = (w·k)*x, for a constant k, one for all channels or one a channel.

    k passes sums, concats, resizes, pools and comparisons, see `takers`: k·relu(u) = relu(k·u), or min(k·u, 0) where k
    is negative. It moves between the factors of a product: z·(g·k) = (z·k)·g.

    Given  Mul of a constant and z, or of a gate times a constant and z; z a Conv, or made of Convs by such ops, that
           nothing else reads; or Mul of a constant → Convs and nothing else
    Result the constant inside the weights of each Conv; Min in the place of a Relu before a negative one
    """

    name = "scale-into-conv"

    def rewrite(self, graph: gs.Graph, node: Any) -> bool:  # noqa: D102
        if node.op != "Mul":
            return False
        for z, factor in ((node.inputs[0], node.inputs[1]), (node.inputs[1], node.inputs[0])):
            k_C = per_channel(factor, z)
            if k_C is not None:
                edits = take_scale(graph, z, node, k_C)
                if edits and bypass(graph, node, z):
                    return _made(edits)
                if not is_constant(z) and _scale_readers(graph, node, z, k_C):
                    return True
            elif factor is gate_of(node) and (inner := producer(factor, "Mul")) and sole_user(graph, factor) is node:
                for gate, constant in ((inner.inputs[0], inner.inputs[1]), (inner.inputs[1], inner.inputs[0])):
                    k_C = per_channel(constant, z)
                    edits = None if k_C is None else take_scale(graph, z, node, k_C)
                    if edits and bypass(graph, inner, gate):
                        return _made(edits)
        return False


def _made(edits: Edits) -> bool:
    for edit in edits:
        edit()
    return True


def _scale_readers(graph: gs.Graph, mul: Any, x: Any, k_C: np.ndarray) -> bool:
    """Scale what the Convs that read x·k read of each channel, if nothing else reads it."""
    y = mul.outputs[0]
    convs = conv_readers(graph, y)
    if not convs or list(y.shape or []) != list(x.shape):
        return False
    for conv in convs:
        k_OI = k_C[channels_read(conv)] if k_C.size > 1 else k_C.reshape(1, 1)
        scale_input(graph, conv, 1, np.expand_dims(k_OI, tuple(range(2, len(conv.inputs[1].shape)))))
    detach(graph, mul)
    redirect(y, x)
    return True
