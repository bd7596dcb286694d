"""What an ONNX file is called with: what it says of its inputs, and what the user says of their open axes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..bundle.tensor import DTYPES
from ..errors import SourceError
from ..onnx_file.type_names import type_name
from ..onnx_module import REMEDY
from ..parity.inputs import batch_of
from .inputs import Data, refuse_both, refuse_two_ways, rows_of_npz
from .network import InputSpec, Request


def examples_of_file(inputs: Sequence[Any], request: Request) -> tuple[dict[str, Tensor], Data]:
    """A seeded example of each input of a file, and the user's own rows of them.

    Raises SourceError for an input of another type than numbers, for open axes that nothing closes, and for what the
    request says that does not fit the file.
    """
    refuse_two_ways(request)
    names = [str(tensor.name) for tensor in inputs]
    if not names:
        raise SourceError(f"the ONNX file has no input, wanted one or more; {REMEDY}")
    rows = {} if request.inputs_file is None else rows_of_npz(request.inputs_file)
    specs = {spec.name: spec for spec in request.inputs}
    unknown = next((name for name in (*specs, *rows) if name not in names), None)
    if unknown is not None:
        raise SourceError(f"there is no input {unknown}; the ONNX file has {', '.join(names)}")
    refuse_both(request, rows)
    if request.input_shape is not None and len(names) > 1:
        raise SourceError(
            f"--input-shape is for one input, the ONNX file has {', '.join(names)}; give --input NAME=SHAPE"
        )
    rng, examples, data = np.random.default_rng(0), {}, {}
    for name, tensor in zip(names, inputs, strict=True):
        _check_type(tensor, specs.get(name))
        if name in rows:
            typed = _typed_rows(tensor, rows[name])
            if rows[name].ndim:
                data[name] = typed
            examples[name] = torch.from_numpy(typed[: _batch(tensor)] if rows[name].ndim else typed).to(
                _torch_type(tensor)
            )
            continue
        only = request.input_shape if len(names) == 1 else None
        wanted = specs[name].shape if name in specs else only
        option = "--input-shape " if len(names) == 1 and name not in specs else f"--input {name}="
        shape = _shape(tensor, wanted, request.usual_size, option)
        numbers = rng.standard_normal(shape) if _kind(tensor) == "f" else rng.integers(0, 2, shape)
        examples[name] = torch.from_numpy(np.asarray(numbers)).to(_torch_type(tensor))
    if batch_of(x.shape for x in examples.values()) is None:
        raise SourceError(f"{_spelled(inputs[0])} holds no images, wanted a first axis of 1 or more; {REMEDY}")
    return examples, data


def _check_type(tensor: Any, spec: InputSpec | None) -> None:
    found = type_name(tensor)
    if found not in DTYPES:
        raise SourceError(f"the input {tensor.name} is {found}, wanted one of {', '.join(DTYPES)}; {REMEDY}")
    if spec is not None and spec.dtype not in (None, found):
        raise SourceError(f"--input {tensor.name} is {spec.dtype}, but the ONNX file has it as {found}; leave it out")


def _torch_type(tensor: Any) -> torch.dtype:
    found: torch.dtype = getattr(torch, type_name(tensor))
    return found


def _kind(tensor: Any) -> str:
    return "f" if _torch_type(tensor).is_floating_point else "i"


def _batch(tensor: Any) -> int:
    return int(tensor.shape[0]) if tensor.shape and isinstance(tensor.shape[0], int) else 1


def _typed_rows(tensor: Any, x: np.ndarray) -> np.ndarray:
    """Rows in the type of an input; bfloat16 as float32. Raises SourceError for those of another kind or shape."""
    said = tensor.shape if tensor.shape is not None else [None] * x.ndim
    fits = len(said) == x.ndim and all(
        not isinstance(a, int) or a == b for a, b in zip(said[1:], x.shape[1:], strict=True)
    )
    fits = fits and (not x.ndim or len(x) >= _batch(tensor))
    if not fits or (x.dtype.kind == "f") != (_kind(tensor) == "f"):
        raise SourceError(
            f"{tensor.name} is {x.dtype} {list(x.shape)} in --inputs, but the ONNX file has {_spelled(tensor)}"
        )
    name = type_name(tensor)
    return x.astype(np.float32 if name == "bfloat16" else name)


def _shape(
    tensor: Any, wanted: Sequence[int] | None, usual_size: tuple[int, int] | None, option: str
) -> tuple[int, ...]:
    """The shape that the file says, its open axes from `wanted`; an open batch is 1.

    An open height and width are of `usual_size`, unless `wanted` says them.
    """
    said = tensor.shape if tensor.shape is not None else [None] * len(wanted or ())
    if wanted is None and usual_size is not None and len(said) == 4:
        sizes = [n if isinstance(n, int) else size for n, size in zip(said[2:], usual_size, strict=True)]
        said = [*said[:2], *sizes]
    if wanted is None:
        wanted = tuple(size if isinstance(size, int) else 1 for size in said)
        if tensor.shape is None or not all(isinstance(size, int) for size in said[1:]):
            axes = _axes(tensor.shape or ("N", "C", "H", "W"))
            raise SourceError(f"{_spelled(tensor)} has open axes; give {option}{axes} with a number for each")
    fits = len(wanted) == len(said) and all(not isinstance(a, int) or a == b for a, b in zip(said, wanted, strict=True))
    if not fits:
        shape = ",".join(map(str, wanted))
        found = f"{option}is {shape}" if option.endswith(" ") else f"{option}{shape} given"
        raise SourceError(f"{found}, but the ONNX file fixes {_spelled(tensor)}; give one that fits")
    if not all(wanted):
        raise SourceError(f"{_spelled(tensor)} holds no images, wanted a first axis of 1 or more; {REMEDY}")
    return tuple(wanted)


def _spelled(tensor: Any) -> str:
    return f"the input {tensor.name} [{'unknown rank' if tensor.shape is None else _axes(tensor.shape)}]"


def _axes(shape: Sequence[object]) -> str:
    return ",".join("?" if size is None else str(size) for size in shape)
