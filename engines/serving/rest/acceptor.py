"""Taking connections: counted from their first moment, before a TLS handshake, and bounded, a peer's share too."""

import asyncio
import collections
import contextlib
import functools
import socket
from collections.abc import Callable
from typing import Any

from ..refusals import UnavailableError
from ..service import KEPT
from ..tls import Certificates
from .guard import refusal
from .protocol import LINGER_S

HANDSHAKE_TIMEOUT_S = 10.0
_AT_ONCE = 64
_PAUSE_S = 0.1  # where the system has no more file handles


class Acceptor:
    """Takes the connections of a socket that listens, `most` at a time, and gives each a protocol of `make`.

    One beyond is told so, where it can be without a handshake, and closed. A handshake is with the newest certificate.
    """

    def __init__(self, listener: socket.socket, most: int, certificates: Certificates | None = None) -> None:
        self._listener, self._most, self._certificates = listener, most, certificates
        self._held: collections.Counter[str] = collections.Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._make: Callable[[], Any] | None = None

    def start(self, make: Callable[[], Any]) -> None:
        """Take those that come."""
        self._make = make
        asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def stop(self) -> None:
        """Take no further connection. Stopping twice does nothing."""
        if self._make is not None:
            self._make = None
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                connection, address = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:
                self._pause()
                return
            peer = address[0] if isinstance(address, tuple) else ""
            if sum(self._held.values()) >= self._most or self._held[peer] >= self._most - self._most // KEPT:
                self._refuse(connection)
                continue
            self._held[peer] += 1
            connection.setblocking(False)
            task = asyncio.ensure_future(self._connected(connection, peer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _connected(self, connection: socket.socket, peer: str) -> None:
        make = self._make
        protocol = make() if make else None

        @functools.cache  # once, whichever of both ends it
        def release() -> None:
            self._held[peer] -= 1
            if not self._held[peer]:
                del self._held[peer]

        timeouts = {"ssl_handshake_timeout": HANDSHAKE_TIMEOUT_S, "ssl_shutdown_timeout": LINGER_S}
        try:
            if protocol is None:
                raise ConnectionAbortedError
            protocol.on_lost = release
            loop, context = asyncio.get_running_loop(), self._certificates.context if self._certificates else None
            await loop.connect_accepted_socket(
                lambda: protocol, connection, ssl=context, **(timeouts if context else {})
            )
        except (TimeoutError, OSError):  # no handshake: an SSLError is an OSError
            release()
            connection.close()

    def _refuse(self, connection: socket.socket) -> None:
        """Say why, as the connection's only answer: its request is not read."""
        with contextlib.suppress(OSError), connection:
            if self._certificates is None:
                error = UnavailableError(f"this server takes {self._most} connections; try again later")
                status, headers, body = refusal(error.http, str(error))
                head = b"".join(b"%b: %b\r\n" % pair for pair in (*headers, (b"connection", b"close")))
                connection.setblocking(False)
                connection.send(b"HTTP/1.1 %d Service Unavailable\r\n%b\r\n%b" % (status, head, body))

    def _pause(self) -> None:
        """Leave those that wait where they are for a moment."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._listener)
        loop.call_later(_PAUSE_S, lambda: self._make and loop.add_reader(self._listener, self._accept))
