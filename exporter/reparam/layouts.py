"""Which axis of a value its channels are: the second, or the last, where a Linear makes or reads it."""

from collections.abc import Set

import torch
from torch import fx

from .graph import channel_axis, sizes

EITHER = {
    "add", "sub", "rsub", "mul", "div", "neg", "dropout", "feature_dropout", "alpha_dropout",
    "clone", "alias", "contiguous", "detach", "lift_fresh_copy", "leaky_relu", "prelu", "rrelu",
}  # fmt: skip
"""Ops that do the same to every element, so that any axis may be called their channels."""
FIRST = {"batch_norm", "instance_norm", "constant_pad_nd", "pad", "avg_pool1d", "avg_pool2d", "avg_pool3d"}
"""Ops whose channels are the second axis, and convolutions besides."""


def channels_last(graph: fx.Graph, constants: Set[fx.Node]) -> set[fx.Node]:
    """The values of three axes and more whose channels are the last axis.

    A Linear says so of what it makes and reads, and a scale or shift that varies along the last axis; an op that may
    take either axis for channels follows the values beside it.
    """
    parent: dict[fx.Node, fx.Node] = {}
    said: list[tuple[fx.Node, bool]] = []

    def find(node: fx.Node) -> fx.Node:
        while parent.setdefault(node, node) is not node:
            parent[node] = node = parent[parent[node]]
        return node

    for node in graph.nodes:
        shape = sizes(node)
        if shape is None or len(shape) < 3 or node in constants or not isinstance(node.target, torch._ops.OpOverload):
            continue
        name = node.target.overloadpacket.__name__
        read = [n for n in node.all_input_nodes if n not in constants and sizes(n) is not None]
        if name in EITHER:
            axes = {channel_axis(n, len(shape)) for n in node.all_input_nodes if n in constants and not _is_scalar(n)}
            for value in read:
                if sizes(value) == shape:
                    parent[find(value)] = find(node)
            if axes:
                said.append((node, axes == {len(shape) - 1}))
        elif name == "linear" or (name == "matmul" and node.args[1] in constants):
            said += [(value, True) for value in (node, node.args[0]) if value not in constants]
        elif name in FIRST or name.startswith("conv"):
            said += [(value, False) for value in (node, read[0])]
    first, last = ({find(node) for node, is_last in said if is_last is wanted} for wanted in (False, True))
    return {node for node in parent if find(node) in last - first}


def _is_scalar(node: fx.Node) -> bool:
    return all(size == 1 for size in sizes(node) or ())
