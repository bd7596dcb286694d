"""gRPC, against a server in a process of its own."""

import queue
import threading
from typing import Any

import numpy as np
import pytest

from plainconv.exporter.version import __version__

grpc = pytest.importorskip("grpc")
triton = pytest.importorskip("tritonclient.grpc")
LONG_S = 60.0
X = np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.float32)
Y = [[3, 7], [11, 15]]
SERVICE = "/inference.GRPCInferenceService"


@pytest.fixture
def client(server: Any) -> Any:
    with triton.InferenceServerClient(server.grpc) as client:
        yield client


@pytest.fixture
def call(server: Any) -> Any:
    """A method by its name and the bytes of a message; the bytes of the answer."""
    with grpc.insecure_channel(server.grpc) as channel:
        yield lambda method, data: channel.unary_unary(f"{SERVICE}/{method}")(data, timeout=LONG_S)


def infer(client: Any, x: Any = X, model: str = "open", shape: Any = None, datatype: str = "FP32", **more: Any) -> Any:
    tensor = triton.InferInput("x", list(x.shape), "FP32")
    tensor.set_data_from_numpy(x)
    tensor.set_shape(x.shape if shape is None else shape)
    tensor._input.datatype = datatype
    return client.infer(model, [tensor], client_timeout=LONG_S, **more)


def test_tritons_client(client: Any) -> None:
    """Given raw tensors -> the answer, raw, with the request's id."""
    result = infer(client, request_id="r7", outputs=[triton.InferRequestedOutput("y")])
    assert result.as_numpy("y").tolist() == Y
    assert (result.get_response().id, result.get_response().model_version) == ("r7", "1")


def test_typed_contents(call: Any) -> None:
    """Given numbers in the fields of their type -> the answer's are there too."""
    request = triton.service_pb2.ModelInferRequest(model_name="open")
    tensor = request.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    tensor.contents.fp32_contents.extend([1, 2, 3, 4])
    answer = triton.service_pb2.ModelInferResponse.FromString(call("ModelInfer", request.SerializeToString()))
    assert list(answer.outputs[0].contents.fp32_contents) == [3, 7] and not answer.raw_output_contents


def test_what_it_says_of_itself(client: Any) -> None:
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("open")
    assert client.get_server_metadata().version == __version__
    metadata = client.get_model_metadata("open", as_json=True)
    assert metadata["versions"] == ["1"] and metadata["platform"] == "onnxruntime_onnx"
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": ["-1", "4"]}]
    assert not client.is_model_ready("none") and not client.is_model_ready("open", "2")


@pytest.mark.parametrize("by", ["gzip", "deflate"])
def test_compression(client: Any, by: str) -> None:
    """Given a message that is compressed -> its answer; one that grows beyond the limit is refused."""
    assert infer(client, compression_algorithm=by).as_numpy("y").tolist() == Y
    with pytest.raises(triton.InferenceServerException, match="RESOURCE_EXHAUSTED"):
        infer(client, np.zeros((2**18, 4), np.float32), compression_algorithm=by)
    assert infer(client).as_numpy("y").tolist() == Y


def test_configuration_and_statistics(client: Any) -> None:
    """Given Triton's client -> what the model is, and what was counted."""
    config = client.get_model_config("open").config
    assert (config.name, config.max_batch_size, config.platform) == ("open", 8, "onnxruntime_onnx")
    (x,) = config.input
    assert (x.name, triton.model_config_pb2.DataType.Name(x.data_type), list(x.dims)) == ("x", "TYPE_FP32", [4])
    assert config.dynamic_batching.max_queue_delay_microseconds == 500 and config.instance_group[0].count == 1
    infer(client)
    (found,) = client.get_inference_statistics("open").model_stats
    assert found.inference_count >= 2 and found.execution_count >= 1 and found.inference_stats.success.ns > 0
    assert found.batch_stats[0].compute_infer.count >= 1 and found.last_inference > 0
    with pytest.raises(triton.InferenceServerException, match=r"NOT_FOUND.* there is no model 'none'"):
        client.get_model_config("none")


def test_a_stream(server: Any) -> None:
    """Given a stream of requests, some of them bad -> an answer to each, in their order, or why there is none."""
    answers: queue.Queue[Any] = queue.Queue()
    with triton.InferenceServerClient(server.grpc) as own:
        own.start_stream(lambda result, error: answers.put(error or result))
        for i in range(40):
            tensor = triton.InferInput("x", [1, 4], "FP32")
            tensor.set_data_from_numpy(np.full((1, 4), i, np.float32))
            own.async_stream_infer("none" if i == 7 else "open", [tensor], request_id=str(i))
        found = [answers.get(timeout=LONG_S) for _ in range(40)]
        own.stop_stream()
    assert "there is no model 'none'" in str(found.pop(7))
    wanted = [i for i in range(40) if i != 7]
    assert [int(each.get_response().id) for each in found] == wanted
    assert [each.as_numpy("y")[0, 0] for each in found] == [2 * i for i in wanted]


