"""gRPC, given what nobody means to send: a status that blames the sender, or a result; and the next request is served.

`python tests/benchmarks/fuzz_serve.py` does the same with ten thousand requests and more.
"""

import importlib.util
from collections.abc import Iterator
from typing import Any

import fuzz_requests as fuzz
import pytest
from hypothesis import HealthCheck, example, given, settings

grpc = pytest.importorskip("grpc")
triton = pytest.importorskip("tritonclient.grpc")
pytestmark = pytest.mark.skipif(importlib.util.find_spec("kserve") is None, reason="needs kserve")


seeded = settings(derandomize=True, database=None, suppress_health_check=list(HealthCheck))
SERVICE = "/inference.GRPCInferenceService"
EMPTY_AND_HUGE = triton.service_pb2.ModelInferRequest(model_name="open")
EMPTY_AND_HUGE.inputs.add(name="x", datatype="FP32", shape=[0, 2**62])


@pytest.fixture(scope="module")
def channel(server: Any) -> Iterator[Any]:
    with grpc.insecure_channel(server.grpc) as channel:
        yield channel


def problems(channel: Any, method: str, data: bytes) -> list[str]:
    """What is wrong with the answer to these bytes."""
    try:
        channel.unary_unary(f"{SERVICE}/{method}")(data, timeout=fuzz.LONG_S)
    except grpc.RpcError as error:
        return list(fuzz.grpc_problems(data, error.code().name, error.details()))
    return []


@pytest.fixture(autouse=True)
def serves_on(server: Any, channel: Any) -> Any:
    seen = len(server.lines)
    yield
    assert problems(channel, "RepositoryModelLoad", b"\x12\x03one") == []
    assert fuzz.is_serving(server.http) and fuzz.is_serving(server.http, "one")
    good = triton.service_pb2.ModelInferRequest(model_name="open")
    good.inputs.add(name="x", datatype="FP32", shape=[1, 4]).contents.fp32_contents.extend([1, 2, 3, 4])
    answer = channel.unary_unary(f"{SERVICE}/ModelInfer")(good.SerializeToString(), timeout=fuzz.LONG_S)
    assert list(triton.service_pb2.ModelInferResponse.FromString(answer).outputs[0].contents.fp32_contents) == [3, 7]
    assert [line for line in server.lines[seen:] if not line.startswith(("serving ", "exporter: "))] == []
    assert not [line for line in server.lines[seen:] if "fault of the server" in line]


@settings(seeded, max_examples=200)
@given(data=fuzz.grpc_infers(triton.service_pb2))
@example(data=EMPTY_AND_HUGE.SerializeToString())
def test_infer(channel: Any, data: bytes) -> None:
    assert problems(channel, "ModelInfer", data) == []


@settings(seeded, max_examples=100)
@given(call=fuzz.GRPC_OTHERS)
def test_other_methods(channel: Any, call: tuple[str, bytes]) -> None:
    assert problems(channel, *call) == []


@settings(seeded, max_examples=50)
@given(data=fuzz.HTTP2_BYTES)
def test_hardly_http2(server: Any, data: bytes) -> None:
    """Given bytes on the port -> the connection ends."""
    assert isinstance(fuzz.exchanged(server.grpc, data, half_closed=True), bytes)
