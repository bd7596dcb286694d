"""Modes of PyTorch's: what sees each op that is called, and layers that are made without numbers."""

import sys
from typing import Any, ClassVar

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode


class DispatchMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A mode that is kept from PyTorch's compiler once that is there, as it is where a network has compiled parts.

    PyTorch keeps each mode from it at once, and loads it for that: a second's work.
    """

    _kept: ClassVar[set[type]] = set()

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()  # type: ignore[no-untyped-call]

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __enter__(self) -> Any:
        """Be kept from the compiler, if it has been loaded by now."""
        kind: Any = type(self)
        if "torch._dynamo" in sys.modules and kind not in self._kept:
            self._kept.add(kind)
            kind.__torch_dispatch__ = torch.compiler.disable(kind.__torch_dispatch__)  # type: ignore[no-untyped-call]
        return super().__enter__()  # type: ignore[no-untyped-call]


class Uninitialized(TorchFunctionMode):
    """Within it, a layer that is made draws no numbers for its weights, as others take their place."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Leave a tensor as it is where `func` would initialize it."""
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))
