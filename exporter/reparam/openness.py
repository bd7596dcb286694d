"""Which axes of each value of a graph follow the input's: a graph traced at one size, without a number that is one.

Every op here does at any size what its arguments say, so the graph is right at all of them; what is followed is that no
axis of an open size meets one of a fixed size, and that none has the size 1, which would broadcast. Any op, and any
arguments, for which that is not known raise `SizeDependentError`: such a network is traced with symbols for its sizes.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from .graph import arguments, aten, constants, is_static, sizes
from .rules.layout import TO_THE_END

Open = tuple[bool, ...]
Rule = Callable[["_Axes", fx.Node, Mapping[str, Any]], Open | list[Open]]
_RULES: dict[str, Rule] = {}
_FIXED = "fixed axes"
"""Of a node's meta: axes that must not be open."""


class SizeDependentError(Exception):
    """An op of which it is not known what it does at another size."""


def drop_whole_slices(graph: fx.Graph) -> None:
    """Drop each slice that takes all there is at this size; its axis must be fixed, which `follow_open_axes` sees to.

    Before writes are made pure: to write into such a slice, or another name of a value, is to write into the value.
    """
    for node in graph.nodes:
        if node.target not in (aten.slice.Tensor, aten.alias.default) or sizes(node.args[0]) != sizes(node):
            continue
        source = node.args[0]
        if node.target is aten.slice.Tensor:
            source.meta.setdefault(_FIXED, []).append(arguments(node)["dim"])
        node.replace_all_uses_with(source)
        graph.erase_node(node)


def follow_open_axes(graph: fx.Graph, inputs: Sequence[Open], several: int) -> None:
    """Follow the open axes of the inputs through the graph. Raises SizeDependentError where they cannot be.

    `several` is how many calls gave several tensors: one that is not in the graph may have been made to count them.
    """
    if several != sum(isinstance(node.meta.get("val"), (tuple, list)) for node in graph.nodes):
        raise SizeDependentError("a call of which only the number of its results may have been read")
    axes = _Axes(graph)
    for node, free in zip(graph.find_nodes(op="placeholder"), inputs, strict=True):
        axes.known[node] = _checked(node, free)
    for node in graph.nodes:
        if node.op in ("placeholder", "output", "get_attr") or node in axes.constants:
            continue
        axes.known[node] = axes.of_call(node)
    for node in axes.known:
        _require(not any(axes.of(node)[dim] for dim in node.meta.get(_FIXED, ())), node)


def _checked(node: fx.Node, free: Open) -> Open:
    shape = sizes(node)
    if shape is None or len(shape) != len(free) or any(f and n == 1 for f, n in zip(free, shape, strict=True)):
        raise SizeDependentError(f"{node.name} has an open axis of size 1, or none that is known")
    return free


class _Axes:
    """Which axes of each value are open, as far as the graph has been followed."""

    def __init__(self, graph: fx.Graph) -> None:
        self.constants = constants(graph)
        self.known: dict[fx.Node, Open | list[Open]] = {}

    def of_call(self, node: fx.Node) -> Open | list[Open]:
        """The open axes of what a call gives: one tensor, or several."""
        if node.target is operator.getitem:
            source, index = node.args
            parts = self.known.get(source)  # type: ignore[arg-type]
            if not isinstance(parts, list) or not isinstance(index, int):
                raise SizeDependentError(node.name)
            return _checked(node, parts[index])
        name = node.target.overloadpacket.__name__ if isinstance(node.target, torch._ops.OpOverload) else ""
        if node.op != "call_function" or name not in _RULES or node.target._schema.is_mutable:  # type: ignore[union-attr]
            raise SizeDependentError(f"{node.name} calls {node.target}")
        given = arguments(node)
        found = _RULES[name](self, node, given)
        return found if isinstance(found, list) else _checked(node, found)

    def of(self, value: Any) -> Open:
        """The open axes of one tensor that is no constant."""
        found = self.known.get(value)
        if not isinstance(found, tuple):
            raise SizeDependentError(f"{value} is no tensor that depends on the input")
        return found

    def fixed(self, *values: Any) -> None:
        """Raises where one is neither constant nor a number nor None."""
        if any(isinstance(value, fx.Node) and value not in self.constants for value in values):
            raise SizeDependentError("weights that depend on the input")


def _rule(*names: str) -> Callable[[Rule], Rule]:
    def register(function: Rule) -> Rule:
        _RULES.update(dict.fromkeys(names, function))
        return function

    return register


def _require(holds: bool, node: fx.Node) -> None:
    if not holds:
        raise SizeDependentError(f"{node.name} mixes axes of an open and of a fixed size")


