from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from ..base import Pass
from ..cost import elements
from ..edit import fresh, ints, is_output, producer

BY_INPUT = 10
"""The opset from which a Slice takes its limits as inputs."""


class SliceChains(Pass):
    """x[a:b, :][:, c:d] = x[a:b, c:d]: slices of different axes are one, as a space-to-depth by strides has them.

    Given  Slice of a Slice that nothing but such a Slice reads, all limits known, no axis in both
    Result one Slice, where several of them read no more of x than they did of its slice
    """

    name = "slice-chains"
    within = True

    def rewrite(self, graph: gs.Graph, node: Any) -> bool:  # noqa: D102
        inner = producer(node.inputs[0], "Slice") if node.op == "Slice" and graph.opset >= BY_INPUT else None
        if inner is None or node.domain or is_output(graph, node.inputs[0]) or not _pays(inner):
            return False
        found = [_both(inner, reader) for reader in (node, *node.inputs[0].outputs)]
        axes = found[0]
        if axes is None or None in found:
            return False
        parts = [[limit[i] for limit in axes.values()] for i in range(2)] + [list(axes)]
        parts.append([limit[2] for limit in axes.values()])
        names = [f"{node.name}_{part}" for part in ("starts", "ends", "axes", "steps")]
        node.inputs = [inner.inputs[0]]
        for name, values in zip(names, parts, strict=True):
            node.inputs.append(gs.Constant(fresh(graph, name), np.array(values, np.int64)))
        return True


def _pays(inner: Any) -> bool:
    """Whether the readers of the slice may read all of x instead: k·|x| ≤ |x| + |slice| + k·|slice|."""
    readers = len(inner.outputs[0].outputs)
    whole, part = elements(inner.inputs[0]), elements(inner.outputs[0])
    return readers == 1 or whole is None or part is None or (readers - 1) * whole <= (readers + 1) * part


def _both(inner: Any, outer: Any) -> dict[int, tuple[int, int, int]] | None:
    """The limits of a Slice and of one that reads it; None where they are not one Slice."""
    if outer.op != "Slice" or outer.domain or outer.inputs[0] is not inner.outputs[0]:
        return None
    rank = len(inner.inputs[0].shape or ())
    first, second = _limits(inner, rank), _limits(outer, rank)
    return first | second if first and second and not set(first) & set(second) else None


def _limits(node: Any, rank: int) -> dict[int, tuple[int, int, int]] | None:
    """(start, end, step) of each axis that a Slice names, counted from the first axis; None where one is computed."""
    given = [None if t.is_empty() else ints(t) for t in node.inputs[1:]]
    starts, ends = given[:2]
    if starts is None or ends is None or not rank:
        return None
    if any(found is None and not t.is_empty() for found, t in zip(given, node.inputs[1:], strict=True)):
        return None
    axes = given[2] if len(given) > 2 and given[2] is not None else list(range(len(starts)))
    steps = given[3] if len(given) > 3 and given[3] is not None else [1] * len(starts)
    limits = zip(starts, ends, steps, strict=True)
    return {axis % rank: limit for axis, limit in zip(axes, limits, strict=True)}
