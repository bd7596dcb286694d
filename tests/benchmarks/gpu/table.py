"""The table: a row is skipped with its reason, measured, or wrong. Written as it goes."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


class Skipped(Exception):  # noqa: N818
    """Why a row cannot be measured here."""


@dataclass(frozen=True)
class Row:
    """A group of rows, the name of this one, and what measures it: gives the cells, or raises `Skipped`."""

    group: str
    name: str
    measure: Callable[[], str]


class Table:
    """Prints rows, and appends them to a file once one of them was measured."""

    def __init__(self, title: str, file: Path, ends: float) -> None:
        self._file, self._ends = file, ends
        self._waiting = ["", f"## {title}", "", "| group | row | result |", "|---|---|---|"]
        self._measured = self._skipped = self._failed = 0
        for line in self._waiting[1:]:
            print(line, flush=True)

    def add(self, row: Row, missing: str | None) -> None:
        """Measure a row. Raises what it raises; `Skipped` where the GPU is missing, or the time is over."""
        if missing:
            raise Skipped(missing)
        if time.monotonic() > self._ends:
            raise Skipped("no time left")
        result = row.measure()
        self._measured += 1
        self._write(row, result)

    def skip(self, row: Row, reason: str) -> None:
        """A row that cannot be measured here."""
        self._skipped += 1
        self._write(row, f"skipped: {reason}")

    def fail(self, row: Row, reason: str) -> None:
        """A row that is wrong."""
        self._failed += 1
        self._write(row, f"**wrong**: {reason}")

    def end(self) -> int:
        """Print how many there were; the exit code."""
        print(f"\n{self._measured} measured, {self._failed} wrong, {self._skipped} skipped")
        return 1 if self._failed else 0

    def _write(self, row: Row, result: str) -> None:
        line = f"| {row.group} | {row.name} | {' '.join(result.split()).replace('|', '/')} |"
        print(line, flush=True)
        self._waiting.append(line)
        if self._measured or self._failed:
            with self._file.open("a", encoding="utf-8") as file:
                file.write("".join(f"{waiting}\n" for waiting in self._waiting))
            self._waiting.clear()