@_rule(
    "relu", "relu6", "leaky_relu", "prelu", "rrelu", "elu", "celu", "selu", "hardtanh", "hardswish", "hardsigmoid",
    "silu", "mish", "gelu", "sigmoid", "log_sigmoid", "tanh", "softplus", "exp", "sqrt", "rsqrt", "abs", "neg",
    "square", "reciprocal", "clamp", "clamp_min", "clamp_max", "softmax", "log_softmax", "dropout", "feature_dropout",
    "alpha_dropout", "feature_alpha_dropout", "clone", "contiguous", "detach", "alias", "to", "_to_copy", "batch_norm",
)  # fmt: skip
def _alike(axes: _Axes, node: fx.Node, a: Mapping[str, Any]) -> Open:
    """One value, and constants, to one of its shape."""
    source, *rest = node.all_input_nodes
    axes.fixed(*rest)
    _require(sizes(source) == sizes(node), node)
    return axes.of(source)


@_rule("add", "sub", "rsub", "mul", "div", "maximum", "minimum", "where", "addcmul", "pow")
def _broadcast(axes: _Axes, node: fx.Node, a: Mapping[str, Any]) -> Open:
    """Where one axis is open, the others are as long, and open, or have the size 1."""
    shape = sizes(node) or ()
    result = [False] * len(shape)
    values = [(sizes(n) or (), None if n in axes.constants else axes.of(n)) for n in node.all_input_nodes]
    pairs = [(own, free or (False,) * len(own)) for own, free in values]
    for own, free in pairs:
        for at, is_open in enumerate(free, start=len(shape) - len(own)):
            result[at] = result[at] or is_open
    for own, free in pairs:
        for at, (n, is_open) in enumerate(zip(own, free, strict=True), start=len(shape) - len(own)):
            _require(not result[at] or is_open or n == 1, node)
    return tuple(result)


