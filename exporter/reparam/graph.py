"""Reading a traced graph: the shapes of its values, its constants and the arguments of its calls."""

import operator
from typing import Any

import torch
from torch import Tensor, fx

aten = torch.ops.aten
GUARD = "_guards_fn"
"""The name that torch.export gives its check of the input's sizes."""
CASTS = (aten.to, aten._to_copy, aten.type_as)


def sizes(node: fx.Node) -> tuple[int, ...] | None:
    """The node's shape at the traced input, symbolic sizes by their hints; None if it is not one tensor."""
    value = node.meta.get("val")
    if not isinstance(value, Tensor):
        return None
    return tuple(size if isinstance(size, int) else int(size.node.hint) for size in value.shape)


def constants(graph: fx.Graph) -> set[fx.Node]:
    """The nodes whose value does not depend on an input: parameters, buffers and what is computed from them alone."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "get_attr" or (_repeatable(node) and all(i in found for i in node.all_input_nodes)):
            found.add(node)
    return found


def _repeatable(node: fx.Node) -> bool:
    """Whether the node is a call that gives the same each time and leaves its arguments as they are."""
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return node.target is operator.getitem
    return not node.target._schema.is_mutable and not draws_random_numbers(node)


def draws_random_numbers(node: fx.Node) -> bool:
    """Whether the node is an ATen call whose result is random: rand, bernoulli, dropout in training.

    It is not where the arguments switch it off: a flag of training, a probability of 0.
    """
    if not isinstance(node.target, torch._ops.OpOverload) or torch.Tag.nondeterministic_seeded not in node.target.tags:
        return False
    given = arguments(node)
    trains = [given[name] for name in ("train", "training") if name in given]
    rates = [given[name] for name in ("p", "dropout_p", "dropout") if name in given]
    return trains != [False] and (not rates or any(not isinstance(p, (int, float)) or p != 0 for p in rates))


def drop_dead_code(graph: fx.Graph) -> None:
    """Erase what no output depends on; a guard on the input's sizes stays."""
    graph.eliminate_dead_code(is_impure_node=lambda n: n.op in ("placeholder", "output") or is_guard(n))


def is_guard(node: fx.Node) -> bool:
    """Whether the node is torch.export's check of the input's sizes."""
    return node.op == "call_module" and node.target == GUARD


def attribute_of(graph_module: fx.GraphModule, target: str) -> object:
    """Whatever a get_attr node names: a parameter, a buffer, the graph of a region."""
    path, _, name = target.rpartition(".")
    return getattr(graph_module.get_submodule(path), name)


def attribute(graph_module: fx.GraphModule, target: str) -> Tensor:
    """The parameter or buffer that a get_attr node names."""
    value = attribute_of(graph_module, target)
    assert isinstance(value, Tensor)
    return value


def is_cast(node: fx.Node) -> bool:
    """Whether the node gives its first argument in a dtype, or on a device."""
    return isinstance(node.target, torch._ops.OpOverload) and node.target.overloadpacket in CASTS


def arguments(node: fx.Node) -> dict[str, Any]:
    """A call's arguments by their schema names, defaults filled in."""
    assert isinstance(node.target, torch._ops.OpOverload)
    bound: dict[str, Any] = {}
    for position, argument in enumerate(node.target._schema.arguments):
        if position < len(node.args):
            bound[argument.name] = node.args[position]
        elif argument.name in node.kwargs:
            bound[argument.name] = node.kwargs[argument.name]
        else:
            bound[argument.name] = argument.default_value
    return bound


def rank_of(node: fx.Node) -> int:
    """How many spatial axes the value has, its channels being the second of all."""
    shape = sizes(node)
    assert shape is not None
    return len(shape) - 2


def channels_of(node: fx.Node) -> int:
    """How many channels the value has, these being its second axis."""
    shape = sizes(node)
    assert shape is not None
    return shape[1]


def places(node: fx.Node, rank: int) -> tuple[int, ...]:
    """The sizes beside batch and channels: of `rank` axes behind them; for a rank of 0, of those between the two."""
    shape = sizes(node)
    assert shape is not None
    return shape[2:] if rank else shape[1:-1]


def channel_axis(node: fx.Node, rank: int) -> int | None:
    """The axis along which the constant varies beside a value of `rank` axes: 1, or the last; else None.

    A constant of one element varies along none, and 1 stands for it.
    """
    own = sizes(node)
    if own is None or len(own) > rank:
        return None
    varies = [axis for axis, size in enumerate((1,) * (rank - len(own)) + own) if size != 1]
    if varies in ([], [1]):
        return 1
    return rank - 1 if varies == [rank - 1] and rank > 2 else None


def is_per_channel(node: fx.Node, rank: int) -> bool:
    """Whether the value, beside one of `rank` axes, broadcasts along the channels, the second axis, alone."""
    return channel_axis(node, rank) == 1


def is_static(*values: object) -> bool:
    """No argument depends on a symbolic size."""
    return not any(
        isinstance(v, fx.Node) for value in values for v in (value if isinstance(value, (list, tuple)) else (value,))
    )
