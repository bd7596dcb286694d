"""What TensorRT says while it works, kept line by line, and the one line of it that tells what went wrong."""

import contextlib
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

_IN_LOG = ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO")
_ERRORS = ("INTERNAL_ERROR", "ERROR")


@dataclass(frozen=True)
class LogLine:
    """One message; `severity` is INTERNAL_ERROR, ERROR, WARNING, INFO or VERBOSE."""

    severity: str
    text: str


@functools.cache
def log_of(trt: ModuleType) -> Any:
    """The ILogger of this process, whose `recording()` gathers lines: TensorRT ignores a second one."""

    class Log(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._recordings: tuple[list[LogLine], ...] = ()

        def log(self, severity: Any, msg: str) -> None:
            for lines in self._recordings:
                lines.append(LogLine(severity.name, msg.strip()))

        @contextlib.contextmanager
        def recording(self) -> Iterator[list[LogLine]]:
            lines: list[LogLine] = []
            self._recordings = (*self._recordings, lines)
            try:
                yield lines
            finally:
                self._recordings = tuple(other for other in self._recordings if other is not lines)

    return Log()


def text_of(lines: list[LogLine]) -> str:
    """The log as it is kept beside an engine: everything but VERBOSE."""
    return "".join(f"[{line.severity}] {line.text}\n" for line in lines if line.severity in _IN_LOG)


def warnings_of(lines: list[LogLine]) -> tuple[str, ...]:
    """Each warning once, and each error: where an engine was built all the same, they say that a tactic was skipped."""
    return tuple(dict.fromkeys(one_line(line.text) for line in lines if line.severity in ("WARNING", *_ERRORS)))


def first_error(lines: list[LogLine]) -> str:
    """The error that says what is wrong, without the C++ around it.

    A machine without a driver adds an error of its own to every other; that one tells nothing.
    """
    errors = [line.text for line in lines if line.severity in _ERRORS]
    telling = [text for text in errors if "catchCudaError" not in text] or errors
    if not telling:
        return "it does not say why (TensorRT talks to the first logger of a process, which was another)"
    text = re.sub(r"\.? *\bIn \w+ at \S+:\d+", "", " ".join(telling[0].split()))
    text = re.sub(r"^.*?Error Code \d+: [^(]*\((.*?)\)?$", r"\1", text)
    return one_line(re.sub(r"^\[[^]]*\] ", "", text)).strip(". ")


def one_line(text: str) -> str:
    """A message of several lines as one of at most 400 characters."""
    return " ".join(text.split())[:400]
