"""REST, against a server in a process of its own."""

import json
from typing import Any

import numpy as np
import pytest

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
        "version": "",
        "extensions": ["binary_tensor_data", "model_repository"],
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


@pytest.mark.parametrize("name", ["..%2fopen", "%2e%2e", "..", ".", "%2fetc", "none", "open%00", "a" * 500])
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
