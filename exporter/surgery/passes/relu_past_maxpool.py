from typing import Any

import onnx_graphsurgeon as gs

from ..base import Pass
from ..edit import fresh, producer, sole_user

FUSES_RELU = ("Conv", "ConvTranspose", "Gemm")
"""Ops into which every runtime fuses a Relu that follows; behind others it would cost a pass over the larger value."""


class ReluPastMaxPool(Pass):
    """relu(max_i x_i) = max_i relu(x_i), as relu never decreases.

    It holds for windows that see at least one element: a window that lies in the padding alone gives −inf before the
    Relu and 0 after it. Such a window needs padding as wide as the window, dilation, or a rounded-up output size.

    Given  Conv → MaxPool → Relu, nothing else reading the two values between them
    Result Conv → Relu → MaxPool, the Relu fused into the Conv
    """

    name = "relu-past-maxpool"

    def rewrite(self, graph: gs.Graph, node: Any) -> bool:  # noqa: D102
        if node.op != "Relu":
            return False
        pooled = node.inputs[0]
        pool = producer(pooled, "MaxPool")
        if pool is None or sole_user(graph, pooled) is not node or len(pool.outputs) > 1 or not _sees_an_element(pool):
            return False
        x, y = pool.inputs[0], node.outputs[0]
        if producer(x, *FUSES_RELU) is None or sole_user(graph, x) is not pool:
            return False
        positive = gs.Variable(fresh(graph, f"{x.name}_relu"), dtype=x.dtype, shape=x.shape)
        node.inputs[0], node.outputs[0] = x, positive
        pool.inputs[0], pool.outputs[0] = positive, y
        return True


def _sees_an_element(pool: Any) -> bool:
    window = pool.attrs["kernel_shape"]
    pads = pool.attrs.get("pads", [0] * (2 * len(window)))
    return (
        all(pad < size for pad, size in zip(pads, [*window, *window], strict=True))
        and all(d == 1 for d in pool.attrs.get("dilations", []))
        and not pool.attrs.get("ceil_mode", 0)
        and pool.attrs.get("auto_pad", "NOTSET") == "NOTSET"
    )
