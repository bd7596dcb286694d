from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from ..base import Pass
from ..edit import add_node, bypass, fresh, is_output, is_same_view, producer, sole_user
from ..shape_values import sizes_said

VIEWS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
"""Ops that keep every element in its place in memory."""


class ReshapeChains(Pass):
    """Only the last shape of a chain of views counts: view_b(view_a(x)) = view_b(x); and T_q(T_p(x)) = T_{p∘q}(x).

    Given  Reshape, Flatten, Squeeze or Unsqueeze of such a one that nothing else reads; or one whose result has the
           shape N × (all the rest), whichever way that shape was computed
           Reshape to a computed shape that inference knows but for one axis; Transpose of a Transpose; Transpose that
           moves axes of length 1 alone past others
    Result nothing where the shape is that of x, one Flatten where it is N × rest, else the last Reshape alone; Reshape
           to a constant shape; one Transpose; Reshape
    """

    name = "reshape-chains"
    within = True

    def rewrite(self, graph: gs.Graph, node: Any) -> bool:  # noqa: D102
        if node.op == "Transpose":
            return _compose(node) or _moves_nothing(graph, node)
        if node.op not in VIEWS:
            return False
        source = node.inputs[0]
        first = producer(source, *VIEWS)
        chained = first is not None and sole_user(graph, source) is node
        x, y = (first.inputs[0] if chained else source), node.outputs[0]
        if chained and is_same_view(graph, x, y) and bypass(graph, node, x):
            return True
        if (chained or node.op != "Flatten") and _is_flat(x, y):
            add_node(graph, "Flatten", [x], y, name=node.name, attrs={"axis": 1})
            return True
        if node.op == "Reshape" and (shape := _known_target(graph, node)) is not None:
            node.inputs[1] = gs.Constant(fresh(graph, f"{node.name}_shape"), np.array(shape, np.int64))
            return True
        if chained and node.op == "Reshape" and _copies_no_axis(node):
            node.inputs[0] = x
            return True
        return False


def _known_target(graph: gs.Graph, reshape: Any) -> list[int] | None:
    """The constant that a computed shape comes to: −1 for one open axis, 0 for those of x at the same place."""
    x, y = reshape.inputs[0], reshape.outputs[0]
    if len(reshape.inputs) < 2 or isinstance(reshape.inputs[1], gs.Constant) or reshape.attrs.get("allowzero", 0):
        return None
    given = list(x.shape or [])
    inferred = None if is_output(graph, y) and sum(not isinstance(d, int) for d in y.shape or ()) > 1 else y.shape
    for said in (sizes_said(reshape.inputs[1]), inferred):
        if not said or 0 in said:
            continue
        target: list[Any] = list(said)
        for axis, size in enumerate(target):
            if isinstance(size, str) and given[axis : axis + 1] == [size]:
                target[axis] = 0
        unknown = [axis for axis, size in enumerate(target) if not isinstance(size, int)]
        if len(unknown) > 1 or (unknown and -1 in target):
            continue
        return [-1 if axis in unknown else size for axis, size in enumerate(target)]
    return None


def _compose(outer: Any) -> bool:
    """Read what the Transpose before `outer` reads, by both permutations at once."""
    inner = producer(outer.inputs[0], "Transpose")
    if inner is None or inner.inputs[0].shape is None:
        return False
    backwards = list(range(len(inner.inputs[0].shape)))[::-1]
    first, second = (list(node.attrs.get("perm", backwards)) for node in (inner, outer))
    outer.attrs = {"perm": [first[axis] for axis in second]}
    outer.inputs[0] = inner.inputs[0]
    return True


def _moves_nothing(graph: gs.Graph, node: Any) -> bool:
    """Make a Reshape of a Transpose that leaves every element in its place in memory."""
    x, y = node.inputs[0], node.outputs[0]
    if x.shape is None or len(x.shape) < 2 or not all(x.shape):
        return False
    perm = list(node.attrs.get("perm", range(len(x.shape))[::-1]))
    long = [axis for axis in perm if x.shape[axis] != 1]
    open_ones = [axis for axis in long if not isinstance(x.shape[axis], int)]
    if long != sorted(long) or perm == sorted(perm) or len(open_ones) > 1:
        return False
    target = [-1 if axis in open_ones else x.shape[axis] for axis in perm]
    shape = gs.Constant(fresh(graph, f"{node.name}_shape"), np.array(target, np.int64))
    add_node(graph, "Reshape", [x, shape], y, name=node.name)
    return True


def _is_flat(x: Any, y: Any) -> bool:
    """Whether y has the shape N × rest, of x = N × rest…; N may be a symbol, which says how long the rest is."""
    if x.shape is None or y.shape is None or len(y.shape) != 2 or len(x.shape) < 2:
        return False
    return all(isinstance(d, int) for d in x.shape[1:]) and x.shape[0] is not None and x.shape[0] == y.shape[0]


def _copies_no_axis(reshape: Any) -> bool:
    """Whether the shape asked for takes no axis over from the input (0), which would be another after the merge."""
    wanted = reshape.inputs[1]
    return isinstance(wanted, gs.Constant) and (bool(reshape.attrs.get("allowzero", 0)) or 0 not in wanted.values)
