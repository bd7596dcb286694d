"""Attention of any rank as attention of rank 4, the only one that torch.onnx writes.

    softmax(q·kᵀ)·v over [N, L, E] is that over [N, 1, L, E]; over [A, B, H, L, E] that over [A·B, H, L, E].

A mask broadcasts from its last axis on: one of three axes gets the new axis, too, where q has three.
"""

from typing import Any

import torch
from torch import fx

aten = torch.ops.aten
ATTENTION = aten.scaled_dot_product_attention.default
RANK = 4


def attention_in_rank_4(graph: fx.Graph) -> None:
    """Rewrite in place whatever attention has another rank; what cannot be is left, for the exporter to refuse."""
    for node in graph.find_nodes(op="call_function", target=ATTENTION):
        query = node.args[0].meta["val"]
        mask = node.args[3] if len(node.args) > 3 else node.kwargs.get("attn_mask")
        if any(arg.meta["val"].ndim != query.ndim for arg in node.args[:3]):
            continue
        if query.ndim == RANK - 1:
            _lift(graph, node, mask)
        elif query.ndim > RANK and _is_static(node) and (mask is None or mask.meta["val"].ndim < RANK):
            _flatten(graph, node)


def _lift(graph: fx.Graph, node: fx.Node, mask: fx.Node | None) -> None:
    """One head, which is taken away again."""
    with graph.inserting_before(node):
        node.args = (*(_called(graph, aten.unsqueeze.default, arg, 1) for arg in node.args[:3]), *node.args[3:])
        if mask is not None and mask.meta["val"].ndim == RANK - 1:
            node.replace_input_with(mask, _called(graph, aten.unsqueeze.default, mask, 1))
    _behind(graph, node, aten.squeeze.dim, 1)


def _flatten(graph: fx.Graph, node: fx.Node) -> None:
    """All axes before the heads as one, which is taken apart again."""
    shape = list(node.meta["val"].shape)
    inputs = []
    with graph.inserting_before(node):
        for arg in node.args[:3]:
            assert isinstance(arg, fx.Node)
            inputs.append(_called(graph, aten.reshape.default, arg, [-1, *arg.meta["val"].shape[1 - RANK :]]))
    node.args = (*inputs, *node.args[3:])
    _behind(graph, node, aten.reshape.default, shape)


def _behind(graph: fx.Graph, node: fx.Node, target: Any, argument: Any) -> None:
    """Let `target` of the attention stand for what it was."""
    readers = list(node.users)
    given = [arg.meta["val"] if isinstance(arg, fx.Node) else arg for arg in node.args]
    kwargs = {k: arg.meta["val"] if isinstance(arg, fx.Node) else arg for k, arg in node.kwargs.items()}
    node.meta["val"] = ATTENTION(*given, **kwargs)
    with graph.inserting_after(node):
        result = _called(graph, target, node, argument)
    for reader in readers:
        reader.replace_input_with(node, result)


def _called(graph: fx.Graph, target: Any, source: Any, argument: Any) -> fx.Node:
    """The call, with the shape that it gives."""
    called = graph.call_function(target, (source, argument))
    called.meta["val"] = target(source.meta["val"], argument)
    return called


def _is_static(node: fx.Node) -> bool:
    values = [node.meta["val"], *(arg.meta["val"] for arg in node.args[:3] if isinstance(arg, fx.Node))]
    return all(isinstance(size, int) for value in values for size in value.shape)
