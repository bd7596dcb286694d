"""What every HTTP request passes: the token, the counters, the access log, and one form for everything that is refused.

Plain ASGI around the routes. The form is {"error": "one sentence"}; what is unexpected is written to the log, and its
sender is told no more than that it happened.
"""

import json
import logging
import time
from collections.abc import Awaitable, Callable, Collection
from http import HTTPStatus

from ..access_log import AccessLog, facts, trace_of
from ..auth import Bearer
from ..refusals import FailedError, RefusedError
from ..service import Service
from .body import Message, Receive, Scope, Send

_log = logging.getLogger("plainconv.serving")
OPEN_PATHS = frozenset({"/v2/health/live", "/v2/health/ready"})
"""What a probe may ask without the token."""
_LONGEST_PATH = 2048

Application = Callable[[Scope, Receive, Send], Awaitable[None]]


class Guard:
    """The routes `app`, guarded."""

    def __init__(
        self,
        app: Application,
        service: Service,
        bearer: Bearer,
        log: AccessLog,
        open_paths: Collection[str] = OPEN_PATHS,
    ) -> None:
        """`open_paths` are answered without the token."""
        self._open_paths = open_paths
        self._app, self._service, self._bearer, self._log = app, service, bearer, log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request. Never raises for what a request can cause."""
        if scope["type"] != "http":
            return
        answer = _Answer(send, self._service)
        start = time.monotonic()
        trace = trace_of((n.decode("latin-1"), v.decode("latin-1")) for n, v in scope["headers"] if n[:5] == b"trace")
        with facts() as known, self._service.request():
            try:
                await self._guarded(scope, receive, answer)
            finally:
                self._service.metrics.answered("http", str(answer.status))
                self._log.add(
                    {
                        "protocol": "http",
                        "method": scope["method"],
                        "path": scope["path"][:_LONGEST_PATH],
                        "status": answer.status,
                        "ms": round((time.monotonic() - start) * 1e3, 3),
                        "client": (scope.get("client") or ("",))[0],
                        "bytes_out": answer.size,
                        **trace,
                        **known,
                    }
                )

    async def _guarded(self, scope: Scope, receive: Receive, answer: "_Answer") -> None:
        try:
            if scope["path"] not in self._open_paths:
                given = [value for name, value in scope["headers"] if name == b"authorization"]
                self._bearer.check(given[0] if len(given) == 1 else None)
            await self._app(scope, receive, answer.send)
        except RefusedError as error:
            await answer.refuse(error)
        except Exception:
            _log.exception("a request met a fault of the server")
            await answer.refuse(FailedError("the server failed on this request"))


class _Answer:
    """What is sent for one request: its status and size; while the server drains, the connection's last."""

    def __init__(self, send: Send, service: Service) -> None:
        self._send, self._service = send, service
        self.status, self.size = 0, 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if self._service.draining:
                message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
        else:
            self.size += len(message.get("body", b""))
        await self._send(message)

    async def refuse(self, error: RefusedError) -> None:
        """Say why, unless an answer has begun; that one then ends too early, which its reader sees."""
        if self.status:
            return
        status, headers, body = refusal(error.http, str(error))
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})


def refusal(status: int, sentence: str) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Status, headers and body of an answer that is no result."""
    body = json.dumps({"error": sentence}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    if status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        headers.append((b"retry-after", b"1"))
    if status == HTTPStatus.UNAUTHORIZED:
        headers.append((b"www-authenticate", b"Bearer"))
    return status, headers, body