def test_health(server: Any) -> None:
    """Given gRPC's own health protocol -> what the server, and a model, say; of an unknown one NOT_FOUND."""
    with grpc.insecure_channel(server.grpc) as channel:
        asks = channel.unary_unary("/grpc.health.v1.Health/Check")
        assert asks(b"", timeout=LONG_S) == asks(b"\n\x04open", timeout=LONG_S) == b"\x08\x01"
        with pytest.raises(grpc.RpcError) as caught:
            asks(b"\n\x04none", timeout=LONG_S)
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND
        changes = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"", timeout=LONG_S)
        assert next(changes) == b"\x08\x01"
        changes.cancel()


def test_the_repository(client: Any, call: Any) -> None:
    """Given Triton's messages, and KServe's -> the models are listed, unloaded and loaded."""
    client.unload_model("one")
    index = client.get_model_repository_index()
    assert [(row.name, row.state) for row in index.models] == [("one", "UNAVAILABLE"), ("open", "READY")]
    client.load_model("one")
    assert client.is_model_ready("one")
    name_in_field_1 = b"\x0a\x03one"
    call("RepositoryModelUnload", name_in_field_1)
    with pytest.raises(triton.InferenceServerException, match=r"UNAVAILABLE.* is not loaded"):
        infer(client, X[:1], "one")
    call("RepositoryModelLoad", name_in_field_1)
    assert infer(client, X[:1], "one").as_numpy("y").tolist() == [[6, 14]]
    with pytest.raises(triton.InferenceServerException, match="NOT_FOUND"):
        client.load_model("../one")


@pytest.mark.parametrize(
    ("how", "code", "said"),
    [
        ({"model": "none"}, "NOT_FOUND", "there is no model 'none'"),
        ({"model_version": "2"}, "NOT_FOUND", "there is no version '2'"),
        ({"shape": [2, 5]}, "INVALID_ARGUMENT", "has 32 bytes of data, wanted 40"),
        ({"shape": [-1, -8]}, "INVALID_ARGUMENT", "has -1 in its shape"),
        ({"shape": [2**62, 2**62]}, "INVALID_ARGUMENT", "has 32 bytes of data"),
        ({"shape": [8]}, "INVALID_ARGUMENT", "has 1 axes, wanted 2"),
        ({"datatype": "BYTES"}, "INVALID_ARGUMENT", "has datatype 'BYTES'"),
        ({"datatype": "FP64", "shape": [1, 4]}, "INVALID_ARGUMENT", "has datatype FP64, wanted FP32"),
        ({"x": np.zeros((9, 4), np.float32)}, "INVALID_ARGUMENT", "this server takes up to 8"),
        ({"outputs": [triton.InferRequestedOutput("q")]}, "INVALID_ARGUMENT", "there is no output 'q'"),
        ({"parameters": {"timeout": "soon"}}, "INVALID_ARGUMENT|timeout", "timeout"),
        ({"x": np.zeros((2**18, 4), np.float32)}, "RESOURCE_EXHAUSTED", "larger than max"),
    ],
)
def test_a_bad_request(client: Any, how: dict[str, Any], code: str, said: str) -> None:
    """Given what cannot be answered -> its status and one sentence; the next request is answered."""
    with pytest.raises(triton.InferenceServerException, match=code) as caught:
        infer(client, **how)
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert infer(client).as_numpy("y").tolist() == Y


@pytest.mark.parametrize("data", [b"\xff", b"\x0a\x7f", b"\x0a\x04op\xffn", bytes(range(256))])
def test_no_message(call: Any, data: bytes) -> None:
    """Given bytes that are no message -> INVALID_ARGUMENT, not a fault of the server."""
    with pytest.raises(grpc.RpcError) as caught:
        call("ModelInfer", data)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == "the message cannot be read: it is not what this method takes"


@pytest.mark.parametrize("method", ["TraceSetting", "CudaSharedMemoryRegister", "Nothing"])
def test_no_method(call: Any, method: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        call(method, b"")
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_both_protocols_share_batches(server: Any, client: Any) -> None:
    """Given clients of both at once -> each its own answer."""
    import tritonclient.http as http

    wrong = []

    def by_grpc(number: int) -> None:
        for i in range(20):
            x = np.full((1, 4), number * 100 + i, np.float32)
            if (infer(client, x).as_numpy("y") != 2 * x[0, 0]).any():
                wrong.append((number, i))

    def by_http(number: int) -> None:
        with http.InferenceServerClient(server.http, network_timeout=LONG_S) as own:
            for i in range(20):
                x = np.full((1, 4), number * 100 + i, np.float32)
                tensor = http.InferInput("x", x.shape, "FP32")
                tensor.set_data_from_numpy(x)
                if (own.infer("open", [tensor]).as_numpy("y") != 2 * x[0, 0]).any():
                    wrong.append((number, i))

    threads = [threading.Thread(target=by_http if n % 2 else by_grpc, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG_S)
    assert not wrong and not any(thread.is_alive() for thread in threads)
