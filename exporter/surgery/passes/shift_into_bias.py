from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from ..base import Pass
from ..convs import bias64, channels_read, conv_of, conv_readers, is_unpadded, set_bias
from ..edit import add_node, bypass, detach, producer, redirect, sole_user, values64
from .scale_into_conv import per_channel

BROADCASTS = 8
"""The opset from which Max broadcasts its inputs."""


class ShiftIntoBias(Pass):
    """(w*x + b) + c = w*x + (b + c), through sums too; relu(u) + c = max(u + c, c); w*(x + c) + b = w*x + (b + Σ w·c).

    So a shift behind an activation costs nothing: the activation is still one comparison with a constant. The last one
    holds where nothing is padded.

    Given  Add of a constant c, one for all channels or one a channel, and z; z a Conv, a sum that a Conv is a part of,
           or the Relu of such a one, that nothing else reads; or such an Add → unpadded Convs and nothing else
    Result c in the bias of the Conv; Max with c in the place of the Relu
    """

    name = "shift-into-bias"

    def rewrite(self, graph: gs.Graph, node: Any) -> bool:  # noqa: D102
        if node.op != "Add":
            return False
        for z, factor in ((node.inputs[0], node.inputs[1]), (node.inputs[1], node.inputs[0])):
            c_C = per_channel(factor, z)
            if c_C is None or not np.all(np.isfinite(c_C)):
                continue
            relu = producer(z, "Relu")
            if _forward(graph, node, z, c_C):
                return True
            if relu is None:
                conv = _conv_in_sum(graph, z, node)
                if conv is not None and bypass(graph, node, z):
                    return _shift(graph, conv, c_C)
            elif graph.opset >= BROADCASTS and sole_user(graph, z) is node:
                conv = _conv_in_sum(graph, relu.inputs[0], relu)
                if conv is not None:
                    u, y, name = relu.inputs[0], node.outputs[0], relu.name
                    detach(graph, relu)
                    add_node(graph, "Max", [u, factor], y, name=name)
                    return _shift(graph, conv, c_C)
        return False


def _forward(graph: gs.Graph, add: Any, x: Any, c_C: np.ndarray) -> bool:
    """Put c into the biases of the unpadded Convs that read x + c, if nothing else does."""
    y = add.outputs[0]
    convs = conv_readers(graph, y)
    if not convs or not all(map(is_unpadded, convs)) or list(y.shape or []) != list(x.shape):
        return False
    for conv in convs:
        w_OI = values64(conv.inputs[1]).sum(tuple(range(2, len(conv.inputs[1].shape))))
        c_OI = c_C[channels_read(conv)] if c_C.size > 1 else c_C
        set_bias(graph, conv, bias64(conv) + (w_OI * c_OI).sum(1))
    detach(graph, add)
    redirect(y, x)
    return True


def _conv_in_sum(graph: gs.Graph, z: Any, user: Any) -> Any:
    """The Conv that makes z, or one that makes a part of the sum that makes it, none of it read elsewhere; or None."""
    if sole_user(graph, z) is not user:
        return None
    if (conv := conv_of(z)) is not None:
        return conv
    add = producer(z, "Add")
    if add is None or add.inputs[0] is add.inputs[1]:
        return None
    same = [t for t in add.inputs if t.shape is not None and list(t.shape) == list(z.shape or [])]
    return next((conv for t in same if (conv := _conv_in_sum(graph, t, add)) is not None), None)


def _shift(graph: gs.Graph, conv: Any, c_C: np.ndarray) -> bool:
    set_bias(graph, conv, bias64(conv) + c_C)
    return True
