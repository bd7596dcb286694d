from typing import Any, NamedTuple

import onnx_graphsurgeon as gs

from ..base import Pass
from ..cost import POINTWISE, PRODUCTS
from ..edit import add_node, append, ints, is_constant, is_output, producer, sole_user
from ..norms import norm_of, parameters
from .global_average_pool import is_pool, pool_of


class PoolFirst(Pass):
    """mean(f(x)) = f(mean(x)) for an f that does the same to every position: on 1×1 it costs nothing.

    Such are s·x + t, a gate x·g that is constant over the map, x[channels] and concat(x₁, …, xₙ). A norm that runs in
    one kernel with what makes x stays before the pool: x itself would have to be written otherwise.

    Given  BatchNormalization, Gather of channels or Concat of channels → GlobalAveragePool; Mul by a 1×1 gate →
           GlobalAveragePool, nothing else reading the product
    Result GlobalAveragePool → the same on 1×1
    """

    name = "pool-first"

    def rewrite(self, graph: gs.Graph, node: Any) -> bool:  # noqa: D102
        found = _commuting(graph, node) if is_pool(node) else None
        if found is None or node.outputs[0].shape is None:
            return False
        node = pool_of(graph, node)
        name, y = node.name, node.outputs[0]
        pooled = []
        for source in found.sources:
            shape = [*source.shape[:2], *y.shape[2:]]
            pooled.append(append(graph, "GlobalAveragePool", [source], name=f"{name}_first", like=y, shape=shape))
        add_node(graph, found.op, [*pooled, *found.others], y, name=name, attrs=found.attrs)
        return True


class _Commuting(NamedTuple):
    op: str
    sources: list[Any]
    others: list[Any]
    attrs: Any


def _commuting(graph: gs.Graph, pool: Any) -> _Commuting | None:
    """What makes the value that `pool` reads, if it commutes with the pool and all its sources are maps."""
    value = pool.inputs[0]
    node = producer(value, "BatchNormalization", "Gather", "Concat", "Mul")
    if node is None:
        return None
    found = None
    if norm_of(value) is not None:
        if not _is_kept(graph, node.inputs[0], node):
            return None
        found = _Commuting(node.op, [node.inputs[0]], list(parameters(node)), node.attrs)
    elif node.op == "Gather" and node.attrs.get("axis", 0) == 1 and ints(node.inputs[1]) is not None:
        found = _Commuting(node.op, [node.inputs[0]], [node.inputs[1]], node.attrs)
    elif node.op == "Concat" and node.attrs["axis"] == 1 and _may_go(value):
        found = _Commuting(node.op, list(node.inputs), [], node.attrs)
    elif node.op == "Mul" and sole_user(graph, value) is pool and (gate := gate_of(node)) is not None:
        source = node.inputs[0] if node.inputs[1] is gate else node.inputs[1]
        found = _Commuting(node.op, [source], [gate], {})
    maps = found is not None and all(
        t.shape is not None and value.shape is not None and len(t.shape) == len(value.shape) for t in found.sources
    )
    return found if maps else None


def _is_kept(graph: gs.Graph, x: Any, norm: Any) -> bool:
    """Whether x is there to be read, also without a pool that reads it; or whether pools alone read the norm."""
    y = norm.outputs[0]
    if not is_output(graph, y) and all(is_pool(user) for user in y.outputs):
        return True
    others = [user for user in x.outputs if user is not norm and not is_pool(user)]
    return bool(others) or is_output(graph, x) or producer(x, *POINTWISE, *PRODUCTS) is None


def _may_go(concat: Any) -> bool:
    """Whether no reader of a concat needs it whole: then the pool shall not either, as it may be split away."""
    return all(is_pool(user) or user.op in ("Conv", "Gather") for user in concat.outputs)


def gate_of(mul: Any) -> Any:
    """The factor of `mul` that is 1×1 where the other is a map, if one is and it is computed; else None."""
    for gate, value in ((mul.inputs[0], mul.inputs[1]), (mul.inputs[1], mul.inputs[0])):
        if gate.shape is None or value.shape is None or len(gate.shape) != len(value.shape) or len(gate.shape) < 3:
            continue
        flat = all(size == 1 for size in gate.shape[2:]) and any(size != 1 for size in value.shape[2:])
        if flat and list(gate.shape[:2]) == list(value.shape[:2]) and not is_constant(gate):
            return gate
    return None
