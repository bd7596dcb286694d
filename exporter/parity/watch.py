"""A network run with each value that it computes seen, and replaced, on its way."""

import copy
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from ..kept import as_it_was
from ..onnx_module import OnnxModule
from .ties import FirstOfEquals
from .widen import widened

Watch = Callable[[str, Tensor], Tensor]
"""Gets the name of a value, and the value; what it returns takes its place."""


RETURNED = 8
"""Of how many values it is remembered that they are known, where a module returns them once more."""


@torch.no_grad()
def run_watched(module: nn.Module, inputs: tuple[Tensor, ...], watch: Watch, *, float64: bool = False) -> Any:
    """What `module` returns for `inputs`, each value shown to `watch` as it is computed, in its own type or in float64.

    Values are called as they are in the graph: of a `GraphModule` after its nodes, of an `OnnxModule` as in the ONNX
    file. Of any other network they are what its modules return, under their qualified names, inner ones first: "" is
    the network itself, "act#2" the second call of a module, "heads[1]" one of several tensors.
    """
    if not float64:
        dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
        with FirstOfEquals():
            return _run(module, tuple(x.to(dtype) if x.is_floating_point() else x for x in inputs), watch)
    wide = tuple(x.double() if x.is_floating_point() else x for x in inputs)
    try:
        with as_it_was(module), widened():
            return _run(module, wide, watch)
    except Exception:  # as in `float64_outputs`: a copy in float64 either works or says why not
        with FirstOfEquals():
            return _run(copy.deepcopy(module).double(), wide, watch)


def values_of_module(module: nn.Module, inputs: tuple[Tensor, ...], *, float64: bool = False) -> dict[str, np.ndarray]:
    """Every float value that `module` computes for `inputs`, in order, by the names of `run_watched`.

    A module that returns what one within it has just returned adds nothing.
    """
    values: dict[str, np.ndarray] = {}
    last: deque[tuple[Tensor, int]] = deque(maxlen=RETURNED)

    def keep(name: str, value: Tensor) -> Tensor:
        returned_on = any(value is before and value._version == version for before, version in last)
        if value.is_floating_point() and not returned_on:
            values[name] = (value if value.dtype == torch.float64 else value.float()).detach().cpu().numpy().copy()
            last.append((value, value._version))
        return value

    run_watched(module, inputs, keep, float64=float64)
    return values


def tensors(arrays: Sequence[np.ndarray]) -> tuple[Tensor, ...]:
    """Arrays as PyTorch has them."""
    return tuple(torch.from_numpy(np.ascontiguousarray(a)) for a in arrays)


def _run(module: nn.Module, inputs: tuple[Tensor, ...], watch: Watch) -> Any:
    if isinstance(module, fx.GraphModule):
        return _Watching(module, watch).run(*inputs)
    if isinstance(module, OnnxModule):
        with module.watched(watch):
            return module(*inputs)
    with _hooked(module, watch):
        return module(*inputs)


@contextmanager
def _hooked(module: nn.Module, watch: Watch) -> Iterator[None]:
    calls: dict[str, int] = {}

    def hook(name: str, returned: Any) -> Any:
        calls[name] = calls.get(name, 0) + 1
        name += f"#{calls[name]}" if calls[name] > 1 else ""
        leaves, spec = tree_flatten(returned)
        several = sum(isinstance(leaf, Tensor) for leaf in leaves) > 1
        for i, leaf in enumerate(leaves):
            if isinstance(leaf, Tensor):
                leaves[i] = watch(f"{name}[{i}]" if several else name, leaf)
        return tree_unflatten(leaves, spec)

    hooks = [
        part.register_forward_hook(lambda _m, _x, y, name=name: hook(name, y)) for name, part in module.named_modules()
    ]
    try:
        yield
    finally:
        for each in hooks:
            each.remove()


class _Watching(fx.Interpreter):
    """Runs a graph and shows each node's value to `watch`."""

    def __init__(self, module: fx.GraphModule, watch: Watch) -> None:
        super().__init__(module)
        self._watch = watch

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        is_computed = n.op in ("call_module", "call_function", "call_method")
        return self._watch(n.name, value) if is_computed and isinstance(value, Tensor) else value
