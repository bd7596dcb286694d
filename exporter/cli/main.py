"""The command line: its commands, and the exit codes.

A command is a module here with `SUMMARY`, `add_arguments(parser)` and `run(args)`; what it needs is imported when it
runs.
"""

import _thread
import atexit
import contextlib
import gc
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from ..errors import PlainconvError
from ..memory import keep_freed
from ..progress import be_quiet
from ..version import __version__
from ..wheels import collision, missing
from . import bench, build, export, inspect, models, predict, report, run, serve, simplify, split, triton, validate
from . import eval as evaluate
from .arguments import Parser

COMMANDS = (
    run, export, build, validate, inspect, report, predict, evaluate, split, simplify, bench, triton, serve, models,
)  # fmt: skip
INTERRUPTED = 130
TERMINATED = 143
CLOSED = 141  # as a program that SIGPIPE ends
INTERNAL = 70  # EX_SOFTWARE: a fault of ours
YOUNG = 50_000
"""Objects between two searches for cycles: at Python's own 700, these take a quarter of the time that imports take."""
KEPT = 1 << 29
"""Bytes that stay with a process that has freed them: the next evaluation's maps are as large as the last one's, and to
get them from the system once more, page by page, took a sixth of a run."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 a check failed, 2 bad input, 130 interrupted, 143 ended."""
    _hold_standard_streams()
    args = parser().parse_args(argv)
    be_quiet(args.quiet or args.json)
    if found := collision():
        print(f"exporter: warning: {found}", file=sys.stderr)
    if args.run is not serve.run:
        keep_freed(KEPT)
    told_to_end: list[int] = []
    try:
        with _no_interrupt_lost(), _ended_as_interrupted(told_to_end), _rarely_collected(args.run is serve.run):
            args.run(args)
        sys.stdout.flush()
        return 0
    except BrokenPipeError:  # the reader has seen enough, as in `exporter models | head`
        _forget_stdout()
        return CLOSED
    except (Exception, KeyboardInterrupt) as error:
        code, message = _in_one_line(error)
        if code == INTERRUPTED and told_to_end:
            code = TERMINATED
        elif args.debug and code != INTERRUPTED:
            raise
        print(f"exporter: {message}".replace("\n", " "), file=sys.stderr)
        return code


def _hold_standard_streams() -> None:
    """Have /dev/null where a standard stream is closed: else the next file gets its number, and what is said there."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115


def _in_one_line(error: BaseException) -> tuple[int, str]:
    """The exit code and what to say."""
    if _is_interrupt(error):
        return INTERRUPTED, "interrupted; nothing half-made was left behind"
    if isinstance(error, PlainconvError):
        return error.exit_code, str(error)
    if isinstance(error, ImportError) and error.name == "onnxruntime":
        return 2, missing(error)
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return 1, "out of memory; close other programs, or take a smaller network or input"
    if isinstance(error, OSError) and error.filename is None and error.errno is not None:
        _forget_stdout()
        return 2, f"the output cannot be written ({error.strerror}); see where it goes to"
    return INTERNAL, f"internal error: {type(error).__name__}: {error}; --debug shows where"


def _is_interrupt(error: BaseException | None) -> bool:
    """Whether a Ctrl-C is behind `error`: a library that is interrupted while it is imported raises ImportError."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


@contextlib.contextmanager
def _ended_as_interrupted(told: list[int]) -> Iterator[None]:
    """A SIGTERM cleans up as a Ctrl-C does; `told` gets its number. Outside of the main thread there are no signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: Any) -> NoReturn:
        told.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _no_interrupt_lost() -> Iterator[None]:
    """Send a Ctrl-C again that met a callback of a weak reference: Python prints it there and carries on."""
    before = sys.unraisablehook

    def hook(lost: Any) -> None:
        if lost.exc_type is KeyboardInterrupt:
            threading.Timer(0.01, _thread.interrupt_main).start()
        else:
            before(lost)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


@contextlib.contextmanager
def _rarely_collected(serves: bool) -> Iterator[None]:
    """Let Python look for cycles seldom, but in a server, which would gather those of its requests.

    And not at all once the process ends: that takes a second of what PyTorch has imported.
    """
    atexit.register(gc.freeze)
    before = gc.get_threshold()
    gc.set_threshold(*(before if serves else (YOUNG, *before[1:])))
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def _forget_stdout() -> None:
    """Keep what is still buffered from failing again when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def parser() -> Parser:
    """What parses a command line: `parse_args(...).run` is the command's function."""
    whole = Parser(prog="exporter", description="A training-time network in; a verified ONNX graph and engine out.")
    whole.add_argument("--version", action="version", version=f"plainconv {__version__}")
    commands = whole.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)
    for command in COMMANDS:
        name, does = command.__name__.rpartition(".")[2], command.SUMMARY
        sub = commands.add_parser(name, help=does, description=f"{does[0].upper()}{does[1:]}.")
        sub.set_defaults(run=command.run)
        sub.add_argument("--json", action="store_true", help="print the result as JSON")
        sub.add_argument("--quiet", action="store_true", help="show no progress")
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
        command.add_arguments(sub)
    return whole
