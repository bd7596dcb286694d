"""The registry of ONNX ops: each a function of a step and its input values, by torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from torch import Tensor

from ..errors import SourceError

REMEDY = "`exporter simplify FILE -o PLAIN.onnx` takes any ONNX file"


class FormError(SourceError):
    """A form of an op that its function here does not take."""


@dataclass(frozen=True)
class Step:
    """One ONNX node: names of the values it reads and makes ("" for one left out), and its attributes.

    What graphs within it read from outside stands behind its inputs.
    """

    op: str
    name: str
    opset: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: Mapping[str, Any]

    @property
    def key(self) -> str:
        """The name of the first value that it makes."""
        return next(filter(None, self.outputs), "")

    def get(self, name: str, default: Any = None) -> Any:
        """The attribute `name`."""
        return self.attrs.get(name, default)

    def text(self, name: str, default: str) -> str:
        """The attribute `name`, a string."""
        value = self.attrs.get(name, default)
        return value.decode() if isinstance(value, bytes) else str(value)

    def refuse(self, found: str) -> NoReturn:
        """Raise FormError for a form of the op that is not taken."""
        raise FormError(f"{self} has {found}, which is not taken as a SOURCE; {REMEDY}")

    def __str__(self) -> str:
        return f"{self.op} {self.name or self.key!r}"


Function = Callable[..., Tensor | tuple[Tensor, ...]]
F = TypeVar("F", bound=Function)


@dataclass(frozen=True)
class Op:
    """`function(step, *inputs)`; the inputs at the places `told` come as Python numbers and lists, not as tensors."""

    function: Function
    told: frozenset[int] = frozenset()


OPS: dict[str, Op] = {}


def op(*names: str, told: tuple[int, ...] = ()) -> Callable[[F], F]:
    """Register the function of ONNX ops."""

    def register(function: F) -> F:
        OPS.update(dict.fromkeys(names, Op(function, frozenset(told))))
        return function

    return register
