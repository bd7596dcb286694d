"""A network in float32 whose every value is rounded more coarsely, at random: what its rounding errors may come to.

One evaluation shows one way in which roundings fall. Where all values of a map are equal it shows none at all, and
where a choice hangs on the last digit it shows one of two. Monte Carlo arithmetic shows the others.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_flatten

from ..modes import DispatchMode
from ..onnx_module import OnnxModule
from .batches import Run
from .measure import UNIT_ROUNDOFF
from .order import list_of, matched, stack_of
from .uncast import without_autocast
from .watch import run_watched, tensors

aten = torch.ops.aten
_APPROXIMATED = {aten.sigmoid, aten._softmax, aten.exp, aten.tanh, aten.log, aten.log2, aten.erf}
"""What each runtime has a formula of its own for. A detector calls them outside its modules, and scores that saturate
differ in the last digit alone."""
_EXACT_OPS = {
    "Abs", "Cast", "Ceil", "Clip", "Compress", "Concat", "DepthToSpace", "Expand", "Flatten", "Floor", "Gather",
    "GatherElements", "GatherND", "GlobalMaxPool", "Identity", "Max", "MaxPool", "Min", "Neg", "OneHot", "Pad",
    "ReduceMax", "ReduceMin", "Relu", "Reshape", "Round", "ScatterElements", "ScatterND", "Sign", "Slice",
    "SpaceToDepth", "Split", "Squeeze", "Tile", "TopK", "Transpose", "Trilu", "Unique", "Unsqueeze", "Where",
}  # fmt: skip
_EXACT = (nn.Identity, nn.ReLU, nn.ReLU6, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.Flatten, nn.Dropout)
_SUMS = {aten.sum, aten.mean, aten._adaptive_avg_pool2d}
_STEPS = {aten.round, aten.floor, aten.ceil, aten.trunc, aten.sign, aten.frac, aten.fmod, aten.remainder}
LANES = 32
"""Partial sums of a sum: of vectors of 8 numbers, four at a time."""
APPROXIMATED, SOME = "approximated", 256
"""The name of what is approximated; numbers that are looked at first for whether all are whole."""
NUMBERS = 1 << 20
"""Random numbers of one evaluation. Values take them from one place or another: to draw one for each costs as much as
the network."""


@torch.no_grad()
def shaken(module: nn.Module, size: float, seed: int) -> Run:
    """`module` with each value that is rounded moved by `size` roundings of itself: no whole ones, as masks and counts.

    Not by those of the values beside it: boxes and scores may stand in one tensor.
    """
    exact = _exact(module)

    def run(*arrays: np.ndarray) -> list[np.ndarray]:
        generator = torch.Generator().manual_seed(seed)
        numbers = (torch.randn(NUMBERS, generator=generator) * (size * UNIT_ROUNDOFF["float32"])).repeat(2)

        def move(name: str, y: Tensor) -> Tensor:
            if y.dtype != torch.float32 or not y.numel() or name in exact:
                return y
            if name != APPROXIMATED and _are_whole(y):
                return y
            moved = torch.empty_like(y, memory_format=torch.contiguous_format)
            parts = (torch.split(each.reshape(-1), NUMBERS) for each in (y, moved))
            for given, some in zip(*parts, strict=True):
                start = int(torch.randint(NUMBERS, (), generator=generator))
                torch.addcmul(given, given, numbers[start : start + len(given)], out=some)
            return moved

        with without_autocast(), _Approximations(move):
            outputs = tree_flatten(run_watched(module, tensors(arrays), move))[0]
        return [y.detach().cpu().numpy() for y in outputs if isinstance(y, Tensor)]

    return run


def _exact(module: nn.Module) -> set[str]:
    """The values, as `run_watched` calls them, that are no sums or products: equals must stay equal."""
    if isinstance(module, OnnxModule):
        return {name for step in module.steps if step.op in _EXACT_OPS for name in step.outputs}
    return {name for name, part in module.named_modules() if name and isinstance(part, _EXACT)}


class _Approximations(DispatchMode):
    """Moves the values of functions that are approximated, and sums, whoever calls them.

    PyTorch adds in pairs, or in float64. One after another, n terms are rounded n times, a sum that grows evenly by
    √(n/3) roundings of the whole; n is that of a partial sum. Sums of whole numbers are exact.
    """

    def __init__(self, move: Callable[[str, Tensor], Tensor]) -> None:
        super().__init__()
        self._move = move

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result, op = func(*args, **(kwargs or {})), func.overloadpacket
        if op in _APPROXIMATED:
            return self._move(APPROXIMATED, result)
        if op is aten.cumsum:
            return result + func(self._move(APPROXIMATED, result) - result, *args[1:], **(kwargs or {}))
        if op in _SUMS and result.dtype == torch.float32 and not _are_whole(args[0]):
            terms = args[0].numel() / max(result.numel(), 1)
            return result + (self._move(APPROXIMATED, result) - result) * math.sqrt(max(terms / (3 * LANES), 1))
        return result


def _are_whole(x: Tensor) -> bool:
    with _disable_current_modes():  # which would take it for a choice
        some = x.reshape(-1)[:SOME]
        return bool((some == some.round()).all()) and bool((x == x.round()).all())


class Choices(DispatchMode):
    """Watches whether a network decides: makes integers or bools of floats, or whole numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(isinstance(x, Tensor) and x.is_floating_point() for x in args):
            made = [y for y in tree_flatten(result)[0] if isinstance(y, Tensor)]
            whole = any(not y.is_floating_point() for y in made) and "max_pool" not in str(func)
            self.seen |= whole or func.overloadpacket in _STEPS
        return result


def turned_rows(wanted: Sequence[np.ndarray], each: Iterable[Sequence[np.ndarray]]) -> np.ndarray:
    """Which rows of a sorted list an evaluation of `each` has otherwise, [images, D]; empty where there is no list."""
    member = next(iter(list_of(wanted)[0]), stack_of(wanted))
    rows = np.zeros((0, 0) if member is None else wanted[member].shape[:2], bool)
    for outputs in () if member is None else each:
        astray = matched(wanted, outputs).astray
        if astray is not None:
            rows |= astray
    return rows
