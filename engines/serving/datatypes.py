"""The protocol's names of data types, and NumPy's."""

import functools
from typing import Any

import numpy as np

from ..runner import dtype_of
from .refusals import BadRequestError, shown

_NUMPY = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "BF16": "bfloat16",
    "FP32": "float32",
    "FP64": "float64",
}
_PROTOCOL = {name: datatype for datatype, name in _NUMPY.items()}
_DTYPES: dict[str, np.dtype[Any]] = {}


def dtype_of_datatype(tensor: str, datatype: object) -> np.dtype[Any]:
    """NumPy's dtype of the input `tensor`. Raises BadRequestError where the protocol has no such type of numbers."""
    if not isinstance(datatype, str) or datatype not in _NUMPY:
        wanted = ", ".join(_NUMPY)
        raise BadRequestError(f"input {shown(tensor)} has datatype {shown(datatype)}, wanted one of {wanted}")
    if datatype not in _DTYPES:
        _DTYPES[datatype] = dtype_of(_NUMPY[datatype])
    return _DTYPES[datatype]


def datatype_of(dtype: str) -> str:
    """The protocol's name of NumPy's dtype of that name."""
    return _PROTOCOL[dtype]


@functools.cache
def datatype_of_dtype(dtype: np.dtype[Any]) -> str:
    """The protocol's name of NumPy's dtype."""
    return _PROTOCOL[dtype.name]
