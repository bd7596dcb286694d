"""What a network is called with: shapes by name, an .npz file of arrays, an example beside its function, or a shape."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..bundle.tensor import DTYPES
from ..errors import PlainconvError, SourceError, first_line
from ..parity.accuracy import arrays_of_npz
from .network import Request
from .signature import Call, call_by_name, call_of_example, call_of_tensor, signature_of, spelled, tensor_of

Data = Mapping[str, np.ndarray]
EXAMPLE = "example_inputs"
"""The function beside CALLABLE that gives an example."""


def call_of_request(
    module: nn.Module, request: Request, shape: tuple[int, ...], example: Callable[[], Any] | None
) -> tuple[Call, Data]:
    """The call of `module` that is asked for, and the user's own rows of its inputs.

    Without a word of inputs in `request` it is what `example` gives, else one float32 tensor of `shape`.

    Raises SourceError for what does not fit forward, or each other.
    """
    refuse_two_ways(request)
    if request.inputs or request.inputs_file is not None:
        tensors, data = named_tensors(request)
        return call_by_name(module, tensors), data
    if request.input_shape is None and example is not None:
        try:
            found = example()
        except PlainconvError:
            raise
        except Exception as error:  # whatever the user's own code raises
            raise SourceError(f"{EXAMPLE}() raised {type(error).__name__}: {first_line(error)}; mend it") from error
        return call_of_example(module, found), {}
    try:
        x = tensor_of(request.input_shape or shape, "float32", torch.Generator().manual_seed(0))
    except Exception as error:  # more than memory holds
        sizes = ",".join(map(str, request.input_shape or shape))
        raise SourceError(f"no input of shape {sizes} can be made ({first_line(error)}); {remedy(module)}") from error
    return call_of_tensor(x), {}


def remedy(module: nn.Module, takes: str = "give one that it can") -> str:
    """How to give an input that it takes, of which `takes` says what is known."""
    signature = signature_of(module)
    wanted = [p for p in signature.parameters.values() if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    if len(wanted) < 2:
        return f"{takes}: --input-shape N,C,H,W"
    return f"{spelled(signature)} takes more than one: --input NAME=SHAPE for each"


def refuse_two_ways(request: Request) -> None:
    """Raise SourceError where a shape is given in two ways, or a name twice."""
    if request.input_shape is not None and (request.inputs or request.inputs_file is not None):
        raise SourceError(
            "--input-shape is for a network of one input, and --input or --inputs given too; leave it out"
        )
    names = [spec.name for spec in request.inputs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise SourceError(f"--input {twice} given twice; wanted each name once")


def refuse_both(request: Request, rows: Collection[str]) -> None:
    """Raise SourceError where `request` names an input that its file has, too: the names of `rows`."""
    both = next((spec.name for spec in request.inputs if spec.name in rows), None)
    if both is not None:
        raise SourceError(f"--input {both} given, and --inputs has it too; wanted each name once")


def named_tensors(request: Request) -> tuple[dict[str, Tensor], dict[str, np.ndarray]]:
    """The example of each input that `request` names, and the rows [n, …] of those in its file.

    Raises SourceError for a file that is none, and for a tensor of more than memory holds.
    """
    tensors: dict[str, Tensor] = {}
    data: dict[str, np.ndarray] = {}
    if request.inputs_file is not None:
        data = rows_of_npz(request.inputs_file)
        tensors = {name: torch.from_numpy(x[:1] if x.ndim else x) for name, x in data.items()}
        data = {name: x for name, x in data.items() if x.ndim}
    refuse_both(request, tensors)
    generator = torch.Generator().manual_seed(0)
    for spec in request.inputs:
        try:
            tensors[spec.name] = tensor_of(spec.shape, spec.dtype or "float32", generator)
        except Exception as error:  # more than memory holds
            sizes = ",".join(map(str, spec.shape))
            raise SourceError(f"--input {spec.name} of shape {sizes} cannot be made ({first_line(error)})") from error
    return tensors, data


def rows_of_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of the .npz file at `path`, as `checked_rows` has them."""
    return checked_rows(path.name, arrays_of_npz(path, None))


def checked_rows(where: str, arrays: Data) -> dict[str, np.ndarray]:
    """Arrays with as many rows each, but for those without an axis; float64, NumPy's default, as float32.

    Raises SourceError, which starts with `where`, for arrays that differ in rows, are empty, not finite or no numbers.
    """
    held = {}
    for name, given in arrays.items():
        x = np.array(given, np.float32 if np.asarray(given).dtype == np.float64 else None, order="C")
        if x.dtype.name not in DTYPES:
            raise SourceError(f"{where}: {name} is {x.dtype}, wants one of {', '.join(DTYPES)}")
        if not x.size:
            raise SourceError(f"{where}: {name} is {list(x.shape)}, wants one row or more")
        if x.dtype.kind == "f" and not np.isfinite(x).all():
            raise SourceError(f"{where}: {name} is not all finite as {x.dtype}; give finite numbers")
        held[name] = x
    rows = {name: len(x) for name, x in held.items() if x.ndim}
    other = next((name for name in rows if rows[name] != next(iter(rows.values()))), None)
    if other is not None:
        first = next(iter(rows))
        raise SourceError(
            f"{where}: {first} has {rows[first]} rows and {other} {rows[other]}; wants one of each for every image"
        )
    return held


def rows_like(where: str, arrays: Data, inputs: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """As `checked_rows`, for some of these inputs and of their shapes and types."""
    found = {}
    for name, x in checked_rows(where, arrays).items():
        wanted = inputs.get(name)
        if wanted is None:
            raise SourceError(f"{where}: there is no input {name}; the inputs are {', '.join(inputs)}")
        if x.shape[1:] != wanted.shape[1:] or not x.ndim or (x.dtype.kind == "f") != wanted.is_floating_point():
            kind = f"{wanted.dtype} [n, {', '.join(map(str, wanted.shape[1:]))}]".removeprefix("torch.")
            raise SourceError(f"{where}: {name} is {x.dtype} {list(x.shape)}, wants {kind} as in the example")
        found[name] = x
    return found
