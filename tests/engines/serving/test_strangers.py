"""A server among strangers: what one connection, or one peer, can hold of it.."""

import collections
import contextlib
import json
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

grpc = pytest.importorskip("tritonclient.grpc")
LONG_S = 60.0
MIB = 2**20
TOKEN = "0123456789abcdef"
BODY = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]})
HEAD = b"POST /v2/models/b/infer HTTP/1.1\r\nhost: x\r\n"


def memory(server: Any) -> float:
    """What it holds, in MiB."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+)", status)
    assert found
    return int(found[1]) / 1024


def connect(server: Any) -> socket.socket:
    host, _, port = server.http.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=LONG_S)


@pytest.fixture(scope="module")
def guarded(run_server: Callable[..., Any], bundle_of: Callable[..., Path], tmp_path_factory: Any) -> Iterator[Any]:
    """A server that wants a token."""
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "token").write_text(TOKEN)
    options = ("--token-file", folder / "token", "--access-log", "none", "--max-body", 1)
    with run_server(bundle_of(folder / "b"), "--name", "b", *options) as server:
        assert server.http, server.lines
        yield server


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (b"transfer-encoding: chunked\r\n\r\n0\r\n", b"a: b\r\n" * 10_000),
        (b"transfer-encoding: chunked\r\n\r\n1;", b"e" * 60_000),
        (b"transfer-encoding: chunked\r\n\r\n", b"1;" + b"e" * 50_000 + b"\r\nx\r\n"),
        (b"transfer-encoding: chunked\r\n\r\n", b"ea60\r\n" + b"x" * 60_000 + b"\r\n"),
        (b"content-length: 60000000\r\n\r\n", b"x" * 60_000),
        (b"", b"a: " + b"x" * 60_000 + b"\r\n"),
    ],
)
def test_one_without_a_token(guarded: Any, head: bytes, piece: bytes) -> None:
    """Given 36 MiB of trailers, chunk lines, chunks, a body or headers -> it is cut off, and memory stays flat."""
    before, sent = memory(guarded), 0
    with connect(guarded) as connection, contextlib.suppress(OSError):
        connection.sendall(HEAD + head)
        for _ in range(600):
            connection.sendall(piece)
            sent += len(piece)
    assert sent < 16 * MIB and memory(guarded) - before < 8
    assert guarded.ask("POST", "/v2/models/b/infer", BODY, {"authorization": f"Bearer {TOKEN}"})[0] == 200


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One of HTTP/2."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def call(method: bytes) -> bytes:
    """A connection's begin, with the headers of a call."""
    texts = (b":method", b"POST", b":scheme", b"http", b":path", method, b":authority", b"x", b"te", b"trailers")
    texts += (b"content-type", b"application/grpc")
    pairs = zip(texts[::2], texts[1::2], strict=True)
    head = b"".join(b"\0%c%b%c%b" % (len(name), name, len(value), value) for name, value in pairs)
    return b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0) + frame(1, 4, 1, head)


def test_one_without_a_token_over_grpc(guarded: Any) -> None:
    """Given a call without a token, and no message -> it is told so."""
    host, _, port = guarded.grpc.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=LONG_S) as connection:
        connection.sendall(call(b"/inference.GRPCInferenceService/ModelInfer"))
        with connection.makefile("rb") as received:
            while (heading := received.read(9))[3:] != frame(1, 5, 1)[3:]:  # not the call's end
                assert heading
                received.read(int.from_bytes(heading[:3], "big"))


def test_headers_without_end(guarded: Any) -> None:
    """Given no token, and beside a call that needs none headers without end -> cut off, and the server goes on."""
    host, _, port = guarded.grpc.rpartition(":")
    before, sent = memory(guarded), 0
    endless = frame(9, 0, 3, b"\0\1a\x7e" + b"x" * 126) * 1000
    with socket.create_connection((host, int(port)), timeout=LONG_S) as connection, contextlib.suppress(OSError):
        connection.sendall(call(b"/grpc.health.v1.Health/Watch") + frame(0, 1, 1, bytes(5)) + frame(1, 0, 3))
        while sent < 400 * MIB:
            connection.sendall(endless)
            sent += len(endless)
    assert sent < 400 * MIB and memory(guarded) - before < 64
    assert guarded.ask("POST", "/v2/models/b/infer", BODY, {"authorization": f"Bearer {TOKEN}"})[0] == 200


