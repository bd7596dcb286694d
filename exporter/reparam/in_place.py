"""Writes in place as the pure ops that they stand for, where nothing else can see the memory."""

import torch
from torch import fx

FRESH = {
    "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "convolution", "linear",
    "batch_norm", "group_norm", "layer_norm", "add", "sub", "mul", "div", "neg", "cat", "mean",
    "relu", "relu6", "leaky_relu", "hardtanh", "hardswish", "hardsigmoid", "silu", "sigmoid", "gelu", "elu", "mish",
    "avg_pool2d", "max_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d", "upsample_nearest2d",
}  # fmt: skip
"""Ops whose result never shares memory with an argument."""


def write_out_of_place(graph: fx.Graph) -> bool:
    """Replace each write into a value of its own memory; whether no write is left.

    f_(a, …) is f(a, …), and whoever reads a later reads that, if a was made by an op that gives fresh memory and nobody
    made a view of it.
    """
    clean = True
    for node in list(graph.nodes):
        if not writes(node):
            continue
        pure, target = pure_op(node.target), node.args[0]
        if pure is None or not isinstance(target, fx.Node) or not _is_fresh(target) or not _unseen(target, node):
            clean = False
            continue
        node.target = pure
        later = False
        for other in graph.nodes:
            later = later or other is node
            if later and other is not node and target in other.all_input_nodes:
                other.replace_input_with(target, node)
    return clean


def writes(node: fx.Node) -> bool:
    """Whether the node is an ATen call that writes into an argument."""
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def pure_op(target: object) -> torch._ops.OpOverload | None:
    """The op without its write in place, or None where it has no such form."""
    assert isinstance(target, torch._ops.OpOverload)
    packet = getattr(torch.ops.aten, target.overloadpacket.__name__.removesuffix("_"), None)
    pure = getattr(packet, target._overloadname, None)
    return pure if isinstance(pure, torch._ops.OpOverload) and not pure._schema.is_mutable else None


def _is_fresh(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target.overloadpacket.__name__ in FRESH


def _unseen(node: fx.Node, write: fx.Node) -> bool:
    """Whether no reader of the node shares its memory."""
    return all(
        user is write or user.op == "output" or _is_fresh(user) or (writes(user) and user.args[0] is node)
        for user in node.users
    )
