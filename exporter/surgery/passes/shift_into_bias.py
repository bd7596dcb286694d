from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from ..base import Pass
from ..convs import bias64, channels_read, conv_readers, is_unpadded, set_bias
from ..edit import bypass, detach, redirect, values64
from ..takers import per_channel, take_shift


class ShiftIntoBias(Pass):
    """(w*x + b) + c = w*x + (b + c); relu(u) + c = max(u + c, c); w*(x + c) + b = w*x + (b + Σ w·c).

    Through sums, concats, resizes and pools too, see `takers`. So a shift behind an activation costs nothing: the
    activation is still one comparison with a constant. The last one holds where nothing is padded.

    Given  Add of a constant c, one for all channels or one a channel, and z; z a Conv, or made of Convs by such ops,
           that nothing else reads; or such an Add → unpadded Convs and nothing else
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
            if _forward(graph, node, z, c_C):
                return True
            edits = take_shift(graph, z, node, c_C)
            if edits and bypass(graph, node, z):
                for edit in edits:
                    edit()
                return True
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
