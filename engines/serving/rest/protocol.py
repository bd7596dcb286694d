"""HTTP connections as uvicorn handles them, with limits on what comes before and after a request, in our form."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from ..refusals import BadRequestError, RefusedError, UnavailableError
from .guard import refusal

MOST_HEAD = 64 * 1024
MOST_HEADERS = 128
MOST_UNREAD = 16 * 2**20  # of a body whose answer has been given
HEAD_TIMEOUT_S = 30.0


class LimitedProtocol(HttpToolsProtocol):
    """Refuses a head (request line and headers) that is too large, has too many headers, or does not end in time.

    What is left of a body when its answer is given is read, so that the answer arrives, but not for long.
    """

    most_connections = 2**31
    _in_head = True
    _begun = False
    _head = 0
    _unread = 0
    _refused: RefusedError | None = None
    _answered: Any = None
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """A connection has so long to begin its first request."""
        super().connection_made(transport)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more, and nothing that waits behind another is begun."""
        self._stop_timer()
        self.pipeline.clear()
        if self._answered is not None:
            self._answered.disconnected = True  # uvicorn tells the last request alone
            self._answered.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what arrives while a head is not complete."""
        self._begun = False
        super().data_received(data)
        if self._in_head and not self._begun:
            self._head += len(data)
            if self._head > MOST_HEAD and not self.transport.is_closing():
                self._refused = BadRequestError(f"the headers are longer than {MOST_HEAD} bytes")
                self.send_400_response("")

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        self._in_head, self._begun, self._head, self._unread = True, True, 0, 0
        if self._timer is None:
            self._start_timer()

    def on_headers_complete(self) -> None:
        """A head ends. Raises RefusedError, at which the parser stops, where it or one connection more is too much."""
        self._stop_timer()
        self._in_head = False
        if len(self.connections) > self.most_connections:
            self._refused = UnavailableError(f"this server takes {self.most_connections} connections; try again later")
        elif len(self.headers) > MOST_HEADERS:
            self._refused = BadRequestError(f"the request has {len(self.headers)} headers, wanted up to {MOST_HEADERS}")
        elif len(self.url) + sum(len(n) + len(v) for n, v in self.headers) > MOST_HEAD:
            self._refused = BadRequestError(f"the headers are longer than {MOST_HEAD} bytes")
        if self._refused:
            raise self._refused
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Bound what comes for nobody, in bytes and time."""
        super().on_body(body)
        if self.cycle.response_complete:
            self._unread += len(body)
            if self._timer is None:
                self._start_timer()
            if self._unread > MOST_UNREAD:
                self.transport.close()

    def on_message_complete(self) -> None:
        """A request has ended."""
        super().on_message_complete()
        self._stop_timer()

    def send_400_response(self, msg: str) -> None:
        """Say what is wrong, and close the connection."""
        error = self._refused or BadRequestError("the request is not HTTP as this server reads it")
        status, headers, body = refusal(error.http, str(error))
        head = b"".join(b"%b: %b\r\n" % pair for pair in (*headers, (b"connection", b"close")))
        self.transport.write(STATUS_LINE[status] + head + b"\r\n" + body)
        self.transport.close()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        """Answer a request, as long as there is someone to send to."""
        self._answered = cycle

        async def answered(scope: Any, receive: Any, send: Any) -> None:
            async def sent(message: Any) -> None:
                if self.transport.is_closing():
                    cycle.disconnected = True
                await send(message)

            await app(scope, receive, sent)

        super()._start_asgi_task(cycle, answered)

    def _start_timer(self) -> None:
        self._timer = self.loop.call_later(HEAD_TIMEOUT_S, self._too_slow)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        self._timer = None
        if not self.transport.is_closing():
            self.transport.close()


def protocol_of(connections: int) -> type[LimitedProtocol]:
    """The protocol of a server that takes so many connections at a time."""
    return type("Protocol", (LimitedProtocol,), {"most_connections": connections})
