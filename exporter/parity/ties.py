"""Of equal values the first: how ONNX orders them, where PyTorch may take any.

Scores that saturate, or are rounded to half precision, are equal in great numbers. Which of them `topk` takes and in
what order `sort` leaves them PyTorch does not say, and does not do alike from one shape or type to another.
"""

from typing import Any

import torch

from ..modes import DispatchMode

aten = torch.ops.aten
_ARGUMENTS = {aten.topk.default: ("k", "dim", "largest", "sorted"), aten.sort.default: ("dim", "descending")}


def sorted_stably(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What `topk` or an unstable `sort` gives, the first of equals first; NotImplemented for any other op."""
    if func not in _ARGUMENTS:
        return NotImplemented
    given = dict(zip(_ARGUMENTS[func], args[1:], strict=False)) | kwargs
    dim, falls = given.get("dim", -1), given.get("largest", "k" in given)
    found = aten.sort.stable(args[0], stable=True, dim=dim, descending=given.get("descending", falls))
    if "k" not in given or not args[0].dim():
        return found
    return tuple(y.narrow(dim, 0, given["k"]).contiguous() for y in found)


class FirstOfEquals(DispatchMode):
    """Within it, PyTorch takes the first of equals, as ONNX does."""

    def __init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        found = sorted_stably(func, args, kwargs or {})
        return func(*args, **(kwargs or {})) if found is NotImplemented else found
