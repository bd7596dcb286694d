"""Channel shuffles of maps of an open size, as one Gather: a view with two open sizes takes nodes to say them."""

from math import prod
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from ..surgery.edit import add_node, fresh, producer, sole_user


def gather_from_shuffles(graph: gs.Graph) -> int:
    """y = view(T_p(view(x))) → y[:, c] = x[:, index[c]], wherever the views split and join the channels alone.

    The graph's symbolic shapes must be the trace's own, in which equal sizes are spelled alike. Returns how many it
    rewrote; what only they read is left to `cleanup`.
    """
    count = 0
    for node in list(graph.nodes):
        found = _shuffle(graph, node)
        if found is not None:
            (x, index_C), y = found, node.outputs[0]
            index = gs.Constant(fresh(graph, f"{node.name}_channels"), index_C)
            add_node(graph, "Gather", [x, index], y, name=node.name, attrs={"axis": 1})
            count += 1
    graph.cleanup().toposort()
    return count


def _shuffle(graph: gs.Graph, node: Any) -> tuple[Any, np.ndarray] | None:
    """x, and which of its channels each of y is, where `node` is the last op of a shuffle; else None."""
    transpose = producer(node.inputs[0], "Transpose") if node.op == "Reshape" else None
    split = producer(transpose.inputs[0], "Reshape") if transpose is not None else None
    if transpose is None or split is None or sole_user(graph, node.inputs[0]) is not node:
        return None
    x, middle, y = split.inputs[0], split.outputs[0], node.outputs[0]
    if any(t.shape is None or len(t.shape) < 3 for t in (x, middle, y)) or list(x.shape) != list(y.shape):
        return None
    parts = len(middle.shape) - len(x.shape) + 1  # axes that the channels are split into
    factors = list(middle.shape[1 : 1 + parts])
    permutation = [int(axis) for axis in transpose.attrs["perm"]]
    rest = range(1 + parts, len(middle.shape))
    if (
        parts < 2
        or not all(isinstance(n, int) for n in (*factors, x.shape[1]))
        or prod(factors) != x.shape[1]
        or [middle.shape[0], *middle.shape[1 + parts :]] != [x.shape[0], *x.shape[2:]]
        or permutation[0] != 0
        or permutation[1 + parts :] != list(rest)
    ):
        return None
    channels = np.arange(x.shape[1], dtype=np.int64).reshape(factors)
    return x, channels.transpose([axis - 1 for axis in permutation[1 : 1 + parts]]).reshape(-1)
