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
_WIDENED = re.compile(r"Converting conv (activation|weight) scales to fp32")
_NO_MEMORY = re.compile(r"out of memory|outofmemory|bad_alloc|could not be allocated", re.IGNORECASE)
_NO_WORKSPACE = re.compile(r"workspace limit|increas\w+ the (allowed )?workspace", re.IGNORECASE)


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
    """Each warning once, and each error: where an engine was built all the same, they say that a tactic was skipped.

    That scales of half precision are widened, which changes none, is left out.
    """
    texts = (one_line(line.text) for line in lines if line.severity in ("WARNING", *_ERRORS))
    return tuple(dict.fromkeys(text for text in texts if not _WIDENED.search(text)))


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


def why_not_built(lines: list[LogLine]) -> str:
    """Why a build failed, and what to do about it."""
    errors = " ".join(line.text for line in lines if line.severity in _ERRORS)
    if _NO_WORKSPACE.search(errors):
        return f"its layers do not fit the workspace ({first_error(lines)}); give a larger workspace, or no limit"
    if _NO_MEMORY.search(errors):
        return f"out of memory ({first_error(lines)}); close other programs, or give smaller largest shapes"
    return f"{first_error(lines)}; give other --targets, or --engine none"


def why_not_loaded(lines: list[LogLine]) -> str:
    """Why the bytes of an engine were refused, and what to do about it."""
    if _NO_MEMORY.search(" ".join(line.text for line in lines if line.severity in _ERRORS)):
        return f"out of memory ({first_error(lines)}); free memory of the GPU"
    return f"{first_error(lines)}; build it again with `exporter build`"


def one_line(text: str) -> str:
    """A message of several lines as one of at most 400 characters."""
    return " ".join(text.split())[:400]
