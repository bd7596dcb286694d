"""One line of JSON for each request, written by a thread of its own: a slow disk or a full pipe holds up no request.

Keys: time, protocol, method, path, status, ms, client; where they are known model, id, bytes_in, bytes_out, rows,
queue_ms, compute_ms, batch_rows; trace_id, span_id and tracestate of the sender's trace (W3C Trace Context). What could
not be written in time is dropped and counted in a line of its own.
"""

import contextlib
import contextvars
import datetime
import json
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

from plainconv.exporter.errors import EngineError

Facts = dict[str, Any]
_MOST_LINES = 65536
_EVERY_S = 0.2
_TRACE = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?")
_MOST_STATE = 512
_facts: contextvars.ContextVar[Facts] = contextvars.ContextVar("facts")


@contextlib.contextmanager
def facts() -> Iterator[Facts]:
    """What is found out about a request while it is handled, in this task and what it calls."""
    found: Facts = {}
    token = _facts.set(found)
    try:
        yield found
    finally:
        _facts.reset(token)


def note(**found: Any) -> None:
    """Add to what is known of the request that is handled; outside of one, nothing."""
    current = _facts.get(None)
    if current is not None:
        current.update(found)


def trace_of(headers: Iterable[tuple[str, str]]) -> Facts:
    """The trace that a request is part of, by its headers; nothing where they name none."""
    found = {name: value for name, value in headers if name in ("traceparent", "tracestate")}
    parent = _TRACE.fullmatch(found.get("traceparent", ""))
    if parent is None or not parent[1].strip("0") or not parent[2].strip("0"):
        return {}
    state = found.get("tracestate", "")
    more = {"tracestate": state} if state.isprintable() and 0 < len(state) <= _MOST_STATE else {}
    return {"trace_id": parent[1], "span_id": parent[2], **more}


class AccessLog:
    """Writes to a file, to stderr ("-"), or nowhere (""). Close it to have everything written."""

    def __init__(self, target: str) -> None:
        """Raises EngineError where the file cannot be opened."""
        self._lines: deque[Facts] = deque()
        self._dropped = 0
        self._end = threading.Event()
        self._file: TextIO | None = None
        if target == "-":
            self._file = sys.stderr
        elif target:
            try:
                self._file = open(target, "a", encoding="utf-8")  # noqa: SIM115
            except OSError as error:
                raise EngineError(f"{target}: no access log can be written there ({error.strerror})") from None
        self._thread = threading.Thread(target=self._write_all, args=(self._file,), name="access-log", daemon=True)
        if self._file:
            self._thread.start()

    def add(self, line: Facts) -> None:
        """Have a line written, soon."""
        if self._file is None:
            return
        if len(self._lines) >= _MOST_LINES:
            self._dropped += 1
            return
        self._lines.append({"time": time.time(), **line})

    def close(self, timeout_s: float = 5.0) -> None:
        """Write what is left, but do not wait for a reader that does not read. Closing twice does nothing."""
        if self._file is None:
            return
        self._end.set()
        self._thread.join(timeout_s)
        self._file = None

    def _write_all(self, file: TextIO) -> None:
        while not self._end.wait(_EVERY_S):
            self._write(file)
        self._write(file)
        if file is not sys.stderr:
            with contextlib.suppress(OSError):  # what could not be written before
                file.close()

    def _write(self, file: TextIO) -> None:
        text = [_text(self._lines.popleft()) for _ in range(len(self._lines))]
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            text.append(_text({"time": time.time(), "dropped_lines": dropped}))
        if text:
            try:
                file.write("".join(text))
                file.flush()
            except (OSError, ValueError):  # a full disk, a reader that left: requests matter more
                self._dropped += len(text)


def _text(line: Facts) -> str:
    when = datetime.datetime.fromtimestamp(line["time"], datetime.UTC)
    return json.dumps(line | {"time": when.isoformat(timespec="milliseconds")}) + "\n"
