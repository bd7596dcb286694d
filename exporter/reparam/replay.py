"""A region by its own ops, in float64, on small random inputs: what its one convolution must reproduce."""

import torch
from torch import Tensor, fx

from ..parity.widen import LARGE, rows_in_turn, widened
from .forms import Form
from .graph import arguments, attribute
from .lift import Lifter, Sum

CONVOLUTIONS = ("conv1d", "conv2d", "conv3d", "convolution", "linear")


def probes(lifter: Lifter, source: fx.Node, wanted: Sum, form: Form) -> list[tuple[Tensor, Tensor]]:
    """Inputs, and the wanted sum of values on each.

    The map does not depend on the position, so small inputs suffice: both borders occur on them. What happens there
    repeats with the size modulo the stride, hence up to three sizes per axis that differ modulo it.
    """
    generator = torch.Generator().manual_seed(0)
    sources = [
        torch.randn(1, form.in_channels, *size, dtype=torch.float64, generator=generator) for size in probe_sizes(form)
    ]
    run = _Replay(lifter, source, sources)
    totals = [torch.zeros((), dtype=torch.float64)] * len(sources)
    for value, weight in wanted.terms:
        totals = [total + weight * y for total, y in zip(totals, run.values(value), strict=True)]
    return list(zip(sources, totals, strict=True))


class _Replay:
    """Evaluates nodes on all inputs, so that each weight is widened once, and a large one block by block."""

    def __init__(self, lifter: Lifter, source: fx.Node, sources: list[Tensor]) -> None:
        self.lifter = lifter
        self.known: dict[fx.Node, list[Tensor]] = {source: sources}

    def values(self, node: fx.Node) -> list[Tensor]:
        """The node's value on each input."""
        if node not in self.known:
            computed = [a for a in node.all_input_nodes if a not in self.lifter.constants]
            given = {a: self.values(a) for a in computed}
            count = len(next(iter(self.known.values())))
            with widened():  # all is float64 already; this is for its float64 depthwise convolution
                if _is_large(self.lifter, node):
                    self.known[node] = self._by_rows(node, given[computed[0]])
                else:
                    constants = {a: self.lifter.constant(a) for a in node.all_input_nodes if a not in given}
                    self.known[node] = [
                        _call(node, constants | {a: values[i] for a, values in given.items()}) for i in range(count)
                    ]
        return self.known[node]

    def _by_rows(self, node: fx.Node, inputs: list[Tensor]) -> list[Tensor]:
        """A convolution with a large weight, its output channels in turn."""
        given = arguments(node)
        weight, b = given.pop("weight"), self.lifter.constant(given.pop("bias"))
        w = attribute(self.lifter.graph_module, str(weight.target))
        groups = given.get("groups", 1)
        settings = {name: 1 if name == "groups" else value for name, value in given.items() if name != "input"}
        parts: list[list[Tensor]] = [[] for _ in inputs]
        for rows, read in rows_in_turn(w, groups):
            wide, shift = w[rows].double(), b[rows] if b is not None else None
            for part, x in zip(parts, inputs, strict=True):
                part.append(node.target(x[:, read], wide, shift, **settings))  # type: ignore[operator]
        return [torch.cat(part, 1) for part in parts]


def _is_large(lifter: Lifter, node: fx.Node) -> bool:
    """Whether the node is a convolution or Linear of a stored weight that is better not widened at once."""
    if not isinstance(node.target, torch._ops.OpOverload) or node.target.overloadpacket.__name__ not in CONVOLUTIONS:
        return False
    given = arguments(node)
    weight = given["weight"]
    if given.get("transposed") or not isinstance(weight, fx.Node) or weight.op != "get_attr":
        return False
    return attribute(lifter.graph_module, str(weight.target)).numel() > LARGE


def _call(node: fx.Node, values: dict[fx.Node, Tensor | None]) -> Tensor:
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
    result = node.target(*args, **kwargs)  # type: ignore[operator]
    assert isinstance(result, Tensor)
    return result


def probe_sizes(form: Form) -> list[tuple[int, ...]]:
    """Input sizes that the map takes, small, with two outputs or more: up to three residues modulo each stride."""
    per_axis = []
    for axis in form.axes:
        smallest = axis.span + 2 * axis.stride + 1 + max(0, axis.taps[0]) + max(map(abs, axis.laws))
        found = [h for h in range(smallest, smallest + 4 * axis.stride + 4) if axis.size(h) is not None]
        per_axis.append(found[: min(3, axis.stride)])
    if not per_axis:
        return [()]
    count = max(map(len, per_axis))
    return [tuple(sizes[(i + shift) % len(sizes)] for shift, sizes in enumerate(per_axis)) for i in range(count)]
