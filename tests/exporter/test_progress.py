"""Progress off a terminal; what it looks like on one is in test_cli."""

import pytest

from plainconv.exporter import progress
from plainconv.exporter.progress import be_quiet, track


def test_pipe_gets_one_line_at_the_end(capsys):
    with track("training", total=3, unit="steps") as bar:
        bar.advance(2, note="loss 0.31")
        bar.advance()
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert line.startswith("training: 3/3 steps, ")
    assert line.endswith(" s · loss 0.31")


def test_pipe_gets_a_line_whenever_the_time_is_over(capsys, monkeypatch):
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)
    with track("reading") as bar:
        bar.advance()
        bar.advance()
    assert [line.split(" step")[0] for line in capsys.readouterr().err.splitlines()] == [
        "reading: 1",
        "reading: 2",
        "reading: 2",
    ]


def test_failure_ends_without_a_line(capsys):
    with pytest.raises(RuntimeError), track("reading"):
        raise RuntimeError
    assert capsys.readouterr().err == ""


def test_quiet_says_nothing(capsys):
    be_quiet()
    try:
        with track("reading", total=1) as bar:
            bar.advance(note="note")
    finally:
        be_quiet(False)
    assert capsys.readouterr().err == ""


def test_work_within_work_shares_one_display(capsys, monkeypatch):
    """Given two nested bars on a terminal → one live display, closed with the outer one, also by an exception."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with pytest.raises(KeyboardInterrupt), track("outer", total=2):
        shown = progress._display
        with track("inner") as inner:
            inner.advance(note="half way")
            assert progress._display is shown
            assert [task.description for task in shown.tasks] == ["outer", "inner"]
        assert shown.tasks[1].finished
        raise KeyboardInterrupt
    assert progress._display is None
    assert not shown.live.is_started
