"""Graphs within a graph: the branches of an If, the bodies of a Loop or a Scan."""

from collections import Counter
from collections.abc import Sequence

import onnx_graphsurgeon as gs

from ..onnx_file.file import infer_shapes
from .base import Pass
from .edit import name_nodes, within
from .passes.fold_constants import FoldConstants
from .passes.inline_branches import InlineBranches

MAX_ROUNDS = 50


def settle(graph: gs.Graph, passes: Sequence[Pass]) -> tuple[Counter[str], Counter[str]]:
    """Run those of `passes` that may on every graph within `graph`, and take in the branches that are always taken.

    In place, until nothing changes; how often each pass did something, and how many nodes fewer there were after it.
    What a branch holds is then part of the graph that the passes see and are judged by.
    """
    rewrites: Counter[str] = Counter()
    removed: Counter[str] = Counter()
    for _ in range(MAX_ROUNDS):
        if not within(graph):
            break
        _forget_carried(graph)
        before = rewrites.total()
        for each in passes:
            if not each.within:
                continue
            nodes, outermost = _count(graph), [graph] * isinstance(each, FoldConstants | InlineBranches)
            for inner in (*within(graph), *outermost):
                rewrites[each.name] += each.apply(inner)
            graph.cleanup().toposort()
            removed[each.name] += nodes - _count(graph)
        if rewrites.total() == before:
            break
        infer_shapes(graph)
    name_nodes(graph)
    return rewrites, removed


def _count(graph: gs.Graph) -> int:
    return sum(len(each.nodes) for each in (graph, *graph.subgraphs(recursive=True)))


def _forget_carried(graph: gs.Graph) -> None:
    """What a Loop carries may change its shape from one turn to the next, whatever its body says."""
    for each in (graph, *within(graph)):
        for node in each.nodes:
            if node.op == "Loop" and "body" in node.attrs:
                for value in node.attrs["body"].inputs[2:]:
                    value.shape = None
