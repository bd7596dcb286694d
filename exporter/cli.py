"""The command line. It sees every room, and imports one only when a command needs it."""

import argparse
import ast
import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from .errors import PlainconvError
from .progress import be_quiet

INTERRUPTED = 130
INTERNAL = 70  # EX_SOFTWARE: a fault of ours


class _Parser(argparse.ArgumentParser):
    """Reports a bad argument in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 a check failed, 2 bad input, 130 interrupted."""
    args = _parser().parse_args(argv)
    be_quiet(args.quiet or args.json)
    try:
        command: Callable[[argparse.Namespace], int] = args.command
        return command(args)
    except PlainconvError as error:
        return _complain(args, error, error.exit_code)
    except KeyboardInterrupt:
        print("exporter: interrupted; nothing was left behind", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        return _complain(args, BrokenPipeError("the output was closed"), 1)
    except MemoryError as error:
        return _complain(args, error, 1, "out of memory; close other programs or take a smaller network")
    except Exception as error:
        return _complain(args, error, INTERNAL, f"internal error: {type(error).__name__}: {error}; --debug shows where")


def _complain(args: argparse.Namespace, error: Exception, code: int, message: str = "") -> int:
    if args.debug:
        raise error
    print(f"exporter: {message or error}".replace("\n", " "), file=sys.stderr)
    return code


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

    _command(commands, "models", _models, "list the networks of the catalogue")
    return parser


_EVAL_DATA = "labelled images (arrays images [N,C,H,W] and labels [N]): report accuracy at every step"


def _command(commands: Any, name: str, function: Callable[[argparse.Namespace], int], summary: str) -> _Parser:
    parser: _Parser = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
    parser.set_defaults(command=function)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _source_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", metavar="SOURCE", help="catalogue name, timm:NAME, FILE.py:CALLABLE or module:CALLABLE"
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
    graph.add_argument("--opset", type=int, default=20, metavar="N", help="ONNX operator set (default 20)")
    parser.add_argument("--eval-data", type=Path, metavar="FILE.npz", help=_EVAL_DATA)


def _engine_arguments(parser: argparse.ArgumentParser) -> None:
    engine = parser.add_argument_group("engine")
    engine.add_argument("--engine", choices=("auto", "tensorrt", "tensorrt_rtx", "none"), default="auto")
    engine.add_argument("--targets", type=_names, default=(), metavar="sm80,sm86,…", help="GPUs (TensorRT-RTX)")


def _shape(text: str) -> tuple[int, ...]:
    try:
        shape = tuple(int(part) for part in text.split(","))
    except ValueError:
        shape = ()
    if len(shape) < 2 or min(shape) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a shape; wanted positive integers like 1,3,224,224")
    return shape


def _batch_range(text: str) -> tuple[int, int, int]:
    try:
        low, best, high = (int(part) for part in text.split(":"))
    except ValueError:
        low, best, high = 0, 0, 0
    if not 1 <= low <= best <= high:
        raise argparse.ArgumentTypeError(f"{text!r} is not a batch range; wanted MIN:OPT:MAX like 1:8:32")
    return low, best, high


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} is not an option; wanted NAME=VALUE like num_classes=10")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


# ------------------------------------------------------------------ commands


def _run(args: argparse.Namespace) -> int:
    from .pipeline import export_bundle

    engine = None if args.engine == "none" else args.engine
    with _loud_warnings(args):
        bundle = export_bundle(_job(args), engine=engine or "none", targets=args.targets)
    return _show(args, bundle)


def _export(args: argparse.Namespace) -> int:
    from .pipeline import export_bundle

    with _loud_warnings(args):
        bundle = export_bundle(_job(args), engine="none", targets=())
    return _show(args, bundle)


def _job(args: argparse.Namespace) -> Any:
    from .pipeline import Job
    from .source import Request

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
    )


def _build(args: argparse.Namespace) -> int:
    from .rooms import room

    record = room("engines").build(
        args.bundle, engine=args.engine, targets=args.targets, dynamic_batch=args.dynamic_batch
    )
    del record
    return _show(args, args.bundle)


def _validate(args: argparse.Namespace) -> int:
    from .pipeline import validate_bundle

    held = validate_bundle(args.bundle, eval_data=args.eval_data)
    return _show(args, args.bundle) or (0 if held else 1)


def _inspect(args: argparse.Namespace) -> int:
    return _show(args, args.bundle)


def _models(args: argparse.Namespace) -> int:
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
    return 0


def _show(args: argparse.Namespace, path: Path) -> int:
    from .bundle import Bundle
    from .table import as_json, bundle_table

    bundle = Bundle.open(path)
    if args.json:
        print(json.dumps(as_json(bundle), indent=2))
    else:
        bundle_table(bundle)
    return 0


@contextlib.contextmanager
def _loud_warnings(args: argparse.Namespace) -> Iterator[None]:
    """Our warnings as one line each on stderr."""
    import warnings

    def show(message: Warning | str, *_: Any) -> None:
        print(f"exporter: warning: {message}".replace("\n", " "), file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", category=UserWarning, module=r"exporter|plainconv_")
        warnings.showwarning = show  # type: ignore[assignment]
        yield
