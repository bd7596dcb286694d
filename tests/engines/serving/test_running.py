"""A server's life, in a process of its own whose model computes when a test lets it."""

import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from waiting import until

from plainconv.engines.serving.options import ServeOptions
from plainconv.engines.serving.running import _listen
from plainconv.exporter.errors import EngineError

grpc = pytest.importorskip("tritonclient.grpc")
LONG_S = 60.0
INFER = "/v2/models/b/infer"


class Held:
    """A server of the bundle `b`, batch 1, and the gate that its runs wait at."""

    def __init__(self, folder: Path, start: Callable[..., Any], *options: object) -> None:
        self.gate = folder / "gate"
        self.gate.mkdir()
        self.server = start(folder / "b", "--name", "b", "--access-log", "none", *options, gate=self.gate)
        assert self.server.http, self.server.lines
        self.open_runs = self.runs()

    def close(self) -> None:
        (self.gate / "closed").touch()

    def open(self) -> None:
        (self.gate / "closed").unlink()

    def runs(self) -> int:
        """How many runs have begun."""
        return len((self.gate / "runs").read_text().split())

    def until_runs(self, count: int) -> None:
        assert until(lambda: self.runs() - self.open_runs >= count)

    def count(self, metric: str) -> float:
        """What the server has counted, all labels together."""
        lines = self.server.ask("GET", "/metrics")[1].decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(metric))

    def waiting(self) -> float:
        return self.count("nv_inference_pending_request_count")


class Rest:
    """A request over REST, sent and not yet answered."""

    def __init__(self, server: Any, value: float = 1.0, **more: Any) -> None:
        host, _, port = server.http.rpartition(":")
        self.connection = HTTPConnection(host, int(port), timeout=LONG_S)
        self.connection.request("POST", INFER, body(value, **more))

    def answer(self) -> tuple[int, Any, dict[str, str]]:
        response = self.connection.getresponse()
        data = response.read()
        headers = {name.lower(): value for name, value in response.getheaders()}
        self.connection.close()
        return response.status, json.loads(data), headers


def body(value: float = 1.0, **more: Any) -> str:
    return json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [value] * 4}], **more})


def tensors(value: float = 1.0) -> list[Any]:
    tensor = grpc.InferInput("x", [1, 4], "FP32")
    tensor.set_data_from_numpy(np.full((1, 4), value, np.float32))
    return [tensor]


@pytest.fixture
def held(make: Callable[..., Path], start: Callable[..., Any], tmp_path: Path) -> Callable[..., Held]:
    make(tmp_path / "b", batch=1)
    return lambda *options: Held(tmp_path, start, *options)


@pytest.fixture
def client_of() -> Iterator[Callable[[Any], Any]]:
    """gRPC clients of servers; they are closed with the test."""
    made: list[Any] = []

    def new(server: Any) -> Any:
        made.append(grpc.InferenceServerClient(server.grpc))
        return made[-1]

    yield new
    for client in made:
        client.close()


def test_a_full_queue(held: Callable[..., Held], client_of: Callable[[Any], Any]) -> None:
    """Given one request that is computed and two that wait -> others are refused at once, these are answered."""
    here = held("--max-queue", 2)
    here.close()
    sent = [Rest(here.server, 0)]
    here.until_runs(1)
    sent += [Rest(here.server, value) for value in (1, 2)]
    assert until(lambda: here.waiting() == 2)
    assert here.server.ask("GET", "/v2/health/ready")[0] == 200  # a computation does not hold up the event loop
    status, answer, headers = Rest(here.server).answer()
    assert (status, headers["retry-after"]) == (429, "1")
    assert answer == {"error": "2 requests wait for this model already; try again later"}
    with pytest.raises(grpc.InferenceServerException, match=r"RESOURCE_EXHAUSTED.*2 requests wait for this model"):
        client_of(here.server).infer("b", tensors(), client_timeout=LONG_S)
    here.open()
    assert [request.answer()[1]["outputs"][0]["data"] for request in sent] == [[0, 0], [2, 2], [4, 4]]
    assert here.count('nv_inference_request_failure{model="b",version="1",reason="REJECTED"}') == 2


def test_clients_that_leave(held: Callable[..., Held], client_of: Callable[[Any], Any]) -> None:
    """Given requests that wait, whose senders leave -> their places are free, and nobody computes them."""
    here = held("--max-queue", 2)
    here.close()
    first = Rest(here.server, 5)
    here.until_runs(1)
    leaving = Rest(here.server)
    call = client_of(here.server).async_infer("b", tensors(), lambda result, error: None, client_timeout=LONG_S)
    assert until(lambda: here.waiting() == 2)
    leaving.connection.close()
    call.cancel()
    assert until(lambda: here.waiting() == 0)
    stays = Rest(here.server, 7)
    assert until(lambda: here.waiting() == 1)
    here.open()
    assert first.answer()[1]["outputs"][0]["data"] == [10, 10]
    assert stays.answer()[1]["outputs"][0]["data"] == [14, 14]
    assert here.runs() - here.open_runs == 2
    assert until(lambda: here.count("nv_inference_request_failure") == 2)


