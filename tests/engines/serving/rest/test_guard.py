"""What every HTTP request passes."""

import asyncio
import json
import logging
from collections.abc import Mapping
from typing import Any

import pytest

from plainconv.engines.serving.access_log import AccessLog
from plainconv.engines.serving.auth import Bearer
from plainconv.engines.serving.options import ServeOptions
from plainconv.engines.serving.refusals import BadRequestError, TooManyError, UnauthorizedError
from plainconv.engines.serving.rest.guard import Guard
from plainconv.engines.serving.service import Service

TOKEN = "0123456789abcdef"


class Counts:
    """Metrics that keep what they are told."""

    def __init__(self) -> None:
        self.answers: list[tuple[str, str]] = []

    def answered(self, protocol: str, status: str) -> None:
        self.answers.append((protocol, status))


class Log(AccessLog):
    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def add(self, line: dict[str, Any]) -> None:
        self.lines.append(line)


class Guarded:
    """A guard of an application that sends `body`, or raises `error` before or after it has begun to."""

    def __init__(self, error: Exception | None = None, *, token: str = "", begun: bool = False) -> None:
        self.error, self.begun, self.sent = error, begun, list[dict[str, Any]]()
        self.counts, self.log = Counts(), Log()
        self.service = Service(None, ServeOptions(), self.counts)  # type: ignore[arg-type]
        self.guard = Guard(self._app, self.service, Bearer(token), self.log, {"/open"})

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        assert self.service.under_way == 1
        if self.error is None or self.begun:
            await send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]})
        if self.error:
            raise self.error
        await send({"type": "http.response.body", "body": b"abc"})

    def ask(self, path: str = "/v2", headers: Mapping[str, str] | None = None) -> tuple[int, dict[bytes, bytes], bytes]:
        async def send(message: Any) -> None:
            self.sent.append(message)

        pairs = [(k.lower().encode(), v.encode()) for k, v in (headers or {}).items()]
        scope = {"type": "http", "method": "GET", "path": path, "headers": pairs, "client": ("127.0.0.9", 1)}
        asyncio.run(self.guard(scope, None, send))  # type: ignore[arg-type]
        start, *rest = self.sent
        return start["status"], dict(start["headers"]), b"".join(m.get("body", b"") for m in rest)


def test_an_answer() -> None:
    """Given an answer -> it is sent as it is, counted, and written down."""
    here = Guarded()
    assert here.ask() == (200, {b"a": b"b"}, b"abc")
    (line,) = here.log.lines
    assert here.counts.answers == [("http", "200")] and (here.service.under_way, here.service.handled) == (0, 1)
    known = {"protocol": "http", "method": "GET", "path": "/v2", "status": 200, "client": "127.0.0.9", "bytes_out": 3}
    assert known.items() <= line.items() and line["ms"] >= 0


def test_one_that_is_refused() -> None:
    """Given RefusedError -> its status, and its sentence as JSON."""
    here = Guarded(TooManyError('a "sentence"'))
    status, headers, body = here.ask()
    assert status == 429 and json.loads(body) == {"error": 'a "sentence"'}
    assert headers[b"retry-after"] == b"1" and headers[b"content-type"] == b"application/json"
    assert int(headers[b"content-length"]) == len(body)


def test_a_fault(caplog: pytest.LogCaptureFixture) -> None:
    """Given any other exception -> 500 without its words, which the log has."""
    here = Guarded(RuntimeError("/secret/path"))
    with caplog.at_level(logging.ERROR, "plainconv.serving"):
        status, _, body = here.ask()
    assert status == 500 and json.loads(body) == {"error": "the server failed on this request"}
    assert "/secret/path" in caplog.text and here.counts.answers == [("http", "500")]


def test_an_answer_that_has_begun() -> None:
    """Given what is refused in the middle of an answer -> no second one."""
    here = Guarded(BadRequestError("late"), begun=True)
    assert here.ask()[0] == 200 and len(here.sent) == 1


@pytest.mark.parametrize("given", [{}, {"Authorization": "Bearer no"}, {"authorization": f"Basic {TOKEN}"}])
def test_the_token(given: dict[str, str]) -> None:
    """Given a token that is wanted -> nothing without it, but what is open."""
    status, headers, body = Guarded(token=TOKEN).ask(headers=given)
    assert status == UnauthorizedError.http and headers[b"www-authenticate"] == b"Bearer" and TOKEN not in body.decode()
    assert Guarded(token=TOKEN).ask("/open", given)[0] == 200
    assert Guarded(token=TOKEN).ask(headers={"Authorization": f"Bearer {TOKEN}"})[0] == 200


def test_while_it_drains() -> None:
    """Given a server that is about to stop -> the answer, as the connection's last."""
    here = Guarded()
    here.service.draining = True
    assert here.ask() == (200, {b"a": b"b", b"connection": b"close"}, b"abc")


def test_what_is_no_request() -> None:
    here = Guarded()
    asyncio.run(here.guard({"type": "websocket"}, None, None))  # type: ignore[arg-type]
    assert not here.sent and not here.counts.answers


def test_a_long_path_is_cut_in_the_log() -> None:
    here = Guarded()
    here.ask("/" + "x" * 10_000)
    assert len(here.log.lines[0]["path"]) == 2048
