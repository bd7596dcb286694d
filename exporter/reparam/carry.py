"""Scales and shifts per channel moved to the convolution or Linear that can take them, past what lies between.

    C(s·x + t) = s·C(x) + t

for whatever carries channels whole and weighs positions by shares of 1: permutations, flattenings, crops, means,
resampling. So a norm behind Linear → permute, or before pool → flatten → Linear, belongs to that Linear. Past a sum or
a concatenation it goes to every term or part: s·(a + b) + t = (s·a + t) + s·b.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from .carriers import carried, drop_round_trips
from .graph import arguments, channel_axis, constants, drop_dead_code, is_static, sizes
from .in_place import writes

aten = torch.ops.aten
_SUMS = (aten.add.Tensor, aten.sub.Tensor)
_ELEMENTWISE = (*_SUMS, aten.mul.Tensor, aten.div.Tensor)


@dataclass(frozen=True)
class _Norm:
    """s·x + t along one axis of x: a batch norm, or one scale or shift; `constant` is what the latter takes."""

    node: fx.Node
    source: fx.Node
    axis: int
    constant: fx.Node | None = None

    @property
    def channels(self) -> int:
        """How many channels the norm has."""
        shape = sizes(self.source)
        assert shape is not None
        return shape[self.axis]


@dataclass(frozen=True)
class _Place:
    """Where a scale and shift go: between `value` and `reader`; along `axis`, for `channels` of the norm's own."""

    value: fx.Node
    reader: fx.Node
    axis: int
    channels: tuple[int, int]
    shifted: bool = True


def carry_norms(graph_module: fx.GraphModule) -> None:
    """Change the graph in place: each norm that a convolution or Linear can take, over what is between, goes there.

    Given  a scale and shift per channel, a value that a convolution or Linear of constants makes (or reads, without
           zero padding), and between them ops that carry channels, sums and concatenations, read by nobody else
    Result the scale and shift at that convolution or Linear
    """
    graph = graph_module.graph
    constant = constants(graph)
    first = next((n for n in graph.nodes if n.op != "placeholder" and n not in constant), graph.output_node())
    for node in [n for n in graph.nodes if n in constant]:
        first.prepend(node)  # a norm moves up: what it is made of must be there
    for node in list(graph.nodes):
        norm = _norm(node, constant)
        if norm is None:
            continue
        whole = (0, norm.channels)
        found = _makers(_Place(norm.source, node, norm.axis, whole), constant)
        if found is None:
            found = _takers(node, norm.axis, whole, constant)
        if not found or all(place.value in (norm.source, node) for place in found):
            continue  # nobody can take it, or its neighbours can
        node.replace_all_uses_with(norm.source)
        writer = _Writer(graph, norm, first, constant)
        for place in found:
            writer.put(place)
        graph.erase_node(node)
    drop_round_trips(graph_module)
    drop_dead_code(graph)
    graph_module.recompile()


def _norm(node: fx.Node, constant: set[fx.Node]) -> _Norm | None:
    shape = sizes(node)
    if node in constant or node.op != "call_function" or shape is None or not node.meta["val"].is_floating_point():
        return None
    if node.target is aten.batch_norm.default:
        given = arguments(node)
        x, *numbers = node.all_input_nodes
        still = not given["training"] and given["running_mean"] is not None
        return _Norm(node, x, 1) if still and constant.issuperset(numbers) else None
    if node.target not in _ELEMENTWISE:
        return None
    left, right = node.args[:2]
    if not isinstance(left, fx.Node) or left in constant or right not in constant or sizes(left) != shape:
        return None
    assert isinstance(right, fx.Node)
    axis = channel_axis(right, len(shape))
    varies = any(size != 1 for size in sizes(right) or ())
    return _Norm(node, left, axis, right) if varies and axis is not None else None