def test_time_is_up(held: Callable[..., Held], client_of: Callable[[Any], Any]) -> None:
    """Given requests that may take 50 ms, the server's 30 s, or their sender's deadline -> 504, and no other waits."""
    here = held()
    here.close()
    computed = Rest(here.server, 1, parameters={"timeout": 50_000})
    here.until_runs(1)
    waits = Rest(here.server, 2, parameters={"timeout": 50_000})
    for request in (computed, waits):
        status, answer, _ = request.answer()
        assert status == 504 and answer == {"error": "the answer was not there within 0.05 s"}
    with pytest.raises(grpc.InferenceServerException, match="DEADLINE_EXCEEDED"):
        client_of(here.server).infer("b", tensors(), client_timeout=0.05)
    assert until(lambda: here.waiting() == 0)
    here.open()
    assert Rest(here.server, 3).answer()[0] == 200


def test_a_model_that_fails(held: Callable[..., Held], client_of: Callable[[Any], Any]) -> None:
    """Given a run that raises -> 500 and INTERNAL without its words, which the log has; the next is answered."""
    here = held()
    (here.gate / "broken").touch()
    status, answer, _ = Rest(here.server).answer()
    assert (status, answer) == (500, {"error": "the model could not be run on this request"})
    with pytest.raises(grpc.InferenceServerException, match=r"INTERNAL.* the model could not be run on this request"):
        client_of(here.server).infer("b", tensors(), client_timeout=LONG_S)
    (here.gate / "broken").unlink()
    assert Rest(here.server).answer()[0] == 200
    assert until(lambda: any("RuntimeError: /secret/path" in line for line in here.server.lines))


def test_told_to_stop(held: Callable[..., Held], client_of: Callable[[Any], Any]) -> None:
    """Given SIGTERM while requests of both protocols wait -> no new connection, all of them answered, exit code 0."""
    here = held()
    here.close()
    rest = [Rest(here.server, value) for value in range(5)]
    answers: dict[int, Any] = {}
    client = client_of(here.server)
    for value in range(5, 8):

        def keep(result: Any, error: Any, value: int = value) -> None:
            answers[value] = error or result.as_numpy("y").tolist()

        client.async_infer("b", tensors(value), keep, client_timeout=LONG_S)
    assert until(lambda: here.waiting() == 7)
    here.server.process.send_signal(signal.SIGTERM)
    assert until(lambda: not connects(here.server.http))
    here.open()
    for value, request in enumerate(rest):
        status, answer, headers = request.answer()
        assert (status, answer["outputs"][0]["data"]) == (200, [2 * value] * 2) and headers["connection"] == "close"
    assert until(lambda: len(answers) == 3)
    assert answers == {value: [[2 * value] * 2] for value in range(5, 8)}
    assert here.server.process.wait(LONG_S) == 0
    assert len(here.server.lines) == 1, here.server.lines


def test_told_to_stop_with_a_model_that_does_not_answer(held: Callable[..., Held]) -> None:
    """Given a request that is not answered within the grace time -> exit code 1, in one line."""
    here = held("--grace", 0.2)
    here.close()
    request = Rest(here.server)
    here.until_runs(1)
    assert here.server.stop(signal.SIGINT) == 1
    assert until(lambda: len(here.server.lines) > 1)
    said = "exporter: 1 requests were not answered within the grace time; give a longer --grace"
    assert here.server.lines[-1] == said
    request.connection.close()


