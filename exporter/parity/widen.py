"""A float32 network evaluated in float64 without a float64 copy of its weights.

Every tensor argument of every operation is widened for the length of that operation, every dtype asked for becomes
float64, and results stay wide: so each weight is float64 only while it is used. Two layers are needed. Python calls
are widened first, as C++ compares the dtypes of a conv's input and bias before it dispatches; what C++ casts or makes
by itself is widened where it dispatches.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from ..kept import as_it_was
from ..modes import DispatchMode
from .convolve import convolved
from .ties import FirstOfEquals, sorted_stably

aten = torch.ops.aten
_NARROW = (torch.float32, torch.float16, torch.bfloat16)
_SHAPE_ONLY = {Tensor.size, Tensor.dim, Tensor.numel, Tensor.stride, Tensor.is_contiguous, Tensor.is_floating_point}
_BY_ROWS = ("conv1d", "conv2d", "conv3d", "linear")
LARGE = 1 << 20  # elements; a larger weight is in float64 some output channels at a time
SMALL = 1 << 14  # elements; a smaller one is not worth a place of its own
_AS_THEY_ARE = (aten.slice.Tensor, aten.copy_.default)
"""Ops whose arguments need no widening: rows of a weight; a copy, which widens by itself."""
_TO_FLOAT64 = {Tensor.float, Tensor.half, Tensor.bfloat16}


@torch.no_grad()
def float64_outputs(module: nn.Module, inputs: tuple[Tensor, ...], *, may_copy: bool = True) -> Any:
    """What `module` returns for `inputs`, computed in float64 throughout; `module` is left as it is.

    A module that writes into its own weights or buffers, or that the widening does not fit, is copied in float64, if it
    may be.
    """
    wide = tuple(_wide(t) for t in inputs)
    try:
        with as_it_was(module), widened():
            return module(*wide)
    except Exception:  # whatever it is, a copy in float64 either works or says why not
        if not may_copy:
            raise
        with FirstOfEquals():
            return copy.deepcopy(module).double()(*wide)


@contextmanager
def widened() -> Iterator[None]:
    """Within it, PyTorch computes in float64 whatever the dtypes of its arguments."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        dispatch = _WidenDispatch()
        with torch.inference_mode(False), torch.no_grad(), dispatch, _WidenCalls():
            yield
    finally:
        torch.set_default_dtype(default)


class _WidenCalls(TorchFunctionMode):
    """Widens the arguments of what Python calls; weights, one after another, into one place.

    Memory that is fresh for each of them would cost more than to widen them does.
    """

    def __init__(self) -> None:
        super().__init__()
        self._place: Tensor | None = None

    def _wide_rows(self, weight: Tensor, rows: slice) -> Tensor:
        """Those output channels of a weight, until the next are asked for."""
        some = weight[rows]
        if some.numel() > LARGE:
            return some.double()
        if self._place is None or self._place.device != some.device:
            self._place = torch.empty(LARGE, dtype=torch.float64, device=some.device)
        return self._place[: some.numel()].view(some.shape).copy_(some)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if func in _SHAPE_ONLY or name == "__get__":
            return _wide(func(*args, **kwargs))
        if _writes(name) and args and isinstance(args[0], Tensor) and args[0].dtype in _NARROW:
            raise TypeError(f"{name} writes into a {args[0].dtype} tensor that lives outside this evaluation")
        if func in _TO_FLOAT64:
            return args[0].double()
        if func is Tensor.__getitem__:
            return func(*args, **kwargs)  # some rows of a weight: what is made of them is widened
        if name.partition(".")[0] in _BY_ROWS and _is_large(args):
            return _by_rows(func, self._wide_rows, args, kwargs)
        args, kwargs = _wide_arguments(args, kwargs)
        return _wide(func(*args, **kwargs))


class _WidenDispatch(DispatchMode):
    """Widens the arguments of what C++ dispatches.

    It takes the first of equals, as `FirstOfEquals` does, and the place of PyTorch's slow kernels in float64.
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        for value, argument in zip(args, func._schema.arguments if func._schema.is_mutable else (), strict=False):
            if argument.is_write and isinstance(value, Tensor) and value.dtype in _NARROW:
                raise TypeError(f"{func} writes into a {value.dtype} tensor that lives outside this evaluation")
        if func in _AS_THEY_ARE:
            return func(*args, **(kwargs or {}))
        args, kwargs = _wide_arguments(args, kwargs or {})
        if func is aten.convolution.default and (y := convolved(*args)) is not None:
            return y
        found = sorted_stably(func, args, kwargs)
        return func(*args, **kwargs) if found is NotImplemented else found


def _is_large(args: tuple[Any, ...]) -> bool:
    """Whether a convolution or Linear with those arguments has a weight that is worth a place of its own."""
    weight = args[1] if len(args) > 1 else None
    return isinstance(weight, Tensor) and weight.dtype in _NARROW and weight.numel() > SMALL


def _by_rows(
    func: Callable[..., Any],
    wide_rows: Callable[[Tensor, slice], Tensor],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Tensor:
    """A convolution (x, weight, bias, stride, padding, dilation, groups), a large one by some output channels."""
    x, weight, *rest = args
    x, bias = _wide(x), rest[0] if rest else kwargs.get("bias")
    settings = dict(zip(("stride", "padding", "dilation", "groups"), rest[1:5], strict=False)) | kwargs
    settings.pop("bias", None)
    if weight.numel() <= LARGE:
        return func(x, wide_rows(weight, slice(None)), _wide(bias), **settings)  # type: ignore[no-any-return]
    groups = settings.pop("groups", 1)
    axis = -1 if weight.dim() == 2 else x.dim() - weight.dim() + 1
    parts = []
    for rows, read in rows_in_turn(weight.shape, groups):
        shift = None if bias is None else _wide(bias[rows])
        some = x.narrow(axis, read.start, read.stop - read.start)
        parts.append(func(some, wide_rows(weight, rows), shift, **settings))
    return torch.cat(parts, axis)


def rows_in_turn(shape: Sequence[int], groups: int) -> Iterator[tuple[slice, slice]]:
    """Output channels of a large weight [O, I/groups, …], within one group each, and the input channels they read."""
    outs, width = shape[0] // groups, shape[1]
    step = max(1, LARGE // prod(shape[1:]))
    for group in range(groups):
        for start in range(group * outs, (group + 1) * outs, step):
            yield slice(start, min(start + step, (group + 1) * outs)), slice(group * width, (group + 1) * width)


def _wide(value: Any) -> Any:
    """A tensor, a dtype, or lists and tuples of them, in float64; anything else as it is."""
    if isinstance(value, Tensor):
        return value.double() if value.dtype in _NARROW else value
    if value.__class__ in (list, tuple):
        return value.__class__(map(_wide, value))
    if isinstance(value, (list, tuple, dict)):
        return tree_map(_wide_leaf, value)
    return torch.float64 if isinstance(value, torch.dtype) and value in _NARROW else value


def _wide_leaf(value: Any) -> Any:
    return value if isinstance(value, (list, tuple, dict)) else _wide(value)


def _wide_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return tuple(map(_wide, args)), {name: _wide(value) for name, value in kwargs.items()}


def _writes(name: str) -> bool:
    """Whether a torch function of this name writes into its first argument."""
    return name == "__setitem__" or (name.endswith("_") and not name.endswith("__")) or name in ("__iadd__", "__imul__")
