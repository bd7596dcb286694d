"""A region by its own ops, in float64, on small random inputs: what its one convolution must reproduce."""

import torch
from torch import Tensor, fx

from ..parity.widen import widened
from .forms import Form
from .graph import attribute
from .lift import Lifter, Sum


def probes(lifter: Lifter, source: fx.Node, wanted: Sum, form: Form) -> list[tuple[Tensor, Tensor]]:
    """Inputs, and the wanted sum of values on each.

    The map does not depend on the position, so small inputs suffice: both borders occur on them. What happens there
    repeats with the size modulo the stride, hence up to three sizes per axis that differ modulo it.

    Each position of an output channel is Freivalds' check of the products that its kernel row was made by: a random
    vector through the ops one by one, and through their product. A row off by δ, |δ| its norm, shows there as a normal
    number of standard deviation |δ|, so k positions that share no pixel all stay below τ·|δ| with a probability of at
    most (0.8·τ)ᵏ: for |δ| = 100 times what is let through, τ = 0.01, at most 0.8 % for one position, 10⁻⁸ for four.
    """
    generator = torch.Generator().manual_seed(0)
    shapes: list[tuple[int, ...]] = [(1, form.in_channels, *size) for size in probe_sizes(form)]
    if not form.axes:  # its channels are the last axis; all others are positions
        shapes = [(1, *(2,) * (source.meta["val"].dim() - 2), form.in_channels)]
    sources = [torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes]
    run = _Replay(lifter, source, sources)
    totals = [torch.zeros((), dtype=torch.float64)] * len(sources)
    for value, weight in wanted.terms:
        totals = [total + weight * y for total, y in zip(totals, run.values(value), strict=True)]
    return list(zip(sources, totals, strict=True))


class _Replay:
    """Evaluates nodes on all inputs, widened: a stored weight is in float64 only while it is used."""

    def __init__(self, lifter: Lifter, source: fx.Node, sources: list[Tensor]) -> None:
        self.lifter = lifter
        self.known: dict[fx.Node, list[Tensor]] = {source: sources}
        self.count = len(sources)

    def values(self, node: fx.Node) -> list[Tensor]:
        """The node's value on each input."""
        if node not in self.known:
            given = {a: self.values(a) for a in node.all_input_nodes if a not in self.lifter.constants}
            constants = {a: self._constant(a) for a in node.all_input_nodes if a not in given}
            with widened():
                self.known[node] = [
                    _call(node, constants | {a: values[i] for a, values in given.items()}) for i in range(self.count)
                ]
        return self.known[node]

    def _constant(self, node: fx.Node) -> Tensor | None:
        """A stored constant as it is, a computed one in float64."""
        if node.op == "get_attr":
            return attribute(self.lifter.graph_module, str(node.target))
        return self.lifter.constant(node)


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
