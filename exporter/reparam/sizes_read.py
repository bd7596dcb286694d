"""Whether a forward reads the sizes of its tensors: if it does not, a trace at one size says what it does at any.

PyTorch shows a mode every call that Python makes on a tensor, `x.shape` and `len(x)` among them. What gives tensors may
go on, and so may the few calls that say nothing of sizes. Anything else, and any function of PyTorch's that is itself
written in Python and not listed here, might let a size become a number, or decide a branch: it is called a reader. So
is what does more with `x.size(0)` than `x.view(x.size(0), -1)`, which is `x.flatten(1)` at any size.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FunctionType
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves


class SizeReadError(Exception):
    """A forward asked for a size, or for something that may depend on one."""


_SILENT = {Tensor.dim, Tensor.ndimension, Tensor.is_floating_point, Tensor.is_complex, Tensor.get_device}
"""What gives no tensor and says nothing of sizes."""
_SILENT_FIELDS = {
    "dtype", "device", "layout", "ndim", "requires_grad", "is_cuda", "is_cpu", "is_meta", "is_quantized", "is_sparse",
    "is_nested", "is_mkldnn", "is_leaf",
}  # fmt: skip
_PYTHON: dict[Any, Callable[[tuple[Any, ...], dict[str, Any]], bool]] = {}
"""Functions that are written in Python, and whether a call with those arguments leaves sizes alone."""
_PYTHON |= dict.fromkeys(
    (
        F.relu, F.relu6, F.leaky_relu, F.elu, F.celu, F.selu, F.hardtanh, F.hardswish, F.hardsigmoid, F.silu, F.mish,
        F.sigmoid, F.tanh, F.softmax, F.log_softmax, F.rrelu, F.dropout, F.dropout1d, F.dropout2d, F.dropout3d,
        F.alpha_dropout, F.feature_alpha_dropout, F.layer_norm, F.pad, Tensor.unflatten, Tensor.split, torch.split,
        Tensor.__rsub__, Tensor.__rdiv__, torch._assert,
    ),
    lambda args, kwargs: True,
)  # fmt: skip
_PYTHON[F.batch_norm] = lambda args, kwargs: not (args[5] if len(args) > 5 else kwargs.get("training", False))
for _pool in (F.adaptive_avg_pool2d, F.adaptive_avg_pool3d):
    _PYTHON[_pool] = lambda args, kwargs: _is_said(args[1] if len(args) > 1 else kwargs["output_size"])
_PYTHON |= dict.fromkeys((F.max_pool1d, F.max_pool2d, F.max_pool3d), lambda args, kwargs: True)
_PYTHON[F.interpolate] = lambda args, kwargs: (
    (args[1] if len(args) > 1 else kwargs.get("size")) is None
    and not (args[5] if len(args) > 5 else kwargs.get("recompute_scale_factor"))
)


_CHOOSES: dict[Any, Callable[[tuple[Any, ...], dict[str, Any]], bool]] = {
    Tensor.__getitem__: lambda args, kwargs: _are_numbers(args[1]),
    Tensor.__setitem__: lambda args, kwargs: False,
}
"""What PyTorch leaves out where the size makes it do nothing, and whether a call with those arguments can be shown."""

_ROWS = {Tensor.view, Tensor.reshape, torch.reshape}
"""What may be asked for x's first size and one other: rows."""


class _Unsaid:
    """A size of a tensor, or its shape, in the place of the number: to do anything with it is to read it."""

    def __init__(self, hidden: "Hidden", of: Tensor, *, is_shape: bool) -> None:
        self._hidden, self._of, self._is_shape = hidden, of, is_shape
        hidden.unused.append(self)

    @classmethod
    def __torch_function__(cls, *_: object) -> Any:
        """Be shown to modes as an argument; nothing else may be called with it."""
        return NotImplemented

    def __getitem__(self, axis: object) -> "_Unsaid":
        if not self._is_shape or type(axis) is not int or axis != 0:
            self._read()
        self._use()
        return _Unsaid(self._hidden, self._of, is_shape=False)

    def __getattr__(self, name: str) -> Any:
        self._read()

    def _read(self, *_: object) -> NoReturn:
        self._hidden.refuse("shape" if self._is_shape else "size")

    def _use(self) -> None:
        self._hidden.unused = [each for each in self._hidden.unused if each is not self]

    def begins(self, rows: Sequence[Any], x: Any) -> bool:
        """Whether those sizes are (this, -1), and this is the first of x."""
        self._use()
        return len(rows) == 2 and self is rows[0] and not self._is_shape and self._of is x and rows[1] == -1


for _name in (
    "eq", "ne", "lt", "le", "gt", "ge", "hash", "bool", "int", "float", "len", "iter", "contains", "str",
    "repr", "format", "neg", "add", "sub", "mul", "truediv", "floordiv", "mod", "divmod", "pow", "radd", "rsub", "rmul",
    "rtruediv", "rfloordiv", "rmod", "rdivmod", "rpow", "round", "trunc", "floor", "ceil", "abs", "and", "or", "xor",
    "lshift", "rshift", "rand", "ror", "rxor", "reversed", "call",
):  # fmt: skip
    setattr(_Unsaid, f"__{_name}__", _Unsaid._read)


