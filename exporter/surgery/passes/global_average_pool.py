from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from ..base import Pass
from ..edit import add_node, append, detach, fresh, ints, producer, sole_user, spatial

AXES_ARE_INPUT = 18
"""The opset from which the axes of ReduceMean are an input."""


class GlobalAveragePool(Pass):
    """mean over all spatial axes = GlobalAveragePool; where the axes are dropped too, one ReduceMean says both.

    Given  y = ReduceMean(x, axes = every spatial axis), the axes kept; or AveragePool(x) by one window of the size of
           x; or GlobalAveragePool → Flatten, nothing else reading the value between them
    Result y = GlobalAveragePool(x); ReduceMean in the last case
    """

    name = "global-average-pool"

    def rewrite(self, graph: gs.Graph, node: Any) -> bool:  # noqa: D102
        y = node.outputs[0]
        if node.op == "Flatten":
            return _drop_axes(graph, node)
        if not (means_all(node) and node.attrs.get("keepdims", 1)) and not _pools_all(node):
            return False
        add_node(graph, "GlobalAveragePool", [node.inputs[0]], y, name=node.name)
        return True


def _drop_axes(graph: gs.Graph, flatten: Any) -> bool:
    """GlobalAveragePool → Flatten as one ReduceMean."""
    pooled, y = flatten.inputs[0], flatten.outputs[0]
    pool = producer(pooled, "GlobalAveragePool")
    if pool is None or sole_user(graph, pooled) is not flatten or flatten.attrs.get("axis", 1) != 1:
        return False
    x = pool.inputs[0]
    if x.shape is None or len(x.shape) < 3:
        return False
    axes = list(range(2, len(x.shape)))
    name, inputs, attrs = pool.name, [x], {"axes": axes, "keepdims": 0}
    if graph.opset >= AXES_ARE_INPUT:
        inputs.append(gs.Constant(fresh(graph, f"{name}_axes"), np.array(axes, np.int64)))
        attrs.pop("axes")
    detach(graph, pool)
    add_node(graph, "ReduceMean", inputs, y, name=name, attrs=attrs)
    return True


def pool_of(graph: gs.Graph, node: Any) -> Any:
    """The GlobalAveragePool that `node` is, or is once the axes that it drops are dropped by a Flatten; or None.

    The graph is changed in the second case: ask once a rewrite is sure.
    """
    if node.op == "GlobalAveragePool":
        return node
    x, y, name = node.inputs[0], node.outputs[0], node.name
    shape = [*x.shape[:2], *[1] * (len(x.shape) - 2)]
    pooled = append(graph, "GlobalAveragePool", [x], name=f"{name}_pool", like=y, shape=shape)
    add_node(graph, "Flatten", [pooled], y, name=f"{name}_flat", attrs={"axis": 1})
    return producer(pooled)


def is_pool(node: Any) -> bool:
    """Whether `node` is a GlobalAveragePool, or a ReduceMean that is one and drops the axes."""
    return node.op == "GlobalAveragePool" or (means_all(node) and not node.attrs.get("keepdims", 1))


def means_all(node: Any) -> bool:
    """Whether `node` is a ReduceMean over every spatial axis."""
    if node.op != "ReduceMean" or node.inputs[0].shape is None or len(node.inputs[0].shape) < 3:
        return False
    if not isinstance(node.inputs[0].dtype, np.dtype) or node.inputs[0].dtype.kind != "f":
        return False  # a mean of integers is rounded, a pool knows none
    rank = len(node.inputs[0].shape)
    axes = node.attrs.get("axes")
    if axes is None and len(node.inputs) > 1:
        axes = ints(node.inputs[1])
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
