"""Progress of long work, on stderr: a bar on a terminal, plain lines elsewhere. Every room may import this file."""

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress

LINE_EVERY_S = 10.0  # off a terminal: at most one line in this many seconds, besides the last

_quiet = False
_display: "Progress | None" = None


class Bar(Protocol):
    """What `track` hands out."""

    def advance(self, steps: float = 1, note: str = "") -> None:
        """Count `steps` more units as done; `note` is shown behind them."""


class _Silent:
    def advance(self, steps: float = 1, note: str = "") -> None:
        pass


class _Lines:
    def __init__(self, what: str, total: float | None, unit: str) -> None:
        self.what, self.total, self.unit = what, total, unit
        self.done, self.note, self.started = 0.0, "", time.monotonic()
        self.last = self.started

    def advance(self, steps: float = 1, note: str = "") -> None:
        self.done += steps
        self.note = note or self.note
        if time.monotonic() - self.last >= LINE_EVERY_S:
            self.last = time.monotonic()
            self.line()

    def line(self) -> None:
        of = f"/{self.total:g}" if self.total is not None else ""
        seconds = time.monotonic() - self.started
        note = f" · {self.note}" if self.note else ""
        print(f"{self.what}: {self.done:g}{of} {self.unit}, {seconds:.1f} s{note}", file=sys.stderr, flush=True)


def be_quiet(quiet: bool = True) -> None:
    """Show nothing from here on (the command line's --quiet and --json)."""
    global _quiet
    _quiet = quiet


@contextlib.contextmanager
def track(what: str, total: float | None = None, unit: str = "step") -> Iterator[Bar]:
    """Show the progress of `what`: `total` units of work, or an unknown number if None.

    Given a terminal on stderr → a bar that disappears into one finished line. Given a pipe or a file → a plain line at
    most every ten seconds and one at the end. The bar is closed whichever way the block is left.
    """
    if _quiet:
        yield _Silent()
    elif sys.stderr.isatty():
        with _terminal_bar(what, total) as bar:
            yield bar
    else:
        lines = _Lines(what, total, unit)
        yield lines
        lines.line()


@contextlib.contextmanager
def _terminal_bar(what: str, total: float | None) -> Iterator[Bar]:
    """A bar on the terminal's one live display; work within other work gets a line of its own below it."""
    with contextlib.ExitStack() as stack:
        shown = _display if _display is not None else stack.enter_context(_live_display())
        task = shown.add_task(what, total=total, note="")

        class Shown:
            def advance(self, steps: float = 1, note: str = "") -> None:
                shown.advance(task, steps)
                if note:
                    shown.update(task, note=note)

        yield Shown()
        if total is None:
            shown.update(task, total=1, completed=1)


@contextlib.contextmanager
def _live_display() -> "Iterator[Progress]":
    global _display
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[note]}"), console=Console(stderr=True)) as shown:
        _display = shown
        try:
            yield shown
        finally:
            _display = None
