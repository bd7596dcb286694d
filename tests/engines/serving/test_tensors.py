"""One tensor, from what a request carries to an array and back."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plainconv.engines.serving.refusals import BadRequestError
from plainconv.engines.serving.tensors import (
    array_of_bytes,
    array_of_numbers,
    bytes_of,
    numbers_of,
    shape_of,
)


def test_bytes_are_not_copied() -> None:
    """Given a buffer -> the array lies in it, and gives it back."""
    buffer = np.arange(6, dtype=np.float32)
    array = array_of_bytes("x", "FP32", [2, 3], buffer.view(np.uint8).data)
    assert np.shares_memory(array, buffer) and array.shape == (2, 3)
    np.testing.assert_array_equal(array, buffer.reshape(2, 3))
    assert np.shares_memory(np.frombuffer(bytes_of(array), np.uint8), buffer)


def test_bytes_at_an_odd_address() -> None:
    """Given numbers that the processor could not read where they are -> a copy, at an address where it can."""
    buffer = bytearray(b"\0" + np.arange(3, dtype=np.float64).tobytes())
    array = array_of_bytes("x", "FP64", [3], memoryview(buffer)[1:])
    assert array.flags.aligned
    np.testing.assert_array_equal(array, [0, 1, 2])


@pytest.mark.parametrize(
    ("datatype", "dtype"),
    [
        ("BOOL", np.bool_),
        ("UINT8", np.uint8),
        ("UINT64", np.uint64),
        ("INT8", np.int8),
        ("INT64", np.int64),
        ("FP16", np.float16),
        ("BF16", ml_dtypes.bfloat16),
        ("FP64", np.float64),
    ],
)
def test_every_datatype(datatype: str, dtype: Any) -> None:
    """Given an array of it -> the same by bytes and by numbers."""
    array = np.array([[0, 1, 1]], dtype)
    assert bytes(bytes_of(array)) == array.tobytes()
    for back in (
        array_of_bytes("x", datatype, [1, 3], bytes_of(array)),
        array_of_numbers("x", datatype, [1, 3], array.tolist()),
    ):
        assert back.dtype == array.dtype
        np.testing.assert_array_equal(back, array)
    np.testing.assert_array_equal(numbers_of(array), array.reshape(-1))


def test_nan_and_infinity() -> None:
    """Given them as bytes -> they are numbers; as JSON's numbers, beyond the type -> refused."""
    array = np.array([np.nan, np.inf, -np.inf], np.float32)
    np.testing.assert_array_equal(array_of_bytes("x", "FP32", [3], bytes_of(array)), array)
    with pytest.raises(BadRequestError, match="has a number beyond FP32 in its data"):
        array_of_numbers("x", "FP32", [1], [1e39])
    with pytest.raises(BadRequestError, match="has a number beyond FP16"):
        array_of_numbers("x", "FP16", [1], [65520])


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "said"),
    [
        ("FP32", [2], b"1234567", "has 7 bytes of data, wanted 8 for FP32 of shape"),
        ("FP32", [2**62, 8], b"1234", "has 4 bytes of data, wanted 147573952589676412928 for"),
        ("FP32", [-1, 3], b"1234", "has -1 in its shape, wanted whole numbers"),
        ("FP32", [True], b"1234", "has True in its shape"),
        ("FP32", [1.0], b"1234", "has 1.0 in its shape"),
        ("FP32", [2**63], b"1234", "has 9223372036854775808 in its shape"),
        ("FP32", "1", b"1234", "has shape '1', wanted a list of up to 32 sizes"),
        ("FP32", None, b"1234", "has shape None, wanted a list"),
        ("FP32", [1] * 33, b"1234", "wanted a list of up to 32 sizes"),
        ("BYTES", [1], b"1234", "has datatype 'BYTES', wanted one of BOOL, UINT8"),
        ("float32", [1], b"1234", "has datatype 'float32', wanted one of"),
        (7, [1], b"1234", "has datatype 7, wanted one of"),
        ("BOOL", [2], b"\x01\x02", "has a byte above 1 in its data, wanted 0 or 1"),
    ],
)
def test_bad_bytes(datatype: object, shape: object, data: bytes, said: str) -> None:
    """Given what is no tensor -> one sentence that names it."""
    with pytest.raises(BadRequestError, match=said) as caught:
        array_of_bytes("x", datatype, shape, data)
    assert str(caught.value).startswith("input 'x' has ")


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "said"),
    [
        ("FP32", [2], [1], "has 1 numbers, wanted 2 for the shape"),
        ("FP32", [2, 1], [[1, 2]], r"has data of shape \[1, 2\], wanted its shape \[2, 1\] or a flat list"),
        ("FP32", [2], [[1], [2, 3]], "has lists of different lengths"),
        ("FP32", [1], ["1"], "has other data than numbers, as its datatype FP32"),
        ("FP32", [1], [None], "has other data than numbers"),
        ("FP32", [1], [True], "has other data than numbers"),
        ("FP32", [1], 1, "has 1 as its data, wanted a list"),
        ("FP32", [1], None, "has None as its data, wanted a list"),
        ("INT8", [1], [1.5], "has other data than whole numbers"),
        ("INT8", [1], [128], "has a number beyond INT8"),
        ("UINT8", [1], [-1], "has a number beyond UINT8"),
        ("BOOL", [1], [1], "has other data than true and false"),
    ],
)
def test_bad_numbers(datatype: str, shape: list[int], data: object, said: str) -> None:
    with pytest.raises(BadRequestError, match=said):
        array_of_numbers("x", datatype, shape, data)


def test_numbers_are_rounded_once() -> None:
    """Given decimals -> the nearest of the type, not the nearest of the nearest of another."""
    value = 1 + 2**-24 + 2**-50
    assert array_of_numbers("x", "FP32", [1], [value])[0] == np.float32(1 + 2**-23)
    assert array_of_numbers("x", "INT64", [1], [2**63 - 1])[0] == 2**63 - 1


@given(st.one_of(st.none(), st.text(), st.integers(), st.lists(st.one_of(st.integers(), st.floats(), st.text()))))
def test_any_shape(shape: object) -> None:
    """Given anything as a shape -> sizes, or BadRequestError."""
    try:
        sizes = shape_of("x", shape)
    except BadRequestError:
        return
    assert all(type(size) is int and size >= 0 for size in sizes)
