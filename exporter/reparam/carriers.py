"""Ops that carry channels whole and weigh positions by shares of 1: a scale and shift per channel passes them.

C(s·x + t) = s·C(x) + t
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx

from .graph import arguments

aten = torch.ops.aten
RESHAPES = {
    "reshape", "view", "_unsafe_view", "reshape_as", "view_as", "flatten", "unflatten", "squeeze", "unsqueeze",
    "expand", "expand_as",
}  # fmt: skip
_COPIES = {"clone", "alias", "contiguous", "detach", "lift_fresh_copy"}
_DROPOUTS = {"dropout", "feature_dropout", "alpha_dropout"}
_POOLS = {f"{kind}_pool{rank}d": rank for kind in ("avg", "adaptive_avg") for rank in (1, 2, 3)}
_RESIZES = {
    "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "_upsample_nearest_exact2d", "upsample_linear1d",
    "upsample_bilinear2d", "upsample_trilinear3d", "upsample_bicubic2d", "_upsample_bilinear2d_aa",
    "_upsample_bicubic2d_aa",
}  # fmt: skip
Axes = dict[int, int]


def carried(node: fx.Node) -> tuple[fx.Node, Axes] | None:
    """What the op reads, and where each of its axes goes that it carries whole; None for any other op."""
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload) or not node.args:
        return None
    source, name = node.args[0], node.target.overloadpacket.__name__
    if not isinstance(source, fx.Node) or not _is_float(source) or not _is_float(node):
        return None
    shape, given = source.meta["val"].shape, arguments(node)
    every = {axis: axis for axis in range(len(shape))}
    if name in RESHAPES:
        return source, _kept_by_reshape(list(shape), list(node.meta["val"].shape))
    if name in _COPIES or (name in _DROPOUTS and not given["train"]):
        return source, every
    if name in _POOLS:
        return (source, _without(every, range(len(shape) - _POOLS[name], len(shape)))) if _is_mean(given) else None
    if name in _RESIZES:
        return source, {0: 0, 1: 1}
    axes = _MOVES[name](given, every) if name in _MOVES else None
    return None if axes is None else (source, axes)


def _is_float(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _kept_by_reshape(before: list[Any], after: list[Any]) -> Axes:
    """Axis i of a row-major tensor is axis j of another of its shapes: as long, and as much before it."""
    return {
        i: j
        for i, size in enumerate(before)
        for j, other in enumerate(after)
        if isinstance(size, int)
        and size == other
        and size > 1
        and _equal(_product(before[:i]), _product(after[:j]))
        and _equal(_product(before[i:]), _product(after[j:]))
    }


def _product(sizes: list[Any]) -> Any:
    total: Any = 1
    for size in sizes:
        total = total * size
    return total


def _equal(one: Any, other: Any) -> bool:
    """Whether two sizes are equal at every input."""
    if isinstance(one, int) and isinstance(other, int):
        return one == other
    from torch.fx.experimental.symbolic_shapes import statically_known_true  # sizes as symbols: it loads sympy

    return bool(statically_known_true(one == other))


def same_shape(one: fx.Node, other: fx.Node) -> bool:
    """Whether two values have the same shape at every input."""
    a, b = one.meta["val"].shape, other.meta["val"].shape
    return len(a) == len(b) and all(_equal(m, n) for m, n in zip(a, b, strict=True))


def _without(axes: Axes, gone: Any) -> Axes:
    return {i: j for i, j in axes.items() if i not in gone}


def _is_mean(given: Mapping[str, Any]) -> bool:
    """Whether every window of a pool is a mean of what lies in it."""
    if "output_size" in given:
        return True
    padding = given["padding"]
    inside = not given["count_include_pad"] or not any(padding if isinstance(padding, (list, tuple)) else [padding])
    return inside and not given.get("divisor_override")


def _permuted(given: Mapping[str, Any], every: Axes) -> Axes:
    return {axis % len(every): place for place, axis in enumerate(given["dims"])}


def _transposed(given: Mapping[str, Any], every: Axes) -> Axes:
    one, other = given["dim0"] % len(every), given["dim1"] % len(every)
    return every | {one: other, other: one}


def _matrix_transposed(given: Mapping[str, Any], every: Axes) -> Axes:
    return every if len(every) < 2 else every | {len(every) - 2: len(every) - 1, len(every) - 1: len(every) - 2}


def _averaged(given: Mapping[str, Any], every: Axes) -> Axes | None:
    dims = given.get("dim")
    if dims is None or dims == []:
        return None
    gone = {dim % len(every) for dim in dims}
    left = [axis for axis in every if axis not in gone]
    return {axis: axis if given["keepdim"] else place for place, axis in enumerate(left)}


def _chosen(given: Mapping[str, Any], every: Axes) -> Axes:
    gone = given["dim"] % len(every)
    return {axis: axis - (axis > gone) for axis in every if axis != gone}


def _along_one(given: Mapping[str, Any], every: Axes) -> Axes:
    return _without(every, {given["dim"] % len(every)})


def _along_several(given: Mapping[str, Any], every: Axes) -> Axes | None:
    dims = given["dims"]
    return _without(every, {dim % len(every) for dim in dims}) if dims else None


def _extended(given: Mapping[str, Any], every: Axes) -> Axes | None:
    """A pad that repeats the map; zeros, which a shift would change, are none."""
    return (
        None if given["mode"] == "constant" else _without(every, range(len(every) - len(given["pad"]) // 2, len(every)))
    )


_MOVES: dict[str, Callable[[Mapping[str, Any], Axes], Axes | None]] = {
    "permute": _permuted,
    "transpose": _transposed,
    "t": _matrix_transposed,
    "mT": _matrix_transposed,
    "mean": _averaged,
    "select": _chosen,
    "slice": _along_one,
    "narrow": _along_one,
    "index_select": _along_one,
    "flip": _along_several,
    "roll": _along_several,
    "pad": _extended,
}


def drop_round_trips(graph_module: fx.GraphModule) -> None:
    """A chain of reshapes back to the shape it began with, and a permutation there and back, are the value itself."""
    graph = graph_module.graph
    for node in graph.nodes:
        if not _is_reshape(node):
            origin = _permutation_undone(node)
        else:
            origin, before = None, node.args[0]
            while isinstance(before, fx.Node) and _is_reshape(before):
                before = before.args[0]
                if isinstance(before, fx.Node) and "val" in before.meta and same_shape(before, node):
                    origin = before
        if origin is not None:
            node.replace_all_uses_with(origin)


def _is_reshape(node: fx.Node) -> bool:
    """Whether the node keeps all elements in their order."""
    if not isinstance(node.target, torch._ops.OpOverload) or "val" not in node.meta:
        return False
    name = node.target.overloadpacket.__name__
    return name in RESHAPES and not name.startswith("expand") and isinstance(node.args[0], fx.Node)


def _permutation_undone(node: fx.Node) -> fx.Node | None:
    """The value of which the node undoes a permutation, or None."""
    names = {"permute", "transpose", "t", "mT"}
    inner = node.args[0] if node.args else None
    for each in (node, inner):
        if not isinstance(each, fx.Node) or not isinstance(each.target, torch._ops.OpOverload):
            return None
        if each.target.overloadpacket.__name__ not in names:
            return None
    assert isinstance(inner, fx.Node)
    first, then = carried(inner), carried(node)
    if first is None or then is None or any(then[1][j] != i for i, j in first[1].items()):
        return None
    return first[0]
