"""One tensor, from what a request carries to an array and back.

Binary tensors are the array's own bytes, little-endian and in C order: they are not copied, unless they lie so that
the processor could not read them as numbers. NaN and infinity are numbers there like any other. In JSON, which cannot
write them, a number beyond the type's range is refused, and in an answer NaN and infinity are null.
"""

import math
from itertools import chain
from typing import Any

import numpy as np

from ..runner import Array
from .datatypes import dtype_of_datatype
from .refusals import BadRequestError, shown

MOST_AXES = 32
_LARGEST = 2**63 - 1


def shape_of(tensor: str, shape: object) -> tuple[int, ...]:
    """The shape that was sent, as integers. Raises BadRequestError for what is no shape."""
    if not isinstance(shape, (list, tuple)) or len(shape) > MOST_AXES:
        raise BadRequestError(
            f"input {shown(tensor)} has shape {shown(shape)}, wanted a list of up to {MOST_AXES} sizes"
        )
    for size in shape:
        if type(size) is not int or not 0 <= size <= _LARGEST:
            raise BadRequestError(f"input {shown(tensor)} has {shown(size)} in its shape, wanted whole numbers from 1")
    if 0 in shape and math.prod(filter(None, shape)) > _LARGEST // 8:
        raise BadRequestError(f"input {shown(tensor)} has shape {list(shape)}, wanted sizes that a tensor can have")
    return tuple(shape)


def array_of_bytes(tensor: str, datatype: object, shape: object, data: Any) -> Array:
    """The array that the buffer `data` holds, without a copy where its address allows. Raises BadRequestError."""
    dtype, sizes = dtype_of_datatype(tensor, datatype), shape_of(tensor, shape)
    wanted, found = math.prod(sizes) * dtype.itemsize, len(data)
    if wanted != found:
        raise BadRequestError(
            f"input {shown(tensor)} has {found} bytes of data, wanted {wanted} for {datatype} of shape {list(sizes)}"
        )
    array: Array = np.frombuffer(data, dtype).reshape(sizes)
    if dtype.kind == "b" and array.size and array.view(np.uint8).max() > 1:
        raise BadRequestError(f"input {shown(tensor)} has a byte above 1 in its data, wanted 0 or 1 for BOOL")
    return array if array.flags.aligned else array.copy()


def array_of_numbers(tensor: str, datatype: object, shape: object, data: Any) -> Array:
    """The array of `data`, a flat sequence or lists in lists, each number once rounded. Raises BadRequestError."""
    dtype, sizes = dtype_of_datatype(tensor, datatype), shape_of(tensor, shape)
    if not isinstance(data, (list, np.ndarray)):
        raise BadRequestError(f"input {shown(tensor)} has {shown(data)} as its data, wanted a list of numbers")
    try:
        given = np.asarray(data)
    except (ValueError, OverflowError):
        raise BadRequestError(
            f"input {shown(tensor)} has lists of different lengths, or too many in each other, in its data"
        ) from None
    if given.size != math.prod(sizes):
        wanted = math.prod(sizes)
        raise BadRequestError(
            f"input {shown(tensor)} has {given.size} numbers, wanted {wanted} for the shape {list(sizes)}"
        )
    if given.ndim != 1 and given.shape != sizes:
        wanted_shape = f"its shape {list(sizes)} or a flat list"
        raise BadRequestError(f"input {shown(tensor)} has data of shape {list(given.shape)}, wanted {wanted_shape}")
    return _cast(tensor, str(datatype), data, given, dtype).reshape(sizes)


def _cast(tensor: str, datatype: str, sent: Any, given: Array, dtype: np.dtype[Any]) -> Array:
    """`given` in `dtype`. Raises BadRequestError where that would change more than the rounding of a fraction."""
    kinds = {"b": "b", "i": "iu", "u": "iu"}.get(dtype.kind, "iuf")
    if given.size and (given.dtype.kind not in kinds or _mixes_truth(sent, kinds)):
        wanted = {"b": "true and false", "iu": "whole numbers"}.get(kinds, "numbers")
        raise BadRequestError(f"input {shown(tensor)} has other data than {wanted}, as its datatype {datatype} wants")
    if kinds == "iu" and given.size:
        limits = np.iinfo(dtype)
        if int(given.min()) < limits.min or int(given.max()) > limits.max:
            raise BadRequestError(f"input {shown(tensor)} has a number beyond {datatype} in its data")
    with np.errstate(over="ignore"):
        array: Array = given.astype(dtype)
    if kinds == "iuf" and not np.isfinite(array).all():
        raise BadRequestError(f"input {shown(tensor)} has a number beyond {datatype} in its data")
    return array


def _mixes_truth(sent: Any, kinds: str) -> bool:
    """Whether there is a truth value among numbers, which NumPy takes for 0 or 1."""
    if kinds == "b" or not isinstance(sent, list):
        return False
    types = set(map(type, sent))
    while list in types:
        sent = [*chain.from_iterable(sent)]
        types = set(map(type, sent))
    return bool in types


def bytes_of(array: Array) -> memoryview:
    """The array's own bytes, without a copy."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def numbers_of(array: Array) -> Array:
    """The array as JSON may write it: flat, in a type that it knows."""
    flat = array.reshape(-1)
    return flat if flat.dtype.name != "bfloat16" else flat.astype(np.float32)
