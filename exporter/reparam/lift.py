"""Graph nodes as affine ops: an ATen call that is affine and shift-equivariant is a Linear, a Sum or a Concat."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from ..parity.widen import widened
from .affine import AffineMap
from .forms import Form
from .graph import arguments, attribute, constants, sizes
from .layouts import channels_last


@dataclass(frozen=True)
class Linear:
    """An affine op on one value. `build` makes the numbers, only when they are needed.

    `rows` makes some rows (output channels) of one group alone, dense over the channels that the group reads; it saves
    memory where the kernel is large.
    """

    source: fx.Node
    form: Form
    build: Callable[[], AffineMap]
    rows: Callable[[slice], AffineMap] | None = None


@dataclass(frozen=True)
class Sum:
    """Σ coefficient · value. `last` says that the channels are the last axis, as a Linear has them."""

    terms: tuple[tuple[fx.Node, float], ...]
    last: bool = False


@dataclass(frozen=True)
class Concat:
    """Values stacked along the channels; `last` as in a Sum."""

    parts: tuple[fx.Node, ...]
    last: bool = False


Op = Linear | Sum | Concat
Rule = Callable[["Lifter", fx.Node, Mapping[str, Any]], Op | None]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a lifting rule for ATen ops by name. It gets the lifter, the node and its arguments by name."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


class Lifter:
    """Lifts the nodes of one traced graph; constants are evaluated in float64 when a kernel asks for them."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        self.graph_module = graph_module
        self.constants = constants(graph_module.graph)
        self.last = channels_last(graph_module.graph, self.constants)

    def lift(self, node: fx.Node) -> Op | None:
        """The node as an affine op, or None if it is not one. Raises IllegalError for one that nearly is."""
        shape = sizes(node)
        if node.op != "call_function" or node in self.constants or shape is None or not 2 <= len(shape) <= 5:
            return None
        if not node.meta["val"].is_floating_point():
            return None
        if not isinstance(node.target, torch._ops.OpOverload):
            return None
        found = RULES.get(node.target.overloadpacket.__name__)
        return found(self, node, arguments(node)) if found else None

    def constant(self, node: object) -> Tensor | None:
        """The float64 value of a constant node, number or None."""
        if node is None:
            return None
        if not isinstance(node, fx.Node):
            return torch.as_tensor(node, dtype=torch.float64)
        result = self._evaluated(node, {})
        assert isinstance(result, Tensor)
        return result

    def _evaluated(self, node: fx.Node, known: dict[fx.Node, Any]) -> Any:
        """As `constant`, of what may also be several tensors; `known` holds what was met on the way."""
        if node not in known and node.op == "get_attr":
            value = attribute(self.graph_module, str(node.target)).detach()
            known[node] = value.double() if value.is_floating_point() else value
        elif node not in known:
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: self._evaluated(n, known))
            with widened():
                known[node] = node.target(*args, **kwargs)  # type: ignore[operator]
        return known[node]

    def constant_rows(self, node: object, rows: slice) -> Tensor:
        """Some rows of a constant's float64 value; of a stored one, only they are widened."""
        if isinstance(node, fx.Node) and node.op == "get_attr":
            return attribute(self.graph_module, str(node.target)).detach()[rows].double()
        value = self.constant(node)
        assert value is not None
        return value[rows]

    def is_constant(self, value: object) -> bool:
        """True for parameters, buffers, what is computed from them, numbers and None."""
        return value in self.constants if isinstance(value, fx.Node) else True
