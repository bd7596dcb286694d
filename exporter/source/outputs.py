"""What a network returns, however nested, as tensors by name.

{"out": a, "aux": None} -> out;   (a, (b, c)) -> output_0, output_1_0, output_1_1;   a dataclass -> its fields
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from ..errors import SourceError
from .names import joined
from .signature import Call, flat_signature

ONLY = "logits"
"""The name of an output that has none of its own."""


def named_outputs(value: Any) -> dict[str, Tensor]:
    """The tensors in what `forward` returned, by name, in order. None is left out.

    Raises SourceError for what is no tensor, for two outputs of one name, and where there is none.
    """
    if isinstance(value, Tensor):
        return {ONLY: value}
    found: dict[str, Tensor] = {}
    for name, tensor in _flat(value, ""):
        if name in found:
            raise SourceError(f"two outputs are called {name}; give them names that differ in letters and digits")
        found[name] = tensor
    if not found:
        raise SourceError(f"the network returns {_kind(value)} without a tensor; wanted one or more")
    return found


def flatten(module: nn.Module, call: Call) -> None:
    """Have `module` take the tensors of `call` by position, and return its tensors as one flat tuple.

    A single tensor is returned by itself. The name of its class and its weights stay.
    """
    kind = type(module)

    class Flat(kind):  # type: ignore[misc, valid-type]
        @functools.wraps(kind.forward)  # its parameters are what tracers ask for
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return _one_or_more(super().forward(*args, **kwargs))

    class FlatCall(kind):  # type: ignore[misc, valid-type]
        def forward(self, *tensors: Tensor) -> Any:
            args, kwargs = call.arguments(tensors)
            return _one_or_more(super().forward(*args, **kwargs))

        forward.__signature__ = flat_signature(tuple(call.inputs))  # type: ignore[attr-defined]

    flat = Flat if call.is_flat else FlatCall
    flat.__name__, flat.__qualname__, flat.__module__ = kind.__name__, kind.__qualname__, kind.__module__
    module.__class__ = flat


def _one_or_more(returned: Any) -> Any:
    outputs = tuple(named_outputs(returned).values())
    return outputs if len(outputs) > 1 else outputs[0]


def _flat(value: Any, path: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield path or ONLY, value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from _flat(each, joined(path, str(key)))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from _flat(getattr(value, field.name), joined(path, field.name))
    elif isinstance(value, tuple | list):
        names = getattr(value, "_fields", None) or [str(i) if path else f"output_{i}" for i in range(len(value))]
        for name, each in zip(names, value, strict=True):
            yield from _flat(each, joined(path, name))
    elif value is not None:
        where = f" as {path}" if path else ""
        raise SourceError(f"the network returns {_kind(value)}{where}; wanted tensors, in tuples, dicts or dataclasses")


def _kind(value: Any) -> str:
    return f"a {type(value).__name__}"
