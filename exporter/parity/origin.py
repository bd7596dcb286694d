"""What the integers of an output are: numbers that were rounded, as grey levels are, or names, as classes are.

Given   y, computed from x by steps, each with what it reads and a result
Result  comparisons, and which of several is the largest, give names; so does what is made of names alone, but for their
        sums, which count. Anything else gives numbers: rounded otherwise, they are as wrong as they are far apart.

The place of the largest divided by the width of a map, and what that leaves over, are numbers too: row and column.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._pytree import tree_flatten

from ..modes import DispatchMode

aten = torch.ops.aten
NUMBER, NAME, PLACE = "number", "name", "place"
_PLACES = {aten.argmax, aten.argmin}
_RANKS = {
    aten.max, aten.min, aten.topk, aten.sort, aten.median, aten.mode, aten.kthvalue, aten.cummax, aten.cummin,
    aten.max_pool2d_with_indices,
}  # fmt: skip
"""These give indices besides values."""
_NAMES = {aten.nonzero, aten.argsort, aten.any, aten.all, aten.multinomial}
"""Besides what gives bools."""
_SUMS = {
    aten.sum, aten.cumsum, aten.mean, aten.count_nonzero, aten.bincount, aten.histc, aten.convolution, aten.mm,
    aten.bmm, aten.addmm, aten.matmul, aten.linear, aten.embedding,
}  # fmt: skip
_PICKS = {aten.gather, aten.index, aten.index_select, aten.take}
_PUTS = {aten.scatter, aten.scatter_, aten.index_put, aten.index_put_}
_DIVISIONS = {aten.div, aten.floor_divide, aten.remainder, aten.fmod}


def are_numbers(run: Callable[..., Any], arrays: Sequence[np.ndarray]) -> list[bool]:
    """Whether each output of `run` is of numbers: by PyTorch, of these inputs as tensors, in tensors."""
    inputs = [torch.from_numpy(np.asarray(x, order="C")) for x in arrays]
    origins = _Origins()
    for x in inputs:
        origins.note(x, NUMBER)
    with origins:
        returned = run(*inputs)
    return [origins.of_tensor(y) == NUMBER for y in tree_flatten(returned)[0] if isinstance(y, Tensor)]


class _Origins(DispatchMode):
    """Follows what is in each piece of memory, which views share; `of` says it by the address of what describes it."""

    def __init__(self) -> None:
        super().__init__()
        self.of: dict[int, str] = {}
        self._seen: list[StorageWeakRef] = []

    def note(self, x: Tensor, origin: str) -> None:
        """Remember it, and that no other memory is to be described at that address."""
        if _memory(x) not in self.of:
            self._seen.append(StorageWeakRef(x.untyped_storage()))  # type: ignore[no-untyped-call]
        self.of[_memory(x)] = origin

    def of_tensor(self, x: Tensor) -> str:
        """Floats that come from elsewhere are numbers, integers are not."""
        known = self.of.get(_memory(x), NUMBER if x.is_floating_point() else NAME)
        return NAME if x.dtype == torch.bool else known

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = [x for x in tree_flatten((args, kwargs or {}))[0] if isinstance(x, Tensor)]
        op = func.overloadpacket
        read = self._known(_sources(op, given)) or self._known(given)
        result = func(*args, **(kwargs or {}))
        for k, y in enumerate(y for y in tree_flatten(result)[0] if isinstance(y, Tensor)):
            if read:  # else a constant
                self.note(y, NAME if k and op in _RANKS else _made(op, read))
        return result

    def _known(self, some: Sequence[Tensor]) -> set[str]:
        return {self.of_tensor(x) for x in some if _memory(x) in self.of}


def _sources(op: Any, given: Sequence[Tensor]) -> Sequence[Tensor]:
    """What the result consists of: not the places that it is taken from, or put in."""
    if op in _PICKS:
        return given[:1]
    if op in _PUTS:
        return (given[0], *(given[-1:] if len(given) > 2 else ()))
    return given


def _made(op: Any, read: set[str]) -> str:
    """What an op gives of what it reads."""
    if op in _PLACES or op in _NAMES:
        return PLACE if op in _PLACES else NAME
    if NUMBER in read or op in _SUMS or (PLACE in read and op in _DIVISIONS):
        return NUMBER
    return PLACE if read == {PLACE} else NAME


def _memory(x: Tensor) -> int:
    return int(x.untyped_storage()._cdata)
