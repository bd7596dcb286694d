"""REST's body to a request, a response to what is sent."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plainconv.engines.serving.refusals import BadRequestError
from plainconv.engines.serving.requests import InferResponse, WantedOutput
from plainconv.engines.serving.rest.codec import decode, encode, header_length, object_of

X = np.arange(8, dtype=np.float32).reshape(2, 4)
SOUND = {"name": "x", "datatype": "FP32", "shape": [2, 4]}


def body_of(request: object, *tensors: bytes) -> tuple[memoryview, int]:
    head = json.dumps(request).encode()
    return memoryview(head + b"".join(tensors)), len(head)


def binary(**more: Any) -> dict[str, Any]:
    return {"inputs": [{**SOUND, "parameters": {"binary_data_size": 32}}], **more}


def test_binary_and_json_tensors() -> None:
    """Given one of each -> both arrays, the outputs that are asked for, the rest of the request."""
    y = {"name": "y", "datatype": "INT64", "shape": [1], "data": [7]}
    request = binary(id="a", parameters={"timeout": 1500, "binary_data_output": True})
    request["inputs"].append(y)
    request["outputs"] = [{"name": "p"}, {"name": "q", "parameters": {"binary_data": False}}]
    decoded = decode(*body_of(request, X.tobytes()))
    np.testing.assert_array_equal(decoded.inputs["x"], X)
    assert decoded.inputs["y"].tolist() == [7]
    assert decoded.outputs == (WantedOutput("p"), WantedOutput("q", False))
    assert (decoded.id, decoded.timeout_s, decoded.binary) == ("a", 0.0015, True)


def test_json_alone() -> None:
    """Given no header -> the whole body is JSON."""
    body, _ = body_of({"inputs": [{**SOUND, "data": X.tolist()}]})
    np.testing.assert_array_equal(decode(body).inputs["x"], X)


def test_the_array_lies_in_the_body() -> None:
    head = json.dumps(binary()).encode()
    head += b" " * (-len(head) % 64)
    buffer = np.empty(len(head) + 32 + 64, np.uint8)
    start = -buffer.ctypes.data % 64
    body = buffer[start : start + len(head) + 32]
    body[:] = np.frombuffer(head + X.tobytes(), np.uint8)
    assert np.shares_memory(decode(body.data, len(head)).inputs["x"], buffer)


@pytest.mark.parametrize(
    ("request_", "tensors", "said"),
    [
        (binary(), X.tobytes()[:-1], "has binary_data_size 32, and 31 bytes follow"),
        (binary(), X.tobytes() + b"1", "the body has 1 bytes more than its inputs say"),
        ({"inputs": [{**SOUND, "parameters": {"binary_data_size": -1}}]}, b"", "has binary_data_size -1"),
        ({"inputs": [{**SOUND, "parameters": {"binary_data_size": True}}]}, b"1", "has binary_data_size True"),
        ({"inputs": [{**SOUND, "parameters": {"binary_data_size": 10**30}}]}, b"", "the request is not JSON|_size 1"),
        ({"inputs": [{**SOUND, "parameters": {"binary_data_size": 4}}]}, b"1234", "has 4 bytes of data, wanted 32"),
        ({"inputs": [{**SOUND, "parameters": {"binary_data_size": 0}, "data": []}]}, b"", "and data as well"),
        ({"inputs": [{**SOUND, "parameters": []}]}, b"", "has parameters .., wanted an object"),
        (
            {"inputs": [{**SOUND, "parameters": {"shared_memory_region": "r"}, "data": []}]},
            b"",
            "has a region of shared memory and data as well",
        ),
        ({"inputs": [SOUND]}, b"", "has neither data nor binary_data_size"),
        ({"inputs": [{**SOUND, "name": None}]}, b"", "has a tensor named None in its inputs"),
        ({"inputs": [{**SOUND, "data": X.tolist()}] * 2}, b"", "input 'x' is given twice"),
        ({"inputs": ["x"]}, b"", "something else than tensors"),
        ({"inputs": {}}, b"", "has other inputs, wanted a list"),
        ({"inputs": [SOUND] * 257}, b"", "has 257 inputs, wanted a list of up to 256"),
        ({}, b"", "has no inputs, wanted a list"),
        ([], b"", "the request is a JSON list, wanted an object"),
        (None, b"", "the request is a JSON null, wanted an object"),
        (binary(id=7), X.tobytes(), "has id 7, wanted text"),
        (binary(id="a" * 1025), X.tobytes(), "wanted text of up to 1024"),
        (binary(parameters={"timeout": -1}), X.tobytes(), "has timeout -1, wanted whole microseconds"),
        (binary(parameters={"binary_data_output": 1}), X.tobytes(), "has binary_data_output 1, wanted true or false"),
        (binary(outputs=[{"name": "y", "parameters": {"classification": 3}}]), X.tobytes(), "asks for classification"),
        (binary(outputs=7), X.tobytes(), "has other outputs"),
    ],
)
def test_a_bad_request(request_: object, tensors: bytes, said: str) -> None:
    """Given what is no request -> one sentence."""
    with pytest.raises(BadRequestError, match=said) as caught:
        decode(*body_of(request_, tensors))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", [b"", b"{", b'{"inputs": [NaN]}', b'{"inputs": [Infinity]}', b"\xff", b"[" * 100_000])
def test_no_json(text: bytes) -> None:
    with pytest.raises(BadRequestError, match="the request is not JSON"):
        decode(memoryview(text))


def test_binary_without_its_header() -> None:
    body, _ = body_of(binary())
    with pytest.raises(BadRequestError, match="no header inference-header-content-length"):
        decode(body)


@pytest.mark.parametrize("value", ["", "-1", "1e3", "11", "٣", "9" * 40, " 3"])
def test_a_bad_header_length(value: str) -> None:
    with pytest.raises(BadRequestError, match="wanted up to the 10 bytes of the body"):
        header_length(value, 10)


def test_encode_binary_and_json() -> None:
    """Given an output of each kind -> JSON, then the bytes of the one, where the array lies."""
    response = InferResponse("m", "1", "a", {"p": X, "q": X[0]}, frozenset({"p"}))
    pieces, length = encode(response)
    head = json.loads(pieces[0])
    assert length == len(pieces[0]) and np.shares_memory(np.frombuffer(pieces[1], np.uint8), X)
    assert head == {
        "model_name": "m",
        "model_version": "1",
        "id": "a",
        "outputs": [
            {"name": "p", "datatype": "FP32", "shape": [2, 4], "parameters": {"binary_data_size": 32}},
            {"name": "q", "datatype": "FP32", "shape": [4], "data": [0.0, 1.0, 2.0, 3.0]},
        ],
    }


def test_encode_nan_as_json() -> None:
    """Given what JSON cannot write -> null."""
    response = InferResponse("m", "1", "", {"y": np.array([np.nan, 1], np.float32)})
    pieces, length = encode(response)
    assert length is None and json.loads(pieces[0])["outputs"][0]["data"] == [None, 1.0]


def test_object_of_nothing() -> None:
    assert object_of(b"", "the request") == {}


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.sampled_from(["inputs", "outputs", "name", "shape", "datatype", "data", "parameters", "id"]), inner
        ),
    ),
    max_leaves=20,
)
TENSOR = st.fixed_dictionaries(
    {"name": st.one_of(st.just("x"), JSON), "datatype": st.sampled_from(["FP32", "INT8", "BOOL", "BF16", "BYTES", 1])},
    optional={
        "shape": st.one_of(st.lists(st.integers(-1, 5), max_size=3), JSON),
        "data": JSON,
        "parameters": st.one_of(st.fixed_dictionaries({"binary_data_size": st.integers(-1, 40)}), JSON),
    },
)


@given(st.one_of(JSON, st.fixed_dictionaries({"inputs": st.lists(TENSOR, max_size=3)})), st.binary(max_size=40))
def test_any_json(request: object, tensors: bytes) -> None:
    """Given any JSON and any bytes -> a request, or BadRequestError."""
    try:
        decoded = decode(*body_of(request, tensors))
    except BadRequestError as error:
        assert "\n" not in str(error)
    else:
        assert all(isinstance(array, np.ndarray) for array in decoded.inputs.values())


@given(st.binary(max_size=200), st.integers(0, 200))
def test_any_bytes(body: bytes, length: int) -> None:
    with pytest.raises(BadRequestError):
        decode(memoryview(body), min(length, len(body)))
