"""What a list of passes leaves, judged against what it was given."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx_graphsurgeon as gs

from ..onnx_file.file import all_tensors
from .base import Pass
from .cost import Work, forget_usual_sizes, suppose_usual_sizes, work_of
from .sizes import sizes_of

ALWAYS = frozenset(
    {
        "fold-constants",
        "inline-branches",
        "remove-noops",
        "reshape-chains",
        "slice-chains",
        "common-subexpressions",
        "dead-nodes",
        "gemm-head",
    }
)
"""Passes that only take away, which no outcome is better without."""
Counts = Mapping[str, int]
Rewrites = Callable[[gs.Graph, Sequence[Pass]], Counts]


def best_of(graph: gs.Graph, passes: Sequence[Pass], rewrite: Rewrites) -> tuple[Counts, Work, Work]:
    """What `rewrite` makes of `graph` by `passes`, in place: how often each did something; cost before and after.

    Some passes pay now for what another gains later. Where that did not come, so that the outcome costs more than the
    graph given (`is_dearer`), it is undone, and made again without one of the passes that did something, the one with
    which the outcome is cheapest; failing that, without all that do more than take away.
    """
    given = copied(graph)
    counts = rewrite(graph, passes)
    before, after = _works(given, graph)
    if not is_dearer(after, before, graph, given):
        return counts, before, after
    trials = [[p for p in passes if p is not left_out] for left_out in passes if counts[left_out.name]]
    trials = [trial for trial in trials if any(p not in trial and p.name not in ALWAYS for p in passes)]
    found: tuple[float, int, gs.Graph, Counts] | None = None
    for trial in (*trials, [p for p in passes if p.name in ALWAYS or p.name == "kernel-algebra"]):
        tried = copied(given)
        counts = rewrite(tried, trial)
        before, after = _works(given, tried)
        price = (after.price, len(tried.nodes))
        if not is_dearer(after, before, tried, given) and (found is None or price < found[:2]):
            found = (*price, tried, counts)
    if found is None:
        tried = copied(given)
        found = (0.0, 0, tried, rewrite(tried, [p for p in passes if p.name in ALWAYS]))
    _, _, tried, counts = found
    graph.nodes, graph.inputs, graph.outputs = tried.nodes, tried.inputs, tried.outputs
    return counts, *_works(given, graph)


def is_dearer(after: Work, before: Work, graph: gs.Graph, given: gs.Graph) -> bool:
    """Whether `graph` has more of anything that a rewrite is to save than `given` has."""
    pairs = ((getattr(w, name) for w in (after, before)) for name in ("price", "moved", "passes", "kernels"))
    return len(graph.nodes) > len(given.nodes) or any(a > b for a, b in pairs)


def copied(graph: gs.Graph) -> gs.Graph:
    """A copy that shares the arrays of `graph`."""
    copy = graph.copy()
    vars(copy).update({name: value for name, value in vars(graph).items() if name == "held"})
    types = {name: t.type for name, t in all_tensors(graph).items() if hasattr(t, "type")}
    for name, tensor in all_tensors(copy).items():
        if name in types:
            tensor.type = types[name]
    return copy


def _works(given: gs.Graph, graph: gs.Graph) -> tuple[Work, Work]:
    """The costs of both, an open axis in both as long as it usually is; what one alone knows helps the other."""
    sizes: dict[str, list[int]] = {}
    for each in (given, graph):
        sizes |= sizes_of(each)
    works: list[Any] = []
    for each in (given, graph):
        suppose_usual_sizes(each, sizes)
        works.append(work_of(each))
        forget_usual_sizes(each)
    return works[0], works[1]
