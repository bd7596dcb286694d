"""Which layers stay in a wider type than the precision asked for: found by measuring, never by a list of ops."""

import math
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx_ir as ir

from .edit import weight_of

RANGE_LEFT = 4
"""How far below a type's largest number a value seen must stay: other images may give larger ones."""


@dataclass(frozen=True)
class Kept:
    """A layer that stays in the wider type `type` ("fp32", "fp16", "bf16"), and why."""

    node: str
    type: str
    reason: str


def units_of(model: ir.Model) -> dict[str, frozenset[str]]:
    """The layers that precision is decided for: each conv or matrix product, with the ops that follow it.

    An op without weights belongs to the layer its first computed input comes from, and before any layer to the first.
    """
    weighted = [node for node in model.graph if weight_of(node) is not None]
    units: dict[str, set[str]] = {str(node.name): set() for node in weighted}
    if not units:
        return {}
    home: dict[str, str] = {}
    for node in model.graph:
        name = str(node.name)
        producers = [v.producer() for v in node.inputs if v is not None]
        before = [home[str(p.name)] for p in producers if p is not None and str(p.name) in home]
        home[name] = name if name in units else (before[0] if before else next(iter(units)))
        units[home[name]].add(name)
    return {name: frozenset(nodes) for name, nodes in units.items()}


def beyond_range(
    model: ir.Model, units: Mapping[str, frozenset[str]], peaks: Mapping[str, float], dtype: ir.DataType
) -> tuple[Kept, ...]:
    """The layers that read, hold or give numbers too large for `dtype`, by the peaks seen of each value."""
    largest = float(ml_dtypes.finfo(dtype.numpy()).max)  # type: ignore[no-untyped-call]
    found: dict[str, Kept] = {}
    for node in model.graph:
        values = [v for v in (*node.inputs, *node.outputs) if v is not None and v.dtype == ir.DataType.FLOAT]
        peak = float(np.max([_peak(v, peaks) for v in values], initial=0.0))  # not a number where one is none
        if peak > largest / RANGE_LEFT or not np.isfinite(peak):
            unit = next(name for name, nodes in units.items() if node.name in nodes)
            reason = f"{node.name} meets values of {peak:.3g}, over a quarter of {dtype.name.lower()}'s {largest:.5g}"
            found.setdefault(unit, Kept(unit, "fp32", reason))
    return tuple(found.values())


def _peak(value: ir.Value, peaks: Mapping[str, float]) -> float:
    if value.const_value is not None:
        array = value.const_value.numpy()
        return float(np.abs(array).max()) if array.size else 0.0
    return peaks.get(str(value.name), 0.0)


def layers_to_keep(
    layers: Sequence[str],
    *,
    holds: Callable[[Set[str]], bool],
    error_alone: Callable[[str], float],
    tried: Callable[[str], None] = lambda name: None,
) -> dict[str, float]:
    """A small set of layers to keep so that the rest holds its tolerance, each with its error alone.

    Where the whole holds there is none. Else each layer is tried alone in the lower precision; then as many of the
    worst are kept as it takes, found by bisection.

    Args:
        layers: those that may be in the lower precision.
        holds: whether the graph with these layers kept is within its tolerance.
        error_alone: of the graph with that layer alone in the lower precision.
        tried: called after each layer.

    """
    if holds(frozenset()):
        return {}
    alone = {}
    for layer in layers:
        error = error_alone(layer)
        alone[layer] = math.inf if math.isnan(error) else error
        tried(layer)
    worst_first = sorted(layers, key=lambda layer: alone[layer], reverse=True)
    too_few, enough = 0, len(worst_first)
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        if holds(frozenset(worst_first[:middle])):
            enough = middle
        else:
            too_few = middle
    return {layer: alone[layer] for layer in worst_first[:enough]}
