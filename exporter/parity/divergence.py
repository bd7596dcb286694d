"""Where two forms of a network part ways: the first value, in order of computation, that differs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from .widen import widened


@dataclass(frozen=True)
class Divergence:
    """The first value beyond the tolerance, where it was made, and how far it is off, in units of its own spread."""

    name: str
    origin: str
    error: float

    def __str__(self) -> str:
        made = f" ({self.origin})" if self.origin and self.origin != self.name else ""
        return f"the first value that differs is {self.name}{made}, by {self.error:.2e} of its spread"


def first_divergence(
    wanted: Mapping[str, np.ndarray],
    found: Mapping[str, np.ndarray],
    tolerance: float,
    origins: Mapping[str, str] | None = None,
) -> Divergence | None:
    """The first of the values in `found`, in its order, that differs from the one of the same name in `wanted`.

    Values that one side lacks, or has in another shape, are passed over: a rewrite may make and drop values between the
    ones that it keeps. None where all that can be compared agree.
    """
    for name, value in found.items():
        expected = wanted.get(name)
        if expected is None or expected.shape != value.shape or expected.dtype.kind != "f":
            continue
        spread = float(np.std(expected)) or float(np.max(np.abs(expected), initial=0.0)) or 1.0
        error = float(np.max(np.abs(value.astype(np.float64) - expected), initial=0.0)) / spread
        if not error <= tolerance:
            return Divergence(name, (origins or {}).get(name, ""), error)
    return None


def values_of_module(module: nn.Module, inputs: tuple[Tensor, ...], *, float64: bool = False) -> dict[str, np.ndarray]:
    """Every value that `module` computes for `inputs`, by name, in order.

    Of a `GraphModule` the names are its nodes'; of another module they are its submodules' qualified names.
    """
    values: dict[str, np.ndarray] = {}

    def keep(name: str, value: Any) -> None:
        if isinstance(value, Tensor) and name not in values:
            values[name] = (value if value.dtype == torch.float64 else value.float()).detach().cpu().numpy().copy()

    with torch.no_grad(), widened() if float64 else torch.no_grad():
        wide = tuple(x.double() if float64 and x.is_floating_point() else x for x in inputs)
        if isinstance(module, fx.GraphModule):
            _Keeping(module, keep).run(*wide)
        else:
            hooks = [
                part.register_forward_hook(lambda _m, _x, y, name=name: keep(name, y))
                for name, part in module.named_modules()
                if name
            ]
            try:
                module(*wide)
            finally:
                for hook in hooks:
                    hook.remove()
    return values


def origins_of(module: fx.GraphModule) -> dict[str, str]:
    """For each node the innermost module of the network that it was traced from, where the trace noted it."""
    origins = {}
    for node in module.graph.nodes:
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        if stack:
            origins[node.name] = str(stack[-1][0])
    return origins


class _Keeping(fx.Interpreter):
    """Runs a graph and hands each node's value to `keep`."""

    def __init__(self, module: fx.GraphModule, keep: Any) -> None:
        super().__init__(module)
        self._keep = keep

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.op in ("call_module", "call_function", "call_method"):
            self._keep(n.name, value)
        return value