def _are_numbers(index: Any) -> bool:
    """Whether all slices begin and end at numbers, beside nothing of which it is not known how many axes it takes."""
    items = index if isinstance(index, tuple) else (index,)
    slices = [each for each in items if _has_ends(each)]
    plain = all(each is None or each is Ellipsis or type(each) in (int, slice) for each in items)
    return not slices or (
        plain and all(part is None or type(part) is int for s in slices for part in (s.start, s.stop, s.step))
    )


def _has_ends(item: Any) -> bool:
    return isinstance(item, slice) and (item.start, item.stop, item.step) != (None, None, None)


def _shown(x: Tensor, index: Any) -> Tensor:
    """x, once each slice that takes all there is has been a call of its own: an index leaves that out."""
    items = index if isinstance(index, tuple) else (index,)
    axis, named = 0, sum(each is not None and each is not Ellipsis for each in items)
    for each in items:
        if isinstance(each, slice) and _has_ends(each) and len(range(x.shape[axis])[each]) == x.shape[axis]:
            x = torch.ops.aten.slice.Tensor(x, axis, each.start, each.stop, each.step or 1)
        axis += x.dim() - named if each is Ellipsis else each is not None
    return x


def _is_said(size: Any) -> bool:
    """Whether a pool's output size is all numbers; None stands for the size of the input."""
    return None not in size if isinstance(size, (tuple, list)) else size is not None


@contextmanager
def sizes_hidden(module: nn.Module) -> Iterator["Hidden"]:
    """Within it, `module` raises SizeReadError where its forward reads a size, even if that is caught by it.

    How many parts a call gives may be told from them: `several` counts such calls, each of which must be seen to.
    """
    mode = Hidden()
    hooks = (
        module.register_forward_pre_hook(lambda *_: mode.enter(), prepend=True),
        module.register_forward_hook(lambda *_: mode.leave(), always_call=True),
    )
    try:
        yield mode
    finally:
        for hook in hooks:
            hook.remove()
        mode.end()
    if mode.reader is not None or mode.unused or not mode.entered:
        raise SizeReadError(mode.reader or ("size" if mode.unused else "forward was not seen"))


class Hidden(TorchFunctionMode):
    """Watches what is called on tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.depth = 0
        self.entered = False
        self.several = 0
        self.reader: str | None = None
        self.unused: list[_Unsaid] = []

    def enter(self) -> None:
        """Begin to watch, with the outermost call of the module."""
        self.depth += 1
        if self.depth == 1:
            self.entered = True
            self.__enter__()  # type: ignore[no-untyped-call]

    def leave(self) -> None:
        """Watch no more."""
        self.depth -= 1
        if self.depth == 0:
            self.__exit__(None, None, None)  # type: ignore[no-untyped-call]

    def end(self) -> None:
        """Watch no more where a forward raised: torch.export runs no hook then, and its own mode stays instead."""
        if self.depth:
            self.depth = 1
            self.leave()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Raises SizeReadError for a reader."""
        kwargs = kwargs or {}
        if (unsaid := self._unsaid(func, args, kwargs)) is not None:
            return unsaid
        if isinstance(func, FunctionType) and not (func in _PYTHON and _PYTHON[func](args, kwargs)):
            self._refuse(func)
        if func in _CHOOSES and not _CHOOSES[func](args, kwargs):
            self._refuse(func)
        if func is Tensor.__getitem__:
            args = (_shown(*args), args[1])
        result = func(*args, **kwargs)
        if not _is_tensors(result) and not _is_silent(func):
            self._refuse(func)
        self.several += isinstance(result, (tuple, list))
        return result

    def _unsaid(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A size that is not said, or the rows that are asked for with one; None of a call without."""
        leaves = tree_leaves((args, kwargs))
        if any(type(each) is _Unsaid for each in leaves):
            first, *rows = leaves
            sizes = next(each for each in leaves if type(each) is _Unsaid)
            if func not in _ROWS or kwargs or not sizes.begins(rows, first):
                self._refuse(func)
            return args[0].flatten(1)
        is_field = getattr(func, "__name__", "") == "__get__" and getattr(func, "__self__", None) is Tensor.shape
        if is_field or (func is Tensor.size and len(args) == 1 and not kwargs):
            return _Unsaid(self, args[0], is_shape=True)
        if func is Tensor.size and args[1:] == (0,):
            return _Unsaid(self, args[0], is_shape=False)
        return None

    def _refuse(self, func: Callable[..., Any]) -> None:
        self.refuse(getattr(getattr(func, "__self__", func), "__name__", str(func)))

    def refuse(self, reader: str) -> NoReturn:
        """Raises SizeReadError, now and at the end."""
        self.reader = reader
        raise SizeReadError(reader)


def _is_tensors(result: Any) -> bool:
    if isinstance(result, (tuple, list)) and not isinstance(result, torch.Size):
        return all(isinstance(each, Tensor) for each in result)
    return result is None or isinstance(result, Tensor)


def _is_silent(func: Any) -> bool:
    return func in _SILENT or (
        getattr(func, "__name__", "") == "__get__" and getattr(func.__self__, "__name__", "") in _SILENT_FIELDS
    )
