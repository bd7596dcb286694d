from typing import Any

import onnx_graphsurgeon as gs

from .base import Pass
from .edit import add_node, append, ints, spatial


class GlobalAveragePool(Pass):
    """mean over all spatial axes = GlobalAveragePool.

    Given  y = ReduceMean(x, axes = every spatial axis), or AveragePool(x) by one window of the size of x
    Result y = GlobalAveragePool(x), and Flatten where ReduceMean dropped the axes
    """

    name = "global-average-pool"

    def rewrite(self, graph: gs.Graph, node: Any) -> bool:  # noqa: D102
        if not (_means_all(node) or _pools_all(node)):
            return False
        x, y = node.inputs[0], node.outputs[0]
        if node.op == "ReduceMean" and not node.attrs.get("keepdims", 1):
            pooled = append(
                graph, "GlobalAveragePool", [x], name=f"{node.name}_pool", like=y,
                shape=[*x.shape[:2], *[1] * (len(x.shape) - 2)],
            )  # fmt: skip
            add_node(graph, "Flatten", [pooled], y, name=f"{node.name}_flat", attrs={"axis": 1})
        else:
            add_node(graph, "GlobalAveragePool", [x], y, name=node.name)
        return True


def _means_all(node: Any) -> bool:
    if node.op != "ReduceMean" or node.inputs[0].shape is None or len(node.inputs[0].shape) < 3:
        return False
    rank = len(node.inputs[0].shape)
    axes = node.attrs.get("axes") or (ints(node.inputs[1]) if len(node.inputs) > 1 else None)
    return axes is not None and {a % rank for a in axes} == set(range(2, rank))


def _pools_all(node: Any) -> bool:
    if node.op != "AveragePool" or spatial(node.inputs[0]) is None:
        return False
    window = tuple(node.attrs.get("kernel_shape", ()))
    ones = all(d == 1 for d in node.attrs.get("dilations", []))
    return window == spatial(node.inputs[0]) and ones and not any(node.attrs.get("pads", [])) and (
        node.attrs.get("auto_pad", "NOTSET") in ("NOTSET", "VALID")
        and spatial(node.outputs[0]) == (1,) * len(window)
    )  # fmt: skip
