"""One line of JSON for each request."""

import json
import os
import threading
from pathlib import Path

import pytest

from plainconv.engines.serving import access_log
from plainconv.engines.serving.access_log import AccessLog, facts, note, trace_of
from plainconv.exporter.errors import EngineError

LONG_S = 60.0


def test_lines(tmp_path: Path) -> None:
    """Given what was found out about a request -> a line of JSON, whatever is in it."""
    log = AccessLog(str(tmp_path / "log"))
    with facts() as known:
        note(model="m", id='a"\n{')
        log.add({"path": "/\n", **known})
    note(model="another")  # outside of a request: nothing
    log.close()
    log.close()
    log.add({"path": "late"})
    (line,) = (tmp_path / "log").read_text().splitlines()
    found = json.loads(line)
    assert {k: found[k] for k in ("path", "model", "id")} == {"path": "/\n", "model": "m", "id": 'a"\n{'}
    assert found["time"].endswith("+00:00")


def test_what_is_noted_stays_with_its_request() -> None:
    with facts() as outer:
        with facts() as inner:
            note(a=1)
        note(b=2)
    assert (outer, inner) == ({"b": 2}, {"a": 1})


def test_no_log(tmp_path: Path) -> None:
    log = AccessLog("")
    log.add({"path": "/"})
    log.close()
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="no access log can be written there"):
        AccessLog(str(tmp_path / "none" / "log"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_reader_that_does_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a full pipe -> lines beyond the most that are kept are dropped; nobody waits for the reader."""
    monkeypatch.setattr(access_log, "_MOST_LINES", 5000)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    log = AccessLog(str(pipe))
    adding = threading.Thread(target=lambda: [log.add({"path": "x" * 50}) for _ in range(50_000)])
    adding.start()
    adding.join(LONG_S)
    assert not adding.is_alive()
    os.set_blocking(reader, True)
    ending = threading.Thread(target=log.close, args=(LONG_S,))
    ending.start()
    with open(reader, encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    ending.join(LONG_S)
    dropped = sum(line.get("dropped_lines", 0) for line in lines)
    assert dropped >= 40_000 and sum("path" in line for line in lines) + dropped == 50_000


def test_a_trace() -> None:
    """Given the headers of a trace -> its ids; of none, or what is none, nothing."""
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    ids = {"trace_id": "0af7651916cd43dd8448eb211c80319c", "span_id": "b7ad6b7169203331"}
    assert trace_of([("traceparent", parent), ("other", "x")]) == ids
    assert trace_of([("traceparent", parent), ("tracestate", "a=1")]) == ids | {"tracestate": "a=1"}
    for state in ("", "a\nb", "x" * 513):
        assert trace_of([("traceparent", parent), ("tracestate", state)]) == ids
    for wrong in ("", "x", parent.upper(), parent[:-1], "ff" + parent[2:], f"00-{'0' * 32}-b7ad6b7169203331-01"):
        assert trace_of([("traceparent", wrong)]) == {}