def connects(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=LONG_S).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("how", ["written over", "renamed"])
def test_a_new_version(make: Callable[..., Path], start: Callable[..., Any], tmp_path: Path, how: str) -> None:
    """Given a bundle that is replaced while requests go on -> all are answered, by the old one and then by the new."""
    folder = make(tmp_path / "b")
    server = start(folder, "--name", "b", "--access-log", "none", "--watch", "0.02")
    client = grpc.InferenceServerClient(server.grpc)
    wrong: list[Any] = []
    seen: set[float] = set()
    ends = threading.Event()

    def asks(by_grpc: bool) -> None:
        for value in itertools.cycle(range(1, 50)):
            if by_grpc:
                got = client.infer("b", tensors(value), client_timeout=LONG_S).as_numpy("y")[0].tolist()
            else:
                status, answer = server.ask("POST", INFER, body(value))
                got = answer["outputs"][0]["data"] if status == 200 else [status, answer]
            scale = got[0] / (2 * value)
            if got[0] != got[1] or scale not in (1, 2, 3):
                wrong.append(got)
            seen.add(scale)
            if ends.is_set():
                return

    threads = [threading.Thread(target=asks, args=(number % 2 == 0,)) for number in range(4)]
    for thread in threads:
        thread.start()
    try:
        for scale in (2, 3):
            assert until(lambda scale=scale: scale - 1 in seen or bool(wrong))  # type: ignore[misc]
            if how == "written over":
                make(folder, scale=scale, force=True)
            else:
                make(tmp_path / "next", scale=scale)
                os.replace(folder, tmp_path / f"old{scale}")
                os.replace(tmp_path / "next", folder)
        assert until(lambda: 3 in seen or bool(wrong))
    finally:
        ends.set()
        for thread in threads:
            thread.join(LONG_S)
        client.close()
    assert not wrong and seen == {1, 2, 3} and not any(thread.is_alive() for thread in threads)
    assert server.stop(signal.SIGHUP) == 0
    assert all("reloaded" in line for line in server.lines[1:]) and len(server.lines) == 3, server.lines


def test_a_link_to_the_current_version(make: Callable[..., Path], start: Callable[..., Any], tmp_path: Path) -> None:
    """Given a link as the bundle, which is then moved to another -> the other is served."""
    make(tmp_path / "one")
    make(tmp_path / "two", scale=2)
    link = tmp_path / "current"
    link.symlink_to("one")
    server = start(link, "--name", "b", "--access-log", "none", "--watch", "0.02")
    assert server.ask("POST", INFER, body())[1]["outputs"][0]["data"] == [2, 2]
    (tmp_path / "next").symlink_to("two")
    os.replace(tmp_path / "next", link)
    assert until(lambda: server.ask("POST", INFER, body())[1]["outputs"][0]["data"] == [4, 4])
    shutil.rmtree(tmp_path / "two")
    assert server.ask("POST", INFER, body())[0] == 200


def test_too_many_connections(make: Callable[..., Path], start: Callable[..., Any], tmp_path: Path) -> None:
    """Given as many connections as there may be -> one more is told so; one less, and the next is served."""
    server = start(make(tmp_path / "b"), "--max-connections", 2, "--access-log", "none", "--no-grpc")
    host, _, port = server.http.rpartition(":")
    idle = [socket.create_connection((host, int(port)), timeout=LONG_S) for _ in range(2)]
    assert until(lambda: server.ask("GET", "/v2/health/live")[0] == 503)
    assert server.ask("GET", "/v2/health/live") == (
        503,
        {"error": "this server takes 2 connections; try again later"},
    )
    for connection in idle:
        connection.close()
    assert until(lambda: server.ask("GET", "/v2/health/live")[0] == 200)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_port_that_is_taken(
    make: Callable[..., Path], start: Callable[..., Any], tmp_path: Path, protocol: str
) -> None:
    """Given a port that another program has -> exit code 2, in one line with the remedy."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = start(make(tmp_path / "b"), f"--{protocol}-port", port)
        assert server.process.wait(LONG_S) == 2
    (line,) = server.lines
    assert line.startswith("exporter: ") and f"cannot listen on 127.0.0.1:{port}" in line and "give another" in line


def test_a_port_that_another_took_meanwhile() -> None:
    """Given a port that another began to listen on while models were loaded -> the sentence of one that is taken."""
    with socket.socket() as first, socket.socket() as second:
        for each in (first, second):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            each.bind(("127.0.0.1", 0) if each is first else first.getsockname())
        options = ServeOptions(http_port=first.getsockname()[1])
        _listen(first, options)
        with pytest.raises(EngineError, match=r"^HTTP cannot listen on .* \(Address already in use\); give another"):
            _listen(second, options)


def test_nothing_to_serve(make: Callable[..., Path], start: Callable[..., Any], tmp_path: Path) -> None:
    """Given a damaged bundle -> exit code 2, in one line."""
    folder = make(tmp_path / "b")
    (folder / "model.onnx").write_bytes(b"broken")
    server = start(folder)
    assert server.process.wait(LONG_S) == 2
    assert "model.onnx has 6 bytes" in server.lines[-1] and server.lines[-1].startswith("exporter: ")


def test_without_the_libraries(make: Callable[..., Path], tmp_path: Path) -> None:
    """Given no KServe -> exit code 2, in one line that says what to install."""
    program = "import sys; sys.modules['kserve'] = None; from plainconv.exporter.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "serve", str(make(tmp_path / "b"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LONG_S)
    assert done.returncode == 2 and done.stderr.endswith("pip install 'plainconv[serve]'\n")
    assert done.stderr.startswith("exporter: the server cannot be imported") and done.stderr.count("\n") == 1
