"""What a network returns, however nested, as tensors by name.

{"out": a, "aux": None} -> out;   (a, (b, c)) -> output_0, output_1_0, output_1_1;   a dataclass -> its fields
"""

import dataclasses
import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from ..errors import SourceError

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


def flat_outputs(module: nn.Module) -> None:
    """Have `module` return its tensors as one flat tuple, a single one by itself; its names and weights stay."""
    kind = type(module)

    class Flat(kind):  # type: ignore[misc, valid-type]
        @functools.wraps(kind.forward)  # its parameters are what tracers ask for
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            outputs = tuple(named_outputs(super().forward(*args, **kwargs)).values())
            return outputs if len(outputs) > 1 else outputs[0]

    Flat.__name__, Flat.__qualname__, Flat.__module__ = kind.__name__, kind.__qualname__, kind.__module__
    module.__class__ = Flat


def _flat(value: Any, path: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield path or ONLY, value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from _flat(each, _joined(path, str(key)))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from _flat(getattr(value, field.name), _joined(path, field.name))
    elif isinstance(value, tuple | list):
        names = getattr(value, "_fields", None) or [str(i) if path else f"output_{i}" for i in range(len(value))]
        for name, each in zip(names, value, strict=True):
            yield from _flat(each, _joined(path, name))
    elif value is not None:
        where = f" as {path}" if path else ""
        raise SourceError(f"the network returns {_kind(value)}{where}; wanted tensors, in tuples, dicts or dataclasses")


def _joined(path: str, name: str) -> str:
    plain = re.sub(r"\W+", "_", name).strip("_") or "output"
    return f"{path}_{plain}" if path else plain


def _kind(value: Any) -> str:
    return f"a {type(value).__name__}"
