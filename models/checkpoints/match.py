"""How well the keys and shapes of a state dict fit a network, and which network of the catalogue they fit best."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from plainconv.exporter.errors import SourceError

from .. import Entry, create, entries

Form = Literal["training", "deploy"]
Shapes = Mapping[str, tuple[int, ...]]

FORMS: tuple[Form, Form] = ("training", "deploy")
_FILLS = {"normal_", "uniform_", "fill_", "zero_", "trunc_normal_", "constant_", "kaiming_normal_", "kaiming_uniform_"}
OPTIONAL = "num_batches_tracked"  # counts steps in training, changes nothing in eval mode, missing in old files


@dataclass(frozen=True)
class Mismatch:
    """Where a state dict and a network differ; falsy where they do not."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    reshaped: tuple[str, ...]  # "KEY is 10×2048, wanted 1000×2048"

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.reshaped)

    def __str__(self) -> str:
        parts = [
            _counted(keys, what) for keys, what in ((self.missing, "missing"), (self.unexpected, "unexpected")) if keys
        ]
        if self.reshaped:
            parts.append(f"{len(self.reshaped)} of another shape (first: {self.reshaped[0]})")
        return ", ".join(parts)


def shapes_of(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the shape of each entry."""
    return {key: tuple(tensor.shape) for key, tensor in state.items()}


def empty_network(name: str, form: Form, options: Mapping[str, Any]) -> nn.Module:
    """Build a network of shapes without storage.

    Raises:
        SourceError: as `create` does.
    """
    if form == "deploy":
        options = {key: value for key, value in options.items() if key != "slope"}
    with torch.device("meta"), _Unfilled():
        return create(name, deploy=form == "deploy", **options)


class _Unfilled(TorchFunctionMode):
    """Initializes nothing: on the meta device there is nothing to fill, and torch takes its time to find that out."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Hand back what would have been filled."""
        named = kwargs or {}
        if getattr(func, "__name__", "") in _FILLS:
            return args[0] if args else named["tensor"]
        return func(*args, **named)


def mismatch(found: Shapes, wanted: Shapes) -> Mismatch:
    """Compare what a file has with what a network takes."""
    return Mismatch(
        missing=tuple(key for key in wanted if key not in found and not key.endswith(OPTIONAL)),
        unexpected=tuple(key for key in found if key not in wanted and not key.endswith(OPTIONAL)),
        reshaped=tuple(
            f"{key} is {_times(found[key])}, wanted {_times(shape)}"
            for key, shape in wanted.items()
            if key in found and not same_numbers(found[key], shape)
        ),
    )


def same_numbers(found: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether two shapes differ in axes of length 1 at the end alone: a matrix [O, I] and a kernel [O, I, 1, 1]."""
    shorter, longer = sorted((found, wanted), key=len)
    return longer[: len(shorter)] == shorter and all(size == 1 for size in longer[len(shorter) :])


def overlap(found: Shapes, wanted: Shapes) -> float:
    """Return the share of all keys that both have, with the same shape, from 0 to 1."""
    same = sum(found.get(key) == shape for key, shape in wanted.items())
    return same / max(1, len(found.keys() | wanted.keys()))


def closest_network(state: Mapping[str, Tensor]) -> tuple[str, Form, float] | None:
    """Find the network and form of the catalogue whose keys and shapes overlap most with `state`; None if none do."""
    found = shapes_of(state)
    scored: list[tuple[float, str, Form]] = []
    strange: dict[str, bool] = {}
    for name, entry in entries().items():
        if strange.get(entry.module):
            continue
        forms = _shapes_of_forms(entry, state)
        scored += [(overlap(found, shapes), name, form) for form, shapes in forms.items()]
        if entry.module not in strange:  # the first of its family speaks for all of their keys
            strange[entry.module] = bool(forms) and not any(found.keys() & shapes.keys() for shapes in forms.values())
    share, name, form = max(scored, key=lambda scored_form: scored_form[0])
    return (name, form, share) if share > 0.1 else None


def _shapes_of_forms(entry: Entry, state: Mapping[str, Tensor]) -> dict[Form, Shapes]:
    """Shapes of both forms, with the options and the number of classes that the state dict itself tells."""
    shapes: dict[Form, Shapes] = {}
    for form, head in zip(FORMS, entry.heads, strict=True):
        options = entry.options_from_state(state)
        if head in state and state[head].ndim > 0:
            options["num_classes"] = state[head].shape[0]
        try:
            shapes[form] = shapes_of(empty_network(entry.name, form, options).state_dict())
        except SourceError:  # the state dict tells something that the network cannot be
            continue
    return shapes


def _counted(keys: tuple[str, ...], what: str) -> str:
    return f"{len(keys)} {'key' if len(keys) == 1 else 'keys'} {what} (first: {', '.join(keys[:3])})"


def _times(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "a scalar"