@_rule("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "convolution")
def _window_of_weights(axes: _Axes, node: fx.Node, a: Mapping[str, Any]) -> Open:
    axes.fixed(a["weight"], a["bias"])
    return _window(axes, node, len(sizes(a["weight"]) or ()), a["input"])


@_rule("avg_pool1d", "max_pool1d", "avg_pool2d", "max_pool2d", "avg_pool3d", "max_pool3d")
def _pool(axes: _Axes, node: fx.Node, a: Mapping[str, Any]) -> Open:
    rank = int(node.target.overloadpacket.__name__[-2])  # type: ignore[union-attr]
    return _window(axes, node, rank + 2, a["self"])


@_rule("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_bilinear2d", "upsample_linear1d",
       "upsample_bicubic2d", "upsample_trilinear3d", "_upsample_nearest_exact2d")  # fmt: skip
def _resize(axes: _Axes, node: fx.Node, a: Mapping[str, Any]) -> Open:
    """By a factor, not to a size."""
    _require(a.get("output_size", 0) is None and a.get("scale_factors") is not None, node)
    return _window(axes, node, len(sizes(node) or ()), a["input"])


@_rule("pixel_shuffle", "pixel_unshuffle", "channel_shuffle")
def _shuffle(axes: _Axes, node: fx.Node, a: Mapping[str, Any]) -> Open:
    return _window(axes, node, len(sizes(node) or ()), a["self"])


@_rule("constant_pad_nd", "pad")
def _padded(axes: _Axes, node: fx.Node, a: Mapping[str, Any]) -> Open:
    _require(is_static(a["pad"]) and 2 * len(sizes(node) or ()) - len(a["pad"]) >= 4, node)
    return _window(axes, node, len(sizes(node) or ()), a["self"])


def _window(axes: _Axes, node: fx.Node, rank: int, source: Any) -> Open:
    """A map of batch, channels and positions to another: `rank` axes in all, of which the channels are fixed."""
    free = axes.of(source)
    _require(len(free) == rank and not free[1], node)
    return free


@_rule("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d")
def _pool_to_size(axes: _Axes, node: fx.Node, a: Mapping[str, Any]) -> Open:
    rank = int(node.target.overloadpacket.__name__[-2])  # type: ignore[union-attr]
    return (*_window(axes, node, rank + 2, a["self"])[:2], *(False,) * rank)


@_rule("linear")
def _linear(axes: _Axes, node: fx.Node, a: Mapping[str, Any]) -> Open:
    axes.fixed(a["weight"], a["bias"])
    free = axes.of(a["input"])
    _require(not free[-1], node)
    return free


@_rule("layer_norm")
def _normalized(axes: _Axes, node: fx.Node, a: Mapping[str, Any]) -> Open:
    """Over the last axes, of a fixed size."""
    axes.fixed(a["weight"], a["bias"])
    free = axes.of(a["input"])
    _require(is_static(a["normalized_shape"]) and not any(free[-len(a["normalized_shape"]) :]), node)
    return free


@_rule("mean", "sum", "amax", "amin")
def _reduced(axes: _Axes, node: fx.Node, a: Mapping[str, Any]) -> Open:
    free, dims = axes.of(a["self"]), a.get("dim")
    gone = set(range(len(free)))
    if dims is not None and dims != []:
        gone = {d % len(free) for d in (dims if isinstance(dims, (list, tuple)) else [dims])}
    if a.get("keepdim"):
        return tuple(f and axis not in gone for axis, f in enumerate(free))
    return tuple(f for axis, f in enumerate(free) if axis not in gone)


@_rule("flatten")
def _flattened(axes: _Axes, node: fx.Node, a: Mapping[str, Any]) -> Open:
    """Axes that are all open or all fixed, as one."""
    free = axes.of(a["self"])
    start, end = a["start_dim"] % len(free), a["end_dim"] % len(free)
    joined = free[start : end + 1]
    _require(len(set(joined)) == 1, node)
    return (*free[:start], joined[0], *free[end + 1 :])


@_rule("unflatten")
def _split_axis(axes: _Axes, node: fx.Node, a: Mapping[str, Any]) -> Open:
    """One fixed axis, as several."""
    free = axes.of(a["self"])
    dim = a["dim"] % len(free)
    _require(not free[dim] and is_static(a["sizes"]), node)
    return (*free[:dim], *(False,) * len(a["sizes"]), *free[dim + 1 :])


@_rule("permute")
def _permuted(axes: _Axes, node: fx.Node, a: Mapping[str, Any]) -> Open:
    free = axes.of(a["self"])
    return tuple(free[d] for d in a["dims"])


@_rule("transpose")
def _transposed(axes: _Axes, node: fx.Node, a: Mapping[str, Any]) -> Open:
    free = list(axes.of(a["self"]))
    one, other = a["dim0"], a["dim1"]
    free[one], free[other] = free[other], free[one]
    return tuple(free)


@_rule("unsqueeze")
def _unsqueezed(axes: _Axes, node: fx.Node, a: Mapping[str, Any]) -> Open:
    free = axes.of(a["self"])
    dim = a["dim"] % (len(free) + 1)
    return (*free[:dim], False, *free[dim:])


@_rule("squeeze")
def _squeezed(axes: _Axes, node: fx.Node, a: Mapping[str, Any]) -> Open:
    """Named axes, of a fixed size 1."""
    free, dims = axes.of(a["self"]), a.get("dim")
    if dims is None:
        raise SizeDependentError(f"{node.name} drops whichever axes have the size 1")
    gone = {d % len(free) for d in (dims if isinstance(dims, (list, tuple)) else [dims])}
    shape = sizes(a["self"]) or ()
    _require(not any(free[d] or shape[d] != 1 for d in gone), node)
    return tuple(f for axis, f in enumerate(free) if axis not in gone)


@_rule("cat", "concat")
def _joined(axes: _Axes, node: fx.Node, a: Mapping[str, Any]) -> Open:
    """Along an axis of a fixed size; the others are open in all, or in none."""
    parts = [axes.of(part) for part in a["tensors"]]
    _require(len(set(parts)) == 1 and not parts[0][a["dim"]], node)
    return parts[0]


@_rule("stack")
def _stacked(axes: _Axes, node: fx.Node, a: Mapping[str, Any]) -> Open:
    parts = [axes.of(part) for part in a["tensors"]]
    _require(len(set(parts)) == 1, node)
    dim = a["dim"] % (len(parts[0]) + 1)
    return (*parts[0][:dim], False, *parts[0][dim:])


@_rule("chunk", "split", "split_with_sizes")
def _parts(axes: _Axes, node: fx.Node, a: Mapping[str, Any]) -> list[Open]:
    """Along an axis of a fixed size."""
    free = axes.of(a["self"])
    _require(not free[a["dim"]], node)
    return [free] * len(node.meta["val"])


@_rule("slice")
def _sliced(axes: _Axes, node: fx.Node, a: Mapping[str, Any]) -> Open:
    """Of an axis of a fixed size; or so many from either end of an open one."""
    free, start, end = axes.of(a["self"]), a["start"] or 0, a["end"]
    _require(is_static(start, end), node)
    crops = start >= 0 and a["step"] == 1 and (end is None or end >= TO_THE_END or end < 0)
    _require(not free[a["dim"]] or crops, node)
    return free


@_rule("select")
def _chosen(axes: _Axes, node: fx.Node, a: Mapping[str, Any]) -> Open:
    free = axes.of(a["self"])
    dim = a["dim"] % len(free)
    _require(not free[dim], node)
    return (*free[:dim], *free[dim + 1 :])
