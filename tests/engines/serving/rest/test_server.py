"""REST, against a server in a process of its own."""

import json
import zlib
from http.client import HTTPConnection
from typing import Any

import numpy as np
import pytest

from plainconv.exporter.version import __version__

http = pytest.importorskip("tritonclient.http")
LONG_S = 60.0
X = np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.float32)
Y = [[3, 7], [11, 15]]


@pytest.fixture
def client(server: Any) -> Any:
    with http.InferenceServerClient(server.http, network_timeout=LONG_S) as client:
        yield client


def infer(client: Any, x: Any = X, model: str = "open", binary: bool = True, **more: Any) -> Any:
    tensor = http.InferInput("x", x.shape, "FP32")
    tensor.set_data_from_numpy(x, binary_data=binary)
    outputs = [http.InferRequestedOutput("y", binary_data=binary)]
    return client.infer(model, [tensor], outputs=outputs, **more)


def test_tritons_client(client: Any) -> None:
    """Given requests with binary tensors and with JSON -> the answer, with the request's id."""
    for binary in (True, False):
        result = infer(client, binary=binary, request_id="r7")
        assert result.as_numpy("y").tolist() == Y
        answer = result.get_response()
        assert (answer["id"], answer["model_name"], answer["model_version"]) == ("r7", "open", "1")
    assert infer(client, X[:1], "one", model_version="1").as_numpy("y").tolist() == [[6, 14]]


def test_what_it_says_of_itself(client: Any, server: Any) -> None:
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("open")
    assert not client.is_model_ready("none") and not client.is_model_ready("open", "2")
    assert client.get_server_metadata() == {
        "name": "plainconv",
        "version": __version__,
        "extensions": ["binary_tensor_data", "model_configuration", "statistics", "model_repository"],
    }
    assert client.get_model_metadata("open") == {
        "name": "open",
        "versions": ["1"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}],
    }
    assert client.get_model_metadata("one")["inputs"][0]["shape"] == [1, 4]
    assert server.ask("GET", "/v2/models") == (200, {"models": ["one", "open"]})


@pytest.mark.parametrize("by", ["gzip", "deflate"])
def test_compression(client: Any, by: str) -> None:
    """Given a client that compresses, and asks for it -> the same answer; a long one comes compressed."""
    x = np.arange(32, dtype=np.float32).reshape(8, 4)
    result = infer(client, x, request_compression_algorithm=by, response_compression_algorithm=by)
    assert result.as_numpy("y").tolist() == x.reshape(8, 2, 2).sum(2).tolist()


def test_a_long_answer_is_compressed(server: Any) -> None:
    """Given a sender who takes gzip -> an answer of more than 1 KiB is; to one who does not, it is not."""
    for accepts, comes in (("gzip", "gzip"), ("br, gzip;q=0, deflate", "deflate"), ("br", None), ("gzip;q=0.0", None)):
        host, _, port = server.http.rpartition(":")
        connection = HTTPConnection(host, int(port), timeout=LONG_S)
        text = body(shape=[8, 4], data=[1.5] * 32) + " "
        long = json.dumps(json.loads(text) | {"id": "x" * 1024})
        connection.request("POST", "/v2/models/open/infer", long, {"accept-encoding": accepts})
        response = connection.getresponse()
        data = response.read()
        connection.close()
        assert response.getheader("content-encoding") == comes
        plain = zlib.decompress(data, 32 + zlib.MAX_WBITS) if comes else data
        assert json.loads(plain)["outputs"][0]["data"] == [3.0] * 16


def test_configuration_and_statistics(client: Any) -> None:
    """Given requests -> what the model is, and how often it ran, as Triton's client asks for them."""
    config = client.get_model_config("open")
    assert (config["max_batch_size"], config["input"]) == (8, [{"name": "x", "data_type": "TYPE_FP32", "dims": [4]}])
    assert client.get_model_config("one", "1")["max_batch_size"] == 0
    before = client.get_inference_statistics("open")["model_stats"][0]
    infer(client)
    after = client.get_inference_statistics("open", "1")["model_stats"][0]
    assert after["inference_count"] == before["inference_count"] + 2
    assert after["execution_count"] == before["execution_count"] + 1
    stats, was = after["inference_stats"], before["inference_stats"]
    assert stats["success"]["count"] == was["success"]["count"] + 1 and stats["success"]["ns"] > was["success"]["ns"]
    assert {"queue", "compute_input", "compute_infer", "compute_output", "fail"} < set(stats)
    assert any(row["batch_size"] == 2 for row in after["batch_stats"])
    assert {row["name"] for row in client.get_inference_statistics()["model_stats"]} == {"one", "open"}


