from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from ..base import Pass
from ..edit import add_node, append, constant, is_output, producer
from ..takers import per_channel


class PoolBehindShift(Pass):
    """mean(x) = mean(x + c) − c: if x is read as x + c elsewhere, it need not be kept itself.

    What makes x then makes x + c in the same pass over memory. The difference is 1×1, and goes into the bias of the
    gate's convolution.

    Given  x → Add of a constant, one for all channels or one a channel; x → GlobalAveragePools; nothing else reading x
    Result Add → GlobalAveragePools → Add of the negative constant
    """

    name = "pool-behind-shift"

    def rewrite(self, graph: gs.Graph, node: Any) -> bool:  # noqa: D102
        if node.op != "Add":
            return False
        for x, shift in ((node.inputs[0], node.inputs[1]), (node.inputs[1], node.inputs[0])):
            c_C = per_channel(shift, x)
            pools = [user for user in x.outputs if user is not node]
            if c_C is None or not pools or is_output(graph, x) or producer(x) is None:
                continue
            if any(pool.op != "GlobalAveragePool" for pool in pools) or list(x.shape) != list(node.outputs[0].shape):
                continue
            tail = [1] * (len(x.shape) - 2)
            for pool in pools:
                pooled, name = pool.outputs[0], pool.name
                mean = append(graph, "GlobalAveragePool", [node.outputs[0]], name=f"{name}_shifted", like=pooled)
                back = constant(graph, f"{name}.shift", -np.reshape(c_C, (1, -1, *tail)), shift.dtype)
                add_node(graph, "Add", [mean, back], pooled, name=name)
            return True
        return False
