"""gRPC's messages to a request and back. Triton's classes have the fields that KServe's have."""

from typing import Any

import numpy as np
import pytest

from plainconv.engines.serving.grpc.codec import decode, encode
from plainconv.engines.serving.refusals import BadRequestError
from plainconv.engines.serving.requests import InferResponse, Place, SharedInput, WantedOutput

service_pb2 = pytest.importorskip("tritonclient.grpc.service_pb2")
X = np.arange(8, dtype=np.float32).reshape(2, 4)


def message(*raw: bytes, datatype: str = "FP32", shape: tuple[int, ...] = (2, 4), **more: Any) -> Any:
    request = service_pb2.ModelInferRequest(**more)
    request.inputs.add(name="x", datatype=datatype, shape=shape)
    request.raw_input_contents.extend(raw)
    return request


def test_raw_contents() -> None:
    """Given raw contents -> the array, outputs to be raw too."""
    request = message(X.tobytes(), id="a", model_version="1")
    request.outputs.add(name="y")
    request.parameters["timeout"].int64_param = 2_000_000
    decoded = decode(request, remaining_s=1.5)
    np.testing.assert_array_equal(decoded.inputs["x"], X)
    assert decoded.outputs == (WantedOutput("y"),) and decoded.binary
    assert (decoded.id, decoded.version, decoded.timeout_s) == ("a", "1", 1.5)


@pytest.mark.parametrize(
    ("datatype", "field", "values"),
    [
        ("FP32", "fp32_contents", [1.5, float("nan")]),
        ("FP64", "fp64_contents", [1.5, -2.0]),
        ("INT8", "int_contents", [1, -2]),
        ("INT64", "int64_contents", [2**62, -2]),
        ("UINT64", "uint64_contents", [2**64 - 1, 2]),
        ("BOOL", "bool_contents", [True, False]),
    ],
)
def test_typed_contents(datatype: str, field: str, values: list[Any]) -> None:
    request = message(datatype=datatype, shape=(2,))
    getattr(request.inputs[0].contents, field).extend(values)
    decoded = decode(request)
    np.testing.assert_array_equal(decoded.inputs["x"], values)
    assert not decoded.binary


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (message(b"1", b"2"), "has 2 raw_input_contents, wanted one for each of 1 inputs"),
        (message(X.tobytes()[:-4]), "has 28 bytes of data, wanted 32"),
        (message(X.tobytes(), shape=(-2, -4)), "has -2 in its shape"),
        (message(X.tobytes(), shape=(2**62, 2**62)), "wanted 85070591730234615865843651857942052864"),
        (message(datatype="FP16"), "give it in raw_input_contents"),
        (message(datatype="BYTES"), "has datatype 'BYTES'"),
        (message(), "has 0 numbers, wanted 8"),
        (message(shape=(-2, -4)), "has -2 in its shape"),
    ],
)
def test_a_bad_message(request_: Any, said: str) -> None:
    with pytest.raises(BadRequestError, match=said):
        decode(request_)


def test_contents_of_another_type() -> None:
    request = message()
    request.inputs[0].contents.int_contents.extend(range(8))
    with pytest.raises(BadRequestError, match="has int_contents, wanted fp32_contents for FP32"):
        decode(request)


def test_contents_and_raw() -> None:
    request = message(X.tobytes())
    request.inputs[0].contents.fp32_contents.append(1)
    with pytest.raises(BadRequestError, match="has contents and raw_input_contents"):
        decode(request)


def placed(tensor: Any) -> None:
    tensor.parameters["shared_memory_region"].string_param = "r"
    tensor.parameters["shared_memory_offset"].int64_param = 8
    tensor.parameters["shared_memory_byte_size"].int64_param = 32


def test_shared_memory() -> None:
    """Given an input in shared memory beside a raw one, and an output that is to go there -> places, raw answers."""
    request = message(X.tobytes())
    placed(request.inputs.add(name="s", datatype="FP32", shape=[2, 4]))
    placed(request.outputs.add(name="y"))
    decoded = decode(request)
    assert decoded.inputs["x"].tolist() == X.tolist() and list(decoded.inputs) == ["x"]
    assert decoded.shared == {"s": SharedInput("FP32", [2, 4], Place("r", 8, 32))} and decoded.binary
    assert decoded.outputs == (WantedOutput("y", place=Place("r", 8, 32)),)
    placed(request.inputs[0])
    with pytest.raises(BadRequestError, match="has 1 raw_input_contents, wanted one for each of 0 inputs"):
        decode(request)


def test_an_answer_in_shared_memory() -> None:
    """Given an output there -> its place and no bytes, in the order of the outputs."""
    response = InferResponse("m", "1", "", {"y": X, "z": X}, frozenset({"z"}), {"y": Place("r", 0, 32)})
    answer = encode(response, service_pb2.ModelInferResponse())
    assert list(answer.raw_output_contents) == [b"", X.tobytes()]
    parameters = answer.outputs[0].parameters
    assert set(parameters) == {"shared_memory_region", "shared_memory_byte_size"}
    assert parameters["shared_memory_byte_size"].int64_param == 32 and not answer.outputs[1].parameters


def test_what_is_not_offered() -> None:
    request = message(X.tobytes())
    request.inputs[0].parameters["classification"].int64_param = 1
    with pytest.raises(BadRequestError, match="asks for classification"):
        decode(request)


@pytest.mark.parametrize("raw", [True, False])
def test_encode(raw: bool) -> None:
    """Given outputs -> the message that has them as the inputs were."""
    response = InferResponse("m", "1", "a", {"y": X, "n": np.array([3])}, frozenset({"y", "n"} if raw else ()))
    answer = encode(response, service_pb2.ModelInferResponse())
    assert [(o.name, o.datatype, list(o.shape)) for o in answer.outputs] == [("y", "FP32", [2, 4]), ("n", "INT64", [1])]
    assert list(answer.raw_output_contents) == ([X.tobytes(), np.array([3]).tobytes()] if raw else [])
    if not raw:
        assert list(answer.outputs[0].contents.fp32_contents) == X.reshape(-1).tolist()
        assert list(answer.outputs[1].contents.int64_contents) == [3]


def test_encode_what_no_field_is_for() -> None:
    """Given float16 where the inputs were typed -> raw."""
    response = InferResponse("m", "1", "", {"y": X.astype(np.float16)})
    assert len(encode(response, service_pb2.ModelInferResponse()).raw_output_contents) == 1