def test_the_repository(client: Any) -> None:
    """Given the API enabled -> the models are listed, unloaded and loaded."""
    client.unload_model("one")
    assert [(row["name"], row["state"]) for row in client.get_model_repository_index()] == [
        ("one", "UNAVAILABLE"),
        ("open", "READY"),
    ]
    with pytest.raises(http.InferenceServerException, match=r"model 'one' is not loaded \(unloaded\)"):
        infer(client, X[:1], "one")
    client.load_model("one")
    assert infer(client, X[:1], "one").as_numpy("y").tolist() == [[6, 14]]
    with pytest.raises(http.InferenceServerException, match="loading takes no parameters here"):
        client.load_model("one", config="{}")


def body(**more: Any) -> str:
    return json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4], **more}]})


def test_what_is_not_there_is_unloaded(server: Any, client: Any) -> None:
    """Given a model that is not loaded, or that there is not -> unloading it succeeds, as with Triton."""
    for name in ("none", "none"):
        client.unload_model(name)
    assert server.ask("POST", "/v2/repository/models/none/load")[0] == 404


@pytest.mark.parametrize("name", ["..%2fopen", "%2e%2e", "..", ".", "%2fetc", "open%00", "a" * 500])
@pytest.mark.parametrize("what", ["load", "unload"])
def test_the_repository_is_confined(server: Any, client: Any, name: str, what: str) -> None:
    """Given names that lead elsewhere -> 404 and one sentence; what is there is served."""
    status, answer = server.ask("POST", f"/v2/repository/models/{name}/{what}")
    assert status == 404 and list(answer) == ["error"] and answer["error"].startswith("there is no")
    assert infer(client).as_numpy("y").tolist() == Y


@pytest.mark.parametrize("sent", ["[]", "{", '{"parameters": {"config": "{}"}}', "x" * (2**20 + 1)])
def test_a_body_of_the_repository_that_is_none(server: Any, client: Any, sent: str) -> None:
    status, answer = server.ask("POST", "/v2/repository/models/open/load", sent)
    assert status in (400, 413) and list(answer) == ["error"]
    assert infer(client).as_numpy("y").tolist() == Y


def test_a_large_answer_and_a_large_body(server: Any) -> None:
    """Given JSON that is decoded and encoded beside the event loop -> the same answers."""
    numbers = [float(i) for i in range(32)]
    padded = body(shape=[8, 4], data=numbers) + " " * 100_000
    assert server.ask("POST", "/v2/models/open/infer", padded)[1]["outputs"][0]["data"] == [
        sum(numbers[i : i + 2]) for i in range(0, 32, 2)
    ]
    status, answer = server.ask("POST", "/v2/models/open/infer", "{" + padded)
    assert status == 400 and "is not JSON" in answer["error"]


def test_what_headers_tell(server: Any) -> None:
    """Given any answer -> no header that names a program or its version."""
    answer = server.raw(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    head = answer.partition(b"\r\n\r\n")[0].lower()
    assert b"200" in head and b"server:" not in head and b"uvicorn" not in head and b"python" not in head


def test_metrics(server: Any, client: Any) -> None:
    """Given a request -> it is counted, KServe's timing of it too; nothing tells a version."""
    infer(client)
    status, text = server.ask("GET", "/metrics")
    lines = text.decode().splitlines()
    assert status == 200 and "python_info" not in text.decode()
    for name in ("nv_inference_request_success", "nv_inference_exec_count", "plainconv_batch_rows_count"):
        assert any(line.startswith(f'{name}{{model="open",version="1"}} ') for line in lines)
    assert any(line.startswith('request_predict_seconds_count{model_name="open"}') for line in lines)


def test_a_model_that_is_not_there_makes_no_label(server: Any) -> None:
    server.ask("POST", "/v2/models/unheard-of/infer", body())
    assert b"unheard-of" not in server.ask("GET", "/metrics")[1]