def _inner(node: fx.Node, axis: int, constant: set[fx.Node]) -> fx.Node | None:
    """What another scale or shift reads, of that axis or of all elements alike."""
    norm = _norm(node, constant)
    if norm is not None:
        return norm.source if norm.axis == axis else None
    if node.target not in _ELEMENTWISE or not isinstance(node.args[0], fx.Node) or node.args[0] in constant:
        return None
    alike = not isinstance(node.args[1], fx.Node) or (
        node.args[1] in constant and all(size == 1 for size in sizes(node.args[1]) or ())
    )
    return node.args[0] if alike else None


def _readers(node: fx.Node) -> list[fx.Node]:
    """Who reads the value's elements; who asks for its shape alone may read any other of that shape."""
    return [user for user in node.users if not _reads_shape(user, node)]


def _reads_shape(reader: fx.Node, value: fx.Node) -> bool:
    if not isinstance(reader.target, torch._ops.OpOverload):
        return False
    as_other = reader.target.overloadpacket in (aten.reshape_as, aten.view_as, aten.expand_as)
    return reader.target is aten.sym_size.int or (as_other and reader.args[0] is not value)


def _makers(at: _Place, constant: set[fx.Node]) -> list[_Place] | None:
    """The places behind the convolutions and Linears that make a value; None unless each can take the norm."""
    node, axis = at.value, at.axis
    if len(_readers(node)) > 1:
        return None
    if _axis_of_product(node, constant) == axis:
        return [at]
    inner = _inner(node, axis, constant)
    if inner is not None:  # two norms do not change places
        return None if _makers(_Place(inner, node, axis, at.channels, at.shifted), constant) is None else [at]
    step = carried(node)
    if step is not None:
        source, axes = step
        into = next((a for a, b in axes.items() if b == axis), None)
        return None if into is None else _makers(_Place(source, node, into, at.channels, at.shifted), constant)
    parts: list[_Place] = []
    if node.target in _SUMS and all(isinstance(a, fx.Node) and sizes(a) == sizes(node) for a in node.args[:2]):
        if node.args[0] is node.args[1]:
            return None
        for i, term in enumerate(node.args[:2]):
            parts.append(_Place(term, node, axis, at.channels, at.shifted and i == 0))  # type: ignore[arg-type]
    elif node.target is aten.cat.default:
        given, start = arguments(node), at.channels[0]
        if len(set(given["tensors"])) < len(given["tensors"]):
            return None
        for part in given["tensors"]:
            shape = sizes(part)
            if shape is None:
                return None
            along = given["dim"] % len(shape) == axis
            parts.append(_Place(part, node, axis, (start, start + shape[axis]) if along else at.channels, at.shifted))
            start += shape[axis]
    found = [_makers(part, constant) for part in parts]
    return [p for places in found for p in places or ()] if parts and None not in found else None


def _takers(node: fx.Node, axis: int, channels: tuple[int, int], constant: set[fx.Node]) -> list[_Place] | None:
    """The places before the convolutions and Linears that read a norm; None unless all that reads it can take it."""
    found: list[_Place] = []
    for reader in _readers(node):
        step = carried(reader)
        if step is not None and step[0] is node:
            behind = step[1].get(axis)
            more = None if behind is None else _takers(reader, behind, channels, constant)
            if more is None:
                return None
            found += more
        elif (
            reader.args[0] is node and _axis_read(reader, constant) == axis and reader.all_input_nodes.count(node) == 1
        ):
            found.append(_Place(node, reader, axis, channels))
        else:
            return None
    return found


def _axis_of_product(node: fx.Node, constant: set[fx.Node]) -> int | None:
    """Along which axis a convolution or Linear of constants makes its channels; None for anything else."""
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload) or writes(node):
        return None
    name, shape = node.target.overloadpacket.__name__, sizes(node)
    numbers = node.all_input_nodes[1:]
    if shape is None or not numbers or node.all_input_nodes[0] in constant or not constant.issuperset(numbers):
        return None
    if name.startswith("conv") and len(shape) > 2:
        return 1 if len(shape) == len(sizes(numbers[0]) or ()) else None
    return len(shape) - 1 if name in ("linear", "matmul", "mm") and len(sizes(numbers[0]) or ()) == 2 else None


