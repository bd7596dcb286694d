"""Where the weights of an ONNX file lie, in it or in a file beside it, and a map of them."""

from math import prod
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto

from ..errors import ExportError, one_line
from . import wire


def place(tensor: TensorProto, path: Path) -> tuple[Path, wire.Extent]:
    """The file in which a weight of the model at `path` lies, and where in it."""
    entry = {e.key: e.value for e in tensor.external_data}
    location = entry.get("location", "")
    if not location or "\0" in location:
        reason = f"says no file that {tensor.name} lies in ({location!r})"
        raise ExportError(f"{path.name}: {reason}; export it again")
    file = (path.parent / location).resolve()
    if not file.is_relative_to(path.parent.resolve()):
        where = f"outside its own folder ({location})"
        raise ExportError(f"{path.name}: keeps {tensor.name} {where}; move that file beside it")
    try:
        extent = wire.Extent(int(entry.get("offset") or 0), int(entry.get("length") or 0))
    except ValueError:
        raise ExportError(f"{path.name}: offset or length of {tensor.name} is no number; export it again") from None
    if extent.offset < 0 or extent.length < 0:
        where = f"offset {extent.offset}, length {extent.length}"
        raise ExportError(f"{path.name}: {tensor.name} lies at {where}, wanted no negative ones; export it again")
    return file, extent


def mapped(tensor: TensorProto, file: Path, extent: wire.Extent) -> np.ndarray:
    """The data of `tensor`, as a map of where it lies; a copy where they are not aligned to their type."""
    try:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        nbytes = prod(tensor.dims) * dtype.itemsize
        if min(tensor.dims, default=0) < 0:
            raise ValueError(f"a shape of {list(tensor.dims)}")
        if extent.length not in (0, nbytes):
            raise ValueError(f"{extent.length} bytes for a shape of {nbytes}")
        if extent.offset + nbytes > file.stat().st_size:
            raise ValueError(f"{file.stat().st_size} bytes, it ends at {extent.offset + nbytes}")
        if not nbytes:
            return np.zeros(tuple(tensor.dims), dtype)
        data = np.memmap(file, dtype, "r", offset=extent.offset, shape=tuple(tensor.dims))
        return data if extent.offset % dtype.itemsize == 0 else np.array(data)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ExportError(f"{file.name}: lacks the weight {tensor.name} ({one_line(error)}); copy it whole") from None
