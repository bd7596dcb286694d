"""What runs a network: one call from named arrays to named arrays, whatever runtime is behind it."""

import abc
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import numpy as np

from exporter.bundle import ShapeRange, TensorSpec
from exporter.errors import EngineError

Array = np.ndarray[Any, Any]


class Runner(abc.ABC):
    """A network ready to run. Use it in a `with` block, from one thread at a time.

    `runner({"input": x_NCHW})` gives {"logits": y_NK} in new arrays.
    """

    backend: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @abc.abstractmethod
    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run once. Raises EngineError where the inputs are not those of `inputs`, or the run fails."""

    @abc.abstractmethod
    def close(self) -> None:
        """Release everything that is held. Closing twice does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def check_inputs(
    inputs: Mapping[str, Array], specs: tuple[TensorSpec, ...], ranges: Mapping[str, ShapeRange] | None = None
) -> None:
    """Whether `inputs` are what `specs` describe and, with the `ranges` of an optimization profile, what it covers.

    Raises EngineError at the first difference, in one line.
    """
    if set(inputs) != {spec.name for spec in specs}:
        raise EngineError(f"inputs are {_names(inputs)}, wanted {_names(spec.name for spec in specs)}")
    sizes: dict[str, int] = {}
    for spec in specs:
        array = inputs[spec.name]
        if not isinstance(array, np.ndarray):
            raise EngineError(f"input {spec.name} is a {type(array).__name__}, wanted a NumPy array; np.asarray it")
        if array.dtype.name != spec.dtype or not array.dtype.isnative:
            raise EngineError(
                f"input {spec.name} is {array.dtype!r}, wanted {spec.dtype}; give it .astype({spec.dtype!r})"
            )
        same_rank = array.ndim == len(spec.shape)
        if not same_rank or not all(
            _fits(size, axis, sizes) for size, axis in zip(array.shape, spec.shape, strict=True)
        ):
            known = f" where {', '.join(f'{k} = {v}' for k, v in sizes.items())}" if same_rank and sizes else ""
            wanted = f"[{', '.join(map(str, spec.shape))}]"
            raise EngineError(f"input {spec.name} has shape {list(array.shape)}, wanted {wanted}{known}")
        if not array.flags.c_contiguous:
            raise EngineError(f"input {spec.name} is not contiguous in memory; give np.ascontiguousarray of it")
        covered = (ranges or {}).get(spec.name)
        if covered and not all(a <= n <= b for a, n, b in zip(covered.min, array.shape, covered.max, strict=True)):
            raise EngineError(
                f"input {spec.name} has shape {list(array.shape)}, the engine's optimization profile covers "
                f"{list(covered.min)} to {list(covered.max)}; split it, or build the engine for it"
            )


def _fits(size: int, axis: int | str, sizes: dict[str, int]) -> bool:
    """Whether an axis of this size may stand where `axis` is wanted; a name wants one size wherever it stands."""
    if isinstance(axis, int):
        return size == axis
    return size >= 1 and sizes.setdefault(axis, size) == size


def _names(names: object) -> str:
    return ", ".join(sorted(map(str, names))) or "none"  # type: ignore[call-overload]