def test_bodies_that_are_announced_alone(make: Callable[..., Path], start: Callable[..., Any], tmp_path: Path) -> None:
    """Given as many connections that announce all of the memory -> who sends is answered meanwhile."""
    server = start(make(tmp_path / "b"), "--name", "b", "--max-pending", 64, "--access-log", "none", "--no-grpc")
    with contextlib.ExitStack() as held:
        for _ in range(17):
            connection = held.enter_context(connect(server))
            connection.sendall(HEAD + b"content-length: 67108864\r\n\r\n")
        time.sleep(0.2)
        assert server.ask("POST", "/v2/models/b/infer", BODY)[0] == 200
    assert memory(server) < 400


def test_a_peer_that_fills_its_share(make: Callable[..., Path], start: Callable[..., Any], tmp_path: Path) -> None:
    """Given a peer that sends what it announces and does not end -> it is told so; another is answered."""
    server = start(make(tmp_path / "b"), "--name", "b", "--max-pending", 8, "--access-log", "none", "--no-grpc")
    host, _, port = server.http.rpartition(":")
    with contextlib.ExitStack() as held:
        greedy = [held.enter_context(connect(server)) for _ in range(4)]
        for connection in greedy:
            connection.sendall(HEAD + b"content-length: 4000000\r\n\r\n" + bytes(2 * MIB))
        answers = [connection for connection in greedy if _is_answered(connection)]
        assert answers and all(b"429" in connection.recv(100) for connection in answers)
        other = held.enter_context(socket.create_connection((host, int(port)), LONG_S, ("127.0.0.2", 0)))
        other.sendall(HEAD + b"connection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(BODY), BODY.encode()))
        assert other.recv(100).startswith(b"HTTP/1.1 200")


def _is_answered(connection: socket.socket) -> bool:
    connection.settimeout(1.0)
    with contextlib.suppress(TimeoutError):
        return bool(connection.recv(1, socket.MSG_PEEK))
    return False


class Clients:
    """gRPC clients that ask one after the other until they are told that the server stops."""

    def __init__(self, address: str, count: int) -> None:
        self.address, self.outcomes = address, collections.Counter[str]()
        self.threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(count)]
        for thread in self.threads:
            thread.start()

    def _ask(self) -> None:
        tensor = grpc.InferInput("x", [1, 4], "FP32")
        tensor.set_data_from_numpy(np.ones((1, 4), np.float32))
        own = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.InferenceServerClient(self.address, channel_args=own) as client:
            for _ in range(100_000):
                try:
                    client.infer("b", [tensor], client_timeout=LONG_S)
                    self.outcomes["OK"] += 1
                except grpc.InferenceServerException as error:
                    self.outcomes[str(error.status())] += 1
                    if "about to stop" not in str(error):  # it is stubborn
                        return


def test_a_server_that_stops(make: Callable[..., Path], start: Callable[..., Any], tmp_path: Path) -> None:
    """Given SIGTERM while 16 clients ask on and on -> not ready first, then UNAVAILABLE, none CANCELLED."""
    server = start(make(tmp_path / "b"), "--name", "b", "--access-log", "none", "--lame-duck", 1)
    clients = Clients(server.grpc, 16)
    _until(lambda: clients.outcomes["OK"] > 100)
    server.process.send_signal(signal.SIGTERM)
    _until(lambda: server.ask("GET", "/v2/health/ready")[0] == 503)
    answered = clients.outcomes["OK"]
    assert server.ask("POST", "/v2/models/b/infer", BODY)[0] == 200 and set(clients.outcomes) == {"OK"}
    _until(lambda: clients.outcomes["OK"] > answered)
    assert server.process.wait(LONG_S) == 0
    for thread in clients.threads:
        thread.join(LONG_S)
    assert set(clients.outcomes) == {"OK", "StatusCode.UNAVAILABLE"}, clients.outcomes


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
