"""Taking connections, on loopback."""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvicorn")

from plainconv.engines.serving.rest import acceptor as taking
from plainconv.engines.serving.rest.acceptor import Acceptor
from plainconv.engines.serving.tls import Certificates

LONG_S = 60.0


class Echo(asyncio.Protocol):
    """Sends back what comes."""

    on_lost: Callable[[], None]

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.on_lost()


def run(test: Callable[[Acceptor, int], Awaitable[None]], most: int, certificates: Any = None) -> None:
    async def runs() -> None:
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        acceptor = Acceptor(listener, most, certificates)
        port = listener.getsockname()[1]
        acceptor.start(Echo)
        try:
            async with asyncio.timeout(LONG_S):
                await test(acceptor, port)
        finally:
            acceptor.stop()
            acceptor.stop()

    asyncio.run(runs())


def connect(port: int, source: str = "127.0.0.1") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), LONG_S, source_address=(source, 0))
    connection.setblocking(False)
    return connection


async def said(connection: socket.socket) -> bytes:
    return await asyncio.get_running_loop().sock_recv(connection, 1000)


async def is_served(connection: socket.socket) -> bool:
    loop = asyncio.get_running_loop()
    with contextlib.suppress(ConnectionError):
        await loop.sock_sendall(connection, b"ping")
        return await loop.sock_recv(connection, 1000) == b"ping"
    return False


def test_more_than_there_may_be() -> None:
    """Given as many connections as there may be -> one more is told so; one less, and the next is served."""

    async def test(acceptor: Acceptor, port: int) -> None:
        held = [connect(port) for _ in range(2)]
        assert [await is_served(each) for each in held] == [True, True]
        with connect(port) as beyond:
            assert b"503" in (answer := await said(beyond)) and b"this server takes 2 connections" in answer
        held.pop().close()
        while True:
            with connect(port) as another:
                if await is_served(another):
                    break
        held.pop().close()

    run(test, 2)


def test_a_peer_that_wants_all() -> None:
    """Given a peer with three quarters of the places -> the rest is another's."""

    async def test(acceptor: Acceptor, port: int) -> None:
        with contextlib.ExitStack() as held:
            mine = [held.enter_context(connect(port)) for _ in range(8)]
            assert [await is_served(each) for each in mine] == [True] * 6 + [False] * 2
            assert await is_served(held.enter_context(connect(port, "127.0.0.2")))

    run(test, 8)


def test_handshakes_that_do_not_come(
    monkeypatch: pytest.MonkeyPatch, certificate: Callable[[Path], Certificates], tmp_path: Path
) -> None:
    """Given connections that do not begin their handshake -> they take places, and lose them after a while."""
    monkeypatch.setattr(taking, "HANDSHAKE_TIMEOUT_S", 0.2)

    async def test(acceptor: Acceptor, port: int) -> None:
        with contextlib.ExitStack() as held:
            silent = [held.enter_context(connect(port)) for _ in range(3)]
            while sum(acceptor._held.values()) < 3:
                await asyncio.sleep(0.01)
            assert await said(held.enter_context(connect(port))) == b""
            assert [await said(each) for each in silent] == [b""] * 3
            while acceptor._held:
                await asyncio.sleep(0.01)

    run(test, 4, certificate(tmp_path))
