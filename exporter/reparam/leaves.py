"""Layers of the user's own, declared affine: what they are equal to in plain layers, checked by probing.

Given a layer that pads a norm by hand, `affine_leaf(BNAndPad)` decorates a function of the layer that returns
`nn.Sequential(nn.ZeroPad2d(leaf.pad), leaf.bn)`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..errors import ReparamError, first_line
from ..parity.widen import float64_outputs
from .trace import misfit

Leaf = TypeVar("Leaf", bound=nn.Module)
LEAVES: dict[type[nn.Module], Callable[[Any], nn.Module]] = {}
PROBE_ERROR = 1e-10
PROBES = ((7, 7), (8, 10), (11, 6))  # sizes of the spatial axes, both parities of each


def affine_leaf(kind: type[Leaf]) -> Callable[[Callable[[Leaf], nn.Module]], Callable[[Leaf], nn.Module]]:
    """Register what every layer of class `kind` is equal to, made of layers that are known to be affine.

    The function gets the layer and returns a module that may share its parameters. Each use of it is probed: both are
    evaluated in float64 on random inputs of several sizes.
    """

    def register(function: Callable[[Leaf], nn.Module]) -> Callable[[Leaf], nn.Module]:
        LEAVES[kind] = function
        return function

    return register


@contextmanager
def leaves_replaced(module: nn.Module, example: tuple[Tensor, ...]) -> Iterator[nn.Module]:
    """Within it, every registered layer in `module` is its equal; afterwards `module` is as it was.

    Raises ReparamError for a rule that gives another function.
    """
    places = [(path, m) for path, m in module.named_modules() if type(m) in LEAVES]
    if not places:
        yield module
        return
    shapes = _input_shapes(module, example, [leaf for _, leaf in places])
    equals = {path: _probed(path, leaf, shapes.get(leaf)) for path, leaf in places}
    if "" in equals:
        yield equals[""]
        return
    try:
        for path, equal in equals.items():
            module.set_submodule(path, equal)
        yield module
    finally:
        for path, leaf in places:
            module.set_submodule(path, leaf)


def _input_shapes(
    module: nn.Module, example: tuple[Tensor, ...], leaves: list[nn.Module]
) -> dict[nn.Module, torch.Size]:
    """The input shape of each leaf in one forward of the example; a leaf that does not run has none."""
    shapes: dict[nn.Module, torch.Size] = {}

    def note(leaf: nn.Module, args: tuple[Any, ...]) -> None:
        if args and isinstance(args[0], Tensor):
            shapes[leaf] = args[0].shape

    handles = [leaf.register_forward_pre_hook(note) for leaf in leaves]
    try:
        with torch.no_grad():
            module(*example)
    except Exception as raised:
        raise misfit(module, example, raised) from raised
    finally:
        for handle in handles:
            handle.remove()
    return shapes


def _probed(path: str, leaf: nn.Module, shape: torch.Size | None) -> nn.Module:
    where = f"the rule for {type(leaf).__name__} ({path or 'the network'})"
    try:
        equal = LEAVES[type(leaf)](leaf).eval()
    except Exception as raised:
        raise ReparamError(f"{where} fails: {first_line(raised)}; it must return a module") from raised
    if shape is None:
        return equal
    generator = torch.Generator().manual_seed(0)
    for size in PROBES:
        rank = len(shape) - 2
        spatial = (*size, 5)[:rank]
        x = torch.randn(2, *shape[1:2], *spatial, dtype=torch.float64, generator=generator)
        want, got = float64_outputs(leaf, (x,)), float64_outputs(equal, (x,))
        if got.shape != want.shape:
            raise ReparamError(f"{where} gives {tuple(got.shape)} for {tuple(x.shape)}, the layer {tuple(want.shape)}")
        error = float((got - want).abs().max() / want.abs().max().clamp_min(1e-300))
        if not error <= PROBE_ERROR:
            raise ReparamError(f"{where} is off by {error:.1e} at {tuple(x.shape)}; mend the rule or remove it")
    return equal
