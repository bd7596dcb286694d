"""The command line. It sees every room, and imports one only when a command needs it."""

import _thread
import argparse
import ast
import contextlib
import json
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from . import simplify_command
from .errors import CheckFailedError, PlainconvError, PlainconvWarning, SourceError
from .progress import be_quiet

if TYPE_CHECKING:
    from .bundle import Bundle

INTERRUPTED = 130
CLOSED = 141  # as a program that SIGPIPE ends
INTERNAL = 70  # EX_SOFTWARE: a fault of ours

MAX_SIZE = 2**31 - 1  # of an axis, in TensorRT


class _Parser(argparse.ArgumentParser):
    """Reports a bad argument in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 a check failed, 2 bad input, 130 interrupted."""
    args = _parser().parse_args(argv)
    be_quiet(args.quiet or args.json)
    try:
        command: Callable[[argparse.Namespace], None] = args.command
        with _no_interrupt_lost():
            command(args)
        sys.stdout.flush()
        return 0
    except BrokenPipeError:  # the reader has seen enough, as in `exporter models | head`
        _forget_stdout()
        return CLOSED
    except (Exception, KeyboardInterrupt) as error:
        code, message = _in_one_line(error)
        if args.debug and code != INTERRUPTED:
            raise
        print(f"exporter: {message}".replace("\n", " "), file=sys.stderr)
        return code


def _in_one_line(error: BaseException) -> tuple[int, str]:
    """The exit code and what to say."""
    if _is_interrupt(error):
        return INTERRUPTED, "interrupted; nothing half-made was left behind"
    if isinstance(error, PlainconvError):
        return error.exit_code, str(error)
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


