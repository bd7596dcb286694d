"""HTTP connections, on a transport that a test holds both ends of."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

uvicorn = pytest.importorskip("uvicorn")
pytest.importorskip("httptools")

from uvicorn.server import ServerState  # noqa: E402

from plainconv.engines.serving.rest import protocol as http_protocol  # noqa: E402
from plainconv.engines.serving.rest.protocol import LimitedProtocol, protocol_of  # noqa: E402

LONG_S = 60.0
GET = b"GET /a HTTP/1.1\r\nhost: x\r\n"


class Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written, self.closed = b"", False

    def write(self, data: Any) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        """Nothing is read here."""

    resume_reading = pause_reading


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Says the path, at once."""
    body = scope["path"].encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


def talk(*data: bytes, kind: type[LimitedProtocol] = LimitedProtocol, connections: int = 1) -> Transport:
    """What the connection says to these pieces."""

    async def talked() -> Transport:
        transport = new(kind, connections)[1]
        for piece in data:
            if transport.closed:
                break
            transport.protocol.data_received(piece)  # type: ignore[attr-defined]
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        transport.protocol.connection_lost(ConnectionResetError())  # type: ignore[attr-defined]
        return transport

    return asyncio.run(talked())


def new(kind: type[LimitedProtocol], connections: int = 1) -> tuple[LimitedProtocol, Transport]:
    config = uvicorn.Config(app, http=kind, ws="none", lifespan="off", log_config=None, access_log=False)
    config.load()
    state, transport = ServerState(), Transport()
    made = [kind(config=config, server_state=state, app_state={}) for _ in range(connections)]
    for protocol in made:
        protocol.connection_made(transport if protocol is made[-1] else Transport())
    for other in made[:-1]:
        other._stop_timer()
    transport.protocol = made[-1]  # type: ignore[attr-defined]
    return made[-1], transport


def refused(transport: Transport) -> tuple[int, str]:
    head, _, body = transport.written.partition(b"\r\n\r\n")
    assert transport.closed and b"connection: close" in head
    return int(head.split()[1]), json.loads(body)["error"]


def test_requests_one_after_the_other() -> None:
    """Given requests of one connection, in any pieces -> each its answer, and the connection stays."""
    transport = talk(GET[:5], GET[5:] + b"\r\n", b"GET /b HTTP/1.1\r\nhost: x\r\n\r\n")
    assert transport.written.count(b"HTTP/1.1 200") == 2 and not transport.closed
    assert transport.written.endswith(b"/b")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ([b"\0\1"], "the request is not HTTP as this server reads it"),
        ([GET + b"a: b\r\n" * 200 + b"\r\n"], "the request has 201 headers, wanted up to 128"),
        ([GET + b"a: " + b"x" * 70_000 + b"\r\n\r\n"], "the headers are longer than 65536 bytes"),
        ([GET, *[b"a: " + b"x" * 1000 + b"\r\n"] * 80], "the headers are longer than 65536 bytes"),
        ([b"GET /" + b"x" * 66_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n"], "the headers are longer than 65536 bytes"),
        ([b"GET /", *[b"x" * 10_000] * 10], "the headers are longer than 65536 bytes"),
    ],
)
def test_a_head_that_is_none(data: list[bytes], said: str) -> None:
    """Given too much before a body, in any pieces -> 400, one sentence, and the connection is closed."""
    assert refused(talk(*data)) == (400, said)


def test_too_many_connections() -> None:
    """Given one connection more than there may be -> 503 to its first request."""
    two = protocol_of(2)
    assert b"200" in talk(GET + b"\r\n", kind=two, connections=2).written
    said = "this server takes 2 connections; try again later"
    assert refused(talk(GET + b"\r\n", kind=two, connections=3)) == (503, said)


def test_a_client_that_left(caplog: pytest.LogCaptureFixture) -> None:
    """Given requests one behind the other whose sender leaves -> none is written to, or begun; no stack is logged."""
    begun = []

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        begun.append(scope["path"])
        assert (await receive())["type"] == "http.request"
        assert (await receive())["type"] == "http.disconnect"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"late"})

    async def leaves() -> Transport:
        protocol, transport = new(LimitedProtocol)
        protocol.app = slow
        protocol.data_received(GET + b"\r\n" + b"GET /b HTTP/1.1\r\nhost: x\r\n\r\n")
        await asyncio.sleep(0)
        protocol.connection_lost(None)
        await asyncio.wait(protocol.tasks, timeout=LONG_S)
        return transport

    assert not asyncio.run(leaves()).written and begun == ["/a"] and not caplog.records


POST = b"POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 100000000\r\n\r\n"


def test_a_body_after_its_answer() -> None:
    """Given a body that nobody wants any more -> it is read for a while, then the connection is closed."""
    mib = bytes(2**20)
    assert not talk(POST, *[mib] * 16).closed
    assert talk(POST, *[mib] * 17).closed


@pytest.mark.parametrize("sent", [[], [GET], [GET + b"\r\n", GET], [POST, b"x"]])
def test_one_that_does_not_go_on(sent: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a connection that stops before a head, in it, or in a body that is answered -> closed after a while."""
    monkeypatch.setattr(http_protocol, "HEAD_TIMEOUT_S", 0.01)

    async def waits() -> None:
        protocol, transport = new(LimitedProtocol)
        for piece in sent:
            protocol.data_received(piece)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        await until(lambda: transport.closed)
        protocol.connection_lost(None)

    asyncio.run(waits())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(LONG_S):
        while not condition():
            await asyncio.sleep(0.005)
