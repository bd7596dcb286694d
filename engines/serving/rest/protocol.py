"""HTTP connections as uvicorn handles them over h11, with bounds in bytes and time for every state of one.

A head has so much time, from the connection's begin or its own; between two requests uvicorn's keep-alive counts. Of a
body nothing is read ahead of what the routes take, and `read_body` bounds that. An answer goes on as long as its reader
reads. Once a request is answered before its end, or refused, what still comes is dropped unparsed for a while; from one
who may not ask, nothing more is read.
"""

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from ..refusals import BadRequestError
from .guard import refusal
from .strict import StrictConnection

MOST_UNREAD = 16 * 2**20  # of a body whose answer has been given, to a sender who may ask
HEAD_TIMEOUT_S = 30.0
WRITE_TIMEOUT_S = 60.0  # without a byte taken
LINGER_S = 2.0  # for an answer to arrive before its connection is cut
_CLOSE = (b"connection", b"close")


def _nothing() -> None:
    """Nobody is told."""


class Ending:
    """A transport whose `close` lets the last answer arrive: a socket closed on what it has not read is reset."""

    def __init__(self, transport: Any, end: Callable[[], None], has_ended: Callable[[], bool]) -> None:
        self.close, self.is_closing = end, has_ended
        self.write = transport.write
        self.pause_reading, self.resume_reading = transport.pause_reading, transport.resume_reading
        self.get_extra_info = transport.get_extra_info


class LimitedProtocol(H11Protocol):
    """One connection. `on_lost` is called once it is gone."""

    on_lost: Callable[[], None] = staticmethod(_nothing)

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.conn: StrictConnection = StrictConnection()
        self._application, self.app = self.app, self._answered
        self._ending, self._may_ask, self._unread = False, True, 0
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def connection_made(self, transport: Any) -> None:
        """A connection has so long to begin its first request."""
        self._socket = transport
        super().connection_made(Ending(transport, self._end, self._has_ended))  # type: ignore[arg-type]
        self._start("head", HEAD_TIMEOUT_S)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        for name in list(self._timers):
            self._stop(name)
        self._unset_keepalive_if_required()
        self._ending = True
        super().connection_lost(exc)
        self.on_lost()

    def data_received(self, data: bytes) -> None:
        """Parse what arrives; once the connection ends, count it, for so long."""
        if not self._ending:
            super().data_received(data)
            self._mind_head(has_begun=True)
            return
        self._unread += len(data)
        if self._unread > MOST_UNREAD:
            self._socket.abort()

    def on_response_complete(self) -> None:
        """An answer has been sent; before its request has ended, it is the connection's last."""
        super().on_response_complete()
        if not self._ending:
            self._mind_head()

    def send_400_response(self, msg: str) -> None:
        """Say what is wrong, unless an answer has begun, and end the connection; nothing more is read from it."""
        cycle = self.cycle
        is_answering = cycle is not None and not cycle.response_complete
        if not (is_answering and cycle.response_started):
            error = self.conn.refusal or BadRequestError("the request is not HTTP as this server reads it")
            status, headers, body = refusal(error.http, str(error))
            head = b"".join(b"%b: %b\r\n" % pair for pair in (*headers, _CLOSE))
            self.transport.write(b"HTTP/1.1 %d %b\r\n%b\r\n%b" % (status, STATUS_PHRASES[status], head, body))
        self._may_ask = False
        if is_answering:
            cycle.disconnected = True
            cycle.message_event.set()
        self.transport.close()

    def shutdown(self) -> None:
        """The server ends."""
        if not self._ending:
            super().shutdown()

    def pause_writing(self) -> None:
        """A reader that takes nothing is waited for so long."""
        super().pause_writing()
        self._start("write", WRITE_TIMEOUT_S)

    def resume_writing(self) -> None:
        """It reads again."""
        self._stop("write")
        super().resume_writing()

    async def _answered(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request, as long as there is someone to send to."""
        cycle = self.cycle

        async def sent(message: Any) -> None:
            if self._ending:
                cycle.disconnected = True
            elif message["type"] == "http.response.start" and self.conn.their_state is h11.SEND_BODY:
                self._may_ask = message["status"] != HTTPStatus.UNAUTHORIZED
                message["headers"] = [*(pair for pair in message["headers"] if pair != _CLOSE), _CLOSE]
            await send(message)

        await self._application(scope, receive, sent)
        if cycle.response_started and not cycle.response_complete:  # its reader took too long
            cycle.disconnected = True
            self._socket.abort()

    def _mind_head(self, *, has_begun: bool = False) -> None:
        """Give a head so much time from its first byte; the first of a connection from the connection's."""
        if self.conn.their_state is not h11.IDLE:
            self._stop("head")
        elif "head" not in self._timers and not self._ending and (has_begun or self.conn.trailing_data[0]):
            self._unset_keepalive_if_required()
            self._start("head", HEAD_TIMEOUT_S)

    def _has_ended(self) -> bool:
        return self._ending or self._socket.is_closing()

    def _end(self) -> None:
        """End the connection once what was written has left, or LINGER_S are over."""
        if self._ending:
            return
        self._ending = True
        self._stop("head")
        self._unset_keepalive_if_required()
        self._start("end", LINGER_S)
        if self.conn.their_state in (h11.SEND_BODY, h11.ERROR) and not self._socket.is_closing():
            if self._may_ask:
                self.flow.resume_reading()
            else:
                self.flow.pause_reading()
            if self._socket.can_write_eof():
                self._socket.write_eof()
        else:
            self._socket.close()

    def _start(self, name: str, seconds: float) -> None:
        self._stop(name)
        self._timers[name] = self.loop.call_later(seconds, self._too_slow)

    def _stop(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()

    def _too_slow(self) -> None:
        self._ending = True
        self._socket.abort()
