"""Whether the arrays of a request are what a model takes; one sentence at the first difference."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from plainconv.exporter.bundle import TensorSpec

from ..runner import Array
from .datatypes import datatype_of, datatype_of_dtype
from .refusals import BadRequestError, shown
from .requests import InferRequest, WantedOutput


def check_inputs(inputs: Mapping[str, Array], specs: Sequence[TensorSpec]) -> None:
    """Raise BadRequestError where names, datatypes, ranks or sizes differ from `specs`."""
    wanted = {spec.name for spec in specs}
    unknown = next((name for name in inputs if name not in wanted), None)
    if unknown is not None:
        raise BadRequestError(f"there is no input {shown(unknown)}; the model takes {_listed(specs)}")
    missing = next((spec.name for spec in specs if spec.name not in inputs), None)
    if missing is not None:
        raise BadRequestError(f"input {shown(missing)} is missing; the model takes {_listed(specs)}")
    sizes: dict[str, int] = {}
    for spec in specs:
        _check(inputs[spec.name], spec, sizes)


def wanted_outputs(request: InferRequest, specs: Sequence[TensorSpec]) -> tuple[WantedOutput, ...]:
    """The outputs to send, in order: those asked for, or all. Raises BadRequestError for one that is not there."""
    if not request.outputs:
        return tuple(WantedOutput(spec.name, request.binary) for spec in specs)
    known = {spec.name for spec in specs}
    seen: set[str] = set()
    for output in request.outputs:
        if output.name not in known:
            raise BadRequestError(f"there is no output {shown(output.name)}; the model gives {_listed(specs)}")
        if output.name in seen:
            raise BadRequestError(f"output {shown(output.name)} is asked for twice")
        seen.add(output.name)
    return tuple(replace(o, binary=request.binary if o.binary is None else o.binary) for o in request.outputs)


def _check(array: Array, spec: TensorSpec, sizes: dict[str, int]) -> None:
    what, wanted = f"input {shown(spec.name)}", f"[{', '.join(map(str, spec.shape))}]"
    found, of_model = datatype_of_dtype(array.dtype), datatype_of(spec.dtype)
    if found != of_model:
        raise BadRequestError(f"{what} has datatype {found}, wanted {of_model}")
    if array.ndim != len(spec.shape):
        raise BadRequestError(f"{what} has {array.ndim} axes, wanted {len(spec.shape)}: {wanted}")
    for size, axis in zip(array.shape, spec.shape, strict=True):
        if not _fits(size, axis, sizes):
            known = f" where {', '.join(f'{k} = {v}' for k, v in sizes.items())}" if sizes else ""
            raise BadRequestError(f"{what} has shape {list(array.shape)}, wanted {wanted}{known}")


def _fits(size: int, axis: int | str, sizes: dict[str, int]) -> bool:
    """Whether an axis may be of that size; one of a name is the same wherever it stands."""
    if isinstance(axis, int):
        return size == axis
    return size >= 1 and sizes.setdefault(axis, size) == size


def _listed(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{spec.name} {datatype_of(spec.dtype)}[{', '.join(map(str, spec.shape))}]" for spec in specs)
