"""HTTP connections, on a transport that a test holds both ends of."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

uvicorn = pytest.importorskip("uvicorn")
pytest.importorskip("h11")

from uvicorn.server import ServerState  # noqa: E402

from plainconv.engines.serving.rest import protocol as http_protocol  # noqa: E402
from plainconv.engines.serving.rest.protocol import LimitedProtocol  # noqa: E402

LONG_S = 60.0
GET = b"GET /a HTTP/1.1\r\nhost: x\r\n"
CHUNKED = b"POST /wait HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
FRAMED = "the chunks' lines and trailers are longer than what they carry"


class Transport(asyncio.Transport):
    """Keeps what is written; `ended` is that no more will be, `reads` that what comes is taken."""

    def __init__(self) -> None:
        super().__init__()
        self.written, self.closed, self.ended, self.reads = b"", False, False, True

    def write(self, data: Any) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = self.ended = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Says the path, at once; of /wait once the body has ended."""
    if scope["path"] == "/wait":
        while (message := await receive()).get("more_body"):
            pass
        if message["type"] == "http.disconnect":
            return
    body = scope["path"].encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


def talk(*data: bytes, application: Any = app) -> Transport:
    """What the connection says to these pieces."""

    async def talked() -> Transport:
        protocol, transport = new(application)
        for piece in data:
            if transport.closed or not transport.reads:
                break
            protocol.data_received(piece)
            for _ in range(4):
                await asyncio.sleep(0)
        seen, reads = transport.ended, transport.reads
        protocol.connection_lost(ConnectionResetError())
        transport.ended, transport.reads = seen, reads
        return transport

    return asyncio.run(talked())


def new(application: Any = app) -> tuple[LimitedProtocol, Transport]:
    config = uvicorn.Config(
        application, http=LimitedProtocol, ws="none", lifespan="off", log_config=None, access_log=False
    )
    config.load()
    transport = Transport()
    protocol = LimitedProtocol(config=config, server_state=ServerState(), app_state={})
    protocol.connection_made(transport)
    return protocol, transport


def refused(transport: Transport) -> tuple[int, str]:
    """The status and the sentence of the last answer, after which nothing is read."""
    head, _, body = transport.written.partition(b"\r\n\r\n")
    assert transport.ended and (transport.closed or not transport.reads) and b"connection: close" in head
    return int(head.split()[1]), json.loads(body)["error"]


def test_requests_one_after_the_other() -> None:
    """Given requests of one connection, in any pieces -> each its answer, and the connection stays."""
    transport = talk(GET[:5], GET[5:] + b"\r\n", b"GET /b HTTP/1.1\r\nhost: x\r\n\r\n")
    assert transport.written.count(b"HTTP/1.1 200") == 2 and not transport.ended
    assert transport.written.endswith(b"/b")
    empty_lines = talk(b"\r", b"\n\r\n" + GET + b"\r\n\r\n", b"\r\n\r", b"\n" + GET + b"\r\n")
    assert empty_lines.written.count(b"HTTP/1.1 ") == 2 and not empty_lines.ended


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ([b"\0\1"], "the request is not HTTP as this server reads it"),
        ([CHUNKED, b"0\r\n", *[b"a: b\r\n" * 1000] * 20], FRAMED),
        ([CHUNKED + b"0\r\n" + b"a: b\r\n" * 1000 + b"\r\n"], FRAMED),
        ([CHUNKED + b"1;", *[b"e" * 5000] * 20], FRAMED),
        ([CHUNKED, *[b"1;" + b"e" * 3000 + b"\r\nx\r\n"] * 20], FRAMED),
        ([CHUNKED, *[b"1\r\nx\r\n" * 300] * 5], "the chunks carry less than 64 bytes each; send larger ones"),
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


def test_a_bad_request_behind_a_good_one() -> None:
    """Given both in one piece -> the good one has its answer, then the bad one its refusal."""
    transport = talk(GET + b"\r\nGET /b HTTP/1.1\r\n\r\n")
    first, _, second = transport.written.partition(b"/a")
    assert first.startswith(b"HTTP/1.1 200") and second.startswith(b"HTTP/1.1 400") and not transport.reads


async def unauthorized(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body"})


@pytest.mark.parametrize("head", [CHUNKED, GET + b"content-length: 100000000\r\n\r\n"])
def test_one_who_may_not_ask(head: bytes) -> None:
    """Given 401 before a body has ended -> it is the connection's last answer, and nothing more is read."""
    transport = talk(head, application=unauthorized)
    assert b"401" in transport.written and b"connection: close" in transport.written
    assert transport.ended and not transport.reads


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
        protocol, transport = new(slow)
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
    for pieces, is_closed in ((16, False), (17, True)):
        transport = talk(POST, *[mib] * pieces)
        assert b"connection: close" in transport.written and transport.ended and transport.closed == is_closed


def test_a_reader_that_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given an answer that is not taken -> the connection is cut after a while."""
    monkeypatch.setattr(http_protocol, "WRITE_TIMEOUT_S", 0.01)

    async def waits() -> None:
        protocol, transport = new()
        protocol.data_received(GET + b"\r\n")
        protocol.pause_writing()
        await until(lambda: transport.closed)
        protocol.connection_lost(None)

    asyncio.run(waits())


@pytest.mark.parametrize("sent", [[], [GET], [GET + b"\r\n", GET], [GET + b"\r\n", b"\r\n"], [POST, b"x"]])
def test_one_that_does_not_go_on(sent: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a connection that stops before a head, in it, or in a body that is answered -> closed after a while."""
    monkeypatch.setattr(http_protocol, "HEAD_TIMEOUT_S", 0.01)
    monkeypatch.setattr(http_protocol, "LINGER_S", 0.01)

    async def waits() -> None:
        protocol, transport = new()
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