def _forget_stdout() -> None:
    """Keep what is still buffered from failing again when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# ------------------------------------------------------------------ arguments


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="exporter", description="A training-time network in; a verified ONNX graph and engine out.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)

    run = _command(commands, "run", _run, "export, build and validate: SOURCE to a verified bundle with an engine")
    _source_arguments(run)
    _engine_arguments(run)

    export = _command(commands, "export", _export, "SOURCE to a bundle with a verified plain ONNX graph")
    _source_arguments(export)

    build = _command(commands, "build", _build, "build an engine for a bundle")
    build.add_argument("bundle", type=Path, metavar="BUNDLE")
    _engine_arguments(build)
    build.add_argument("--dynamic-batch", type=_batch_range, metavar="MIN:OPT:MAX", help="the batch sizes it takes")

    validate = _command(commands, "validate", _validate, "verify a bundle's files and measure its parity again")
    validate.add_argument("bundle", type=Path, metavar="BUNDLE")
    validate.add_argument("--eval-data", type=Path, metavar="FILE.npz", help=_EVAL_DATA)

    inspect = _command(commands, "inspect", _inspect, "print what a bundle holds, once it is verified")
    inspect.add_argument("bundle", type=Path, metavar="BUNDLE")

    simplify = _command(commands, "simplify", simplify_command.run, "one ONNX file to the smallest that computes it")
    simplify_command.add_arguments(simplify)

    _command(commands, "models", _models, "list the networks of the catalogue")
    return parser


_EVAL_DATA = "labelled images (arrays images [N,C,H,W] and labels [N]): report accuracy at every step"


def _command(commands: Any, name: str, function: Callable[[argparse.Namespace], None], summary: str) -> _Parser:
    parser: _Parser = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
    parser.set_defaults(command=function)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _source_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", metavar="SOURCE", help="catalogue name, timm:NAME, FILE.py:CALLABLE, module:CALLABLE or FILE.onnx"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="BUNDLE", help="the bundle folder to write")
    parser.add_argument("--force", action="store_true", help="replace the bundle that is there")
    weights = parser.add_argument_group("weights")
    weights.add_argument("--checkpoint", type=Path, metavar="FILE", help=".pth, .pt or .safetensors")
    weights.add_argument("--ema", action=argparse.BooleanOptionalAction, help="take the averaged weights, or do not")
    weights.add_argument("--layout", choices=("auto", "training", "deploy"), default="auto", help="its form")
    weights.add_argument("--slope", type=float, metavar="S", help="deep-training slope, 0 to 1")
    weights.add_argument("--random-init", type=int, metavar="SEED", help="random weights instead")
    weights.add_argument(
        "--set", action="append", default=[], type=_option, metavar="NAME=VALUE", help="network option"
    )
    graph = parser.add_argument_group("graph")
    graph.add_argument("--input-shape", type=_shape, metavar="N,C,H,W", help="the shape to export at")
    graph.add_argument("--dynamic-batch", type=_batch_range, metavar="MIN:OPT:MAX", help="keep the batch size open")
    graph.add_argument("--opset", type=int, metavar="N", help="ONNX operator set (default 20; FILE.onnx keeps its own)")
    parser.add_argument("--eval-data", type=Path, metavar="FILE.npz", help=_EVAL_DATA)
    parser.add_argument(
        "--skip-end-to-end", action="store_true", help="do not compare at other sizes (huge networks); it is recorded"
    )


def _engine_arguments(parser: argparse.ArgumentParser) -> None:
    engine = parser.add_argument_group("engine")
    engine.add_argument("--engine", choices=("auto", "tensorrt", "tensorrt_rtx", "none"), default="auto")
    engine.add_argument("--targets", type=_names, default=(), metavar="sm80,sm86,…", help="GPUs (TensorRT-RTX)")


def _shape(text: str) -> tuple[int, ...]:
    try:
        shape = tuple(int(part) for part in text.split(","))
    except ValueError:
        shape = ()
    if len(shape) < 2 or not all(1 <= size <= MAX_SIZE for size in shape):
        raise argparse.ArgumentTypeError(f"{text!r} is not a shape; wanted positive integers like 1,3,224,224")
    return shape


def _batch_range(text: str) -> tuple[int, int, int]:
    try:
        low, best, high = (int(part) for part in text.split(":"))
    except ValueError:
        low, best, high = 0, 0, 0
    if not 1 <= low <= best <= high <= MAX_SIZE:
        raise argparse.ArgumentTypeError(f"{text!r} is not a batch range; wanted MIN:OPT:MAX like 1:8:32")
    return low, best, high


def _names(text: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in text.split(","))
    if not all(names):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of names; wanted some like sm80,sm86")
    return tuple(dict.fromkeys(names))


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} is not an option; wanted NAME=VALUE like num_classes=10")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


# ------------------------------------------------------------------ commands


def _run(args: argparse.Namespace) -> None:
    from .pipeline import export_bundle

    if args.engine == "none" and args.targets:
        raise SourceError("both --targets and --engine none given; wanted one of them")
    with _only_our_words():
        bundle = export_bundle(_job(args), engine=args.engine, targets=args.targets)
    _show_certified(args, bundle)


def _export(args: argparse.Namespace) -> None:
    from .pipeline import export_bundle

    with _only_our_words():
        bundle = export_bundle(_job(args), engine="none", targets=())
    _show_certified(args, bundle)


def _job(args: argparse.Namespace) -> Any:
    from .network import Request
    from .pipeline import Job

    request = Request(
        checkpoint=args.checkpoint,
        ema=args.ema,
        layout=args.layout,
        slope=args.slope,
        random_init=args.random_init,
        options=dict(args.set),
        input_shape=args.input_shape,
    )
    return Job(
        source=args.source,
        request=request,
        target=args.output,
        force=args.force,
        dynamic_batch=args.dynamic_batch,
        opset=args.opset,
        eval_data=args.eval_data,
        end_to_end=not args.skip_end_to_end,
    )


def _build(args: argparse.Namespace) -> None:
    from .rooms import room

    with _only_our_words():
        room("engines").build(args.bundle, engine=args.engine, targets=args.targets, dynamic_batch=args.dynamic_batch)
    _show(args, args.bundle)


def _validate(args: argparse.Namespace) -> None:
    from .pipeline import validate_bundle

    with _only_our_words():
        failed = validate_bundle(args.bundle, eval_data=args.eval_data)
    if failed:
        _show(args, args.bundle)
        raise CheckFailedError(f"{failed[0]}{f' (and {len(failed) - 1} more)' if failed[1:] else ''}")
    _show_certified(args, args.bundle)


def _inspect(args: argparse.Namespace) -> None:
    _show(args, args.bundle)


def _models(args: argparse.Namespace) -> None:
    from .rooms import room

    rows = [
        {
            "name": e.name,
            "family": e.family,
            "parameters": e.params_training,
            "parameters_plain": e.params_plain,
            "input": list(e.input_shape),
        }
        for e in room("models").entries().values()
    ]
    if args.json:
        print(json.dumps(rows, indent=2))
    else:
        from .table import models_table

        models_table(rows)


def _show_certified(args: argparse.Namespace, path: Path) -> None:
    """Show the bundle. Raises CheckFailedError for a parity in it that nothing certifies."""
    for parity in _show(args, path).manifest.parities:
        if parity["status"].startswith("not certified"):
            raise CheckFailedError(f"{path} was written, but {parity['step']} is {parity['status']}")


def _show(args: argparse.Namespace, path: Path) -> "Bundle":
    from .bundle import Bundle
    from .table import as_json, bundle_table

    bundle = Bundle.open(path)
    if args.json:
        print(json.dumps(as_json(bundle), indent=2))
    else:
        bundle_table(bundle)
    return bundle


@contextlib.contextmanager
def _only_our_words() -> Iterator[None]:
    """Our warnings as one line each on stderr, no one else's; what a user's network prints stays out of stdout."""

    def show(message: Warning | str, *_: Any) -> None:
        print(f"exporter: warning: {message}".replace("\n", " "), file=sys.stderr)

    with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", PlainconvWarning)
        warnings.showwarning = show  # type: ignore[assignment]
        yield
