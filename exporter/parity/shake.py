"""A network in float32 whose every value is rounded more coarsely, at random: what its rounding errors may come to.

One evaluation shows one way in which roundings fall. Where all values of a map are equal it shows none at all, and
where a choice hangs on the last digit it shows one of two. Monte Carlo arithmetic shows the others.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from .batches import Run
from .measure import UNIT_ROUNDOFF
from .order import list_of, matched, stack_of
from .uncast import without_autocast
from .watch import run_watched, tensors

aten = torch.ops.aten
_APPROXIMATED = {aten.sigmoid, aten._softmax, aten.exp, aten.tanh, aten.log, aten.log2, aten.erf}
"""What each runtime has a formula of its own for. A detector calls them outside its modules, and scores that saturate
differ in the last digit alone."""
NUMBERS = 1 << 20
"""Random numbers of one evaluation. Values take them from one place or another: to draw one for each costs as much as
the network."""


@torch.no_grad()
def shaken(module: nn.Module, size: float, seed: int) -> Run:
    """`module` with each value moved by `size` roundings of itself.

    Not by those of the values beside it: boxes and scores may stand in one tensor.
    """

    def run(*arrays: np.ndarray) -> list[np.ndarray]:
        generator = torch.Generator().manual_seed(seed)
        numbers = (torch.randn(NUMBERS, generator=generator) * (size * UNIT_ROUNDOFF["float32"])).repeat(2)

        def move(_name: str, y: Tensor) -> Tensor:
            if y.dtype != torch.float32 or not y.numel():
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


class _Approximations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Moves the values of functions that are approximated, whoever calls them."""

    def __init__(self, move: Callable[[str, Tensor], Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._move = move

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        return self._move("", result) if func.overloadpacket in _APPROXIMATED else result


def turned_rows(wanted: Sequence[np.ndarray], each: Iterable[Sequence[np.ndarray]]) -> np.ndarray:
    """Which rows of a sorted list an evaluation of `each` has otherwise, [images, D]; empty where there is no list."""
    member = next(iter(list_of(wanted)[0]), stack_of(wanted))
    rows = np.zeros((0, 0) if member is None else wanted[member].shape[:2], bool)
    for outputs in () if member is None else each:
        astray = matched(wanted, outputs).astray
        if astray is not None:
            rows |= astray
    return rows