def _axis_read(node: fx.Node, constant: set[fx.Node]) -> int | None:
    """Along which axis a convolution without padding, or a Linear, of constants reads its channels."""
    axis = _axis_of_product(node, constant)
    if axis is None or not node.target.overloadpacket.__name__.startswith("conv"):  # type: ignore[union-attr]
        return axis
    given = arguments(node)
    plain = "output_padding" not in given and is_static(given["padding"]) and not isinstance(given["padding"], str)
    return axis if plain and not any(given["padding"]) else None


class _Writer:
    """Writes one norm, or parts of its channels, in other places; constants go to the front of the graph."""

    def __init__(self, graph: fx.Graph, norm: _Norm, front: fx.Node, constant: set[fx.Node]) -> None:
        self.graph, self.norm, self.front, self.constant = graph, norm, front, constant

    def put(self, place: _Place) -> None:
        """s·x + t between a value and its reader, or s·x where the shift is another's."""
        norm, value = self.norm, place.value if place.value is not self.norm.node else self.norm.source
        if norm.constant is not None:
            if norm.node.target in _SUMS and not place.shifted:
                return
            vector = self._part(self._constant(aten.reshape.default, norm.constant, [-1]), place)
            made = self._call(value, place, norm.node.target, value, self._along(vector, place), **norm.node.kwargs)
        elif place.axis == 1 and place.shifted:
            given = arguments(norm.node)
            numbers: list[fx.Node | None] = [given[k] for k in ("weight", "bias", "running_mean", "running_var")]
            made = self._call(
                value, place, norm.node.target, value, *(self._part(n, place) for n in numbers), *norm.node.args[5:]
            )
        else:
            scale, shift = (self._part(n, place) for n in self._scale_and_shift())
            assert scale is not None
            made = self._call(value, place, aten.mul.Tensor, value, self._along(scale, place))
            if place.shifted:
                made = self._call(made, place, aten.add.Tensor, made, self._along(shift, place))
        for reader in list(value.users):
            if reader is place.reader or _reads_shape(reader, value):
                reader.replace_input_with(value, made)

    def _scale_and_shift(self) -> tuple[fx.Node, fx.Node]:
        """γ / sqrt(var + eps) and β − μ·s of a batch norm."""
        a = arguments(self.norm.node)
        scale = self._constant(aten.rsqrt.default, self._constant(aten.add.Tensor, a["running_var"], a["eps"]))
        if a["weight"] is not None:
            scale = self._constant(aten.mul.Tensor, scale, a["weight"])
        shift = self._constant(aten.neg.default, self._constant(aten.mul.Tensor, a["running_mean"], scale))
        return scale, shift if a["bias"] is None else self._constant(aten.add.Tensor, shift, a["bias"])

    def _part(self, vector: fx.Node | None, place: _Place) -> fx.Node | None:
        if vector is None or place.channels == (0, self.norm.channels):
            return vector
        return self._constant(aten.slice.Tensor, vector, 0, *place.channels)

    def _along(self, vector: fx.Node | None, place: _Place) -> fx.Node:
        """[C] as it broadcasts along the place's axis."""
        assert vector is not None
        behind = place.value.meta["val"].dim() - 1 - place.axis
        return self._constant(aten.reshape.default, vector, [-1, *[1] * behind]) if behind else vector

    def _constant(self, target: Any, *args: Any) -> fx.Node:
        with self.graph.inserting_before(self.front):
            node = self.graph.call_function(target, args)
        metas = fx.node.map_arg(args, lambda n: n.meta["val"].detach().to("meta"))
        node.meta["val"] = target(*metas)
        self.constant.add(node)
        return node

    def _call(self, value: fx.Node, place: _Place, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        with self.graph.inserting_after(value):
            node = self.graph.create_node("call_function", target, args, kwargs, name=f"{self.norm.node.name}_moved")
        node.meta = {key: v for key, v in self.norm.node.meta.items() if key == "nn_module_stack"}
        node.meta["val"] = value.meta["val"]
        return node
