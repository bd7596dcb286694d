"""The command line. It sees every room, and imports one only when a command needs it."""

import _thread
import argparse
import contextlib
import dataclasses
import json
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import bench_command, serve_command, simplify_command, split_command, triton_command
from .arguments import EVAL_DATA, Parser, add_command, engine_arguments, shape_arguments, source_arguments
from .errors import CheckFailedError, PlainconvError, PlainconvWarning, SourceError
from .progress import be_quiet

if TYPE_CHECKING:
    from .bundle import Bundle

INTERRUPTED = 130
CLOSED = 141  # as a program that SIGPIPE ends
INTERNAL = 70  # EX_SOFTWARE: a fault of ours


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


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="exporter", description="A training-time network in; a verified ONNX graph and engine out.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)

    run = add_command(commands, "run", _run, "export, build and validate: SOURCE to a verified bundle with an engine")
    source_arguments(run)
    engine_arguments(run)
    split_command.device_arguments(run)

    export = add_command(commands, "export", _export, "SOURCE to a bundle with a verified plain ONNX graph")
    source_arguments(export)

    build = add_command(commands, "build", _build, "build an engine for a bundle")
    build.add_argument("bundle", type=Path, metavar="BUNDLE")
    engine_arguments(build)
    shape_arguments(build)
    build.add_argument("--eval-data", type=Path, metavar="FILE.npz", help=EVAL_DATA)
    build.add_argument("--rebuild", action="store_true", help="build again what the bundle holds already")

    validate = add_command(commands, "validate", _validate, "verify a bundle's files and measure its parity again")
    validate.add_argument("bundle", type=Path, metavar="BUNDLE")
    validate.add_argument("--eval-data", type=Path, metavar="FILE.npz", help=EVAL_DATA)

    inspect = add_command(commands, "inspect", _inspect, "print what a bundle holds, once it is verified")
    inspect.add_argument("bundle", type=Path, metavar="BUNDLE")
    inspect.add_argument("--plan", action="store_true", help="the parts it is split into and what to expect of them")
    inspect.add_argument("--precision", metavar="P", help="of the graph of this precision (default: of all)")

    split = add_command(commands, "split", _split, "split a bundle's network into parts for several devices or streams")
    split_command.add_arguments(split)

    simplify = add_command(commands, "simplify", simplify_command.run, "one ONNX file to the smallest that computes it")
    simplify_command.add_arguments(simplify)

    bench = add_command(commands, "bench", _bench, "measure how long a bundle takes, and beside another one")
    bench_command.add_arguments(bench)

    triton = add_command(commands, "triton", triton_command.run, "write a bundle as models of Triton Inference Server")
    triton_command.add_arguments(triton)

    serve = add_command(commands, "serve", serve_command.run, "serve a bundle, or a folder of them, over REST and gRPC")
    serve_command.add_arguments(serve)

    add_command(commands, "models", _models, "list the networks of the catalogue")
    return parser


def _run(args: argparse.Namespace) -> None:
    from .pipeline import export_bundle

    _refuse_targets_of_none(args)
    with _only_our_words():
        shapes = ((args.dynamic_batch, args.dynamic_size),)
        nothing = args.engine == "none" and args.precision == ("fp32",)
        split = split_command.job_of_run(args)
        bundle = export_bundle(_job(args, None if nothing else _build_job(args, shapes), split))
    _show_certified(args, bundle)


def _refuse_targets_of_none(args: argparse.Namespace) -> None:
    if args.engine == "none" and args.targets:
        raise SourceError("both --targets and --engine none given; wanted one of them")


def _export(args: argparse.Namespace) -> None:
    from .pipeline import export_bundle

    with _only_our_words():
        bundle = export_bundle(_job(args))
    _show_certified(args, bundle)


def _build_job(args: argparse.Namespace, shapes: Any) -> Any:
    from .build import BuildJob

    return BuildJob(
        precisions=args.precision,
        engine=args.engine,
        targets=args.targets,
        shapes=shapes,
        tf32=args.tf32,
        workspace=args.workspace,
        optimization_level=args.optimization_level,
        timing_cache=args.timing_cache,
        calibration=args.calibration,
        method=args.calibration_method,
        tolerance=args.tolerance,
        eval_data=args.eval_data,
    )


def _job(args: argparse.Namespace, build: Any = None, split: Any = None) -> Any:
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
        dynamic_size=args.dynamic_size,
        opset=args.opset,
        eval_data=args.eval_data,
        end_to_end=not args.skip_end_to_end,
        build=build,
        split=split,
    )


def _build(args: argparse.Namespace) -> None:
    from .build import build_bundle

    _refuse_targets_of_none(args)
    job = dataclasses.replace(_build_job(args, _shapes(args)), rebuild=args.rebuild)
    with _only_our_words():
        is_new = build_bundle(args.bundle, job)
    if not is_new:
        print(f"exporter: {args.bundle} holds it already; --rebuild builds it again", file=sys.stderr)
    _show(args, args.bundle)


def _shapes(args: argparse.Namespace) -> list[tuple[Any, Any]]:
    """The optimization profiles: as many as the option given most often; the other once, as often, or not at all."""
    batches, sizes = args.dynamic_batch or [None], args.dynamic_size or [None]
    count = max(len(batches), len(sizes))
    if len(batches) not in (1, count) or len(sizes) not in (1, count):
        found = f"{len(batches)} --dynamic-batch and {len(sizes)} --dynamic-size"
        raise SourceError(f"{found} given; wanted as many of both, or one of either")
    return list(zip(batches * (count // len(batches)), sizes * (count // len(sizes)), strict=True))


def _validate(args: argparse.Namespace) -> None:
    from .pipeline import validate_bundle

    with _only_our_words():
        failed = validate_bundle(args.bundle, eval_data=args.eval_data)
    if failed:
        _show(args, args.bundle)
        raise CheckFailedError(f"{failed[0]}{f' (and {len(failed) - 1} more)' if failed[1:] else ''}")
    _show_certified(args, args.bundle)


def _inspect(args: argparse.Namespace) -> None:
    if args.precision and not args.plan:
        raise SourceError("--precision given without --plan; give both, or neither")
    if args.plan:
        _show_splits(args)
    else:
        _show(args, args.bundle)


def _split(args: argparse.Namespace) -> None:
    from .split import split_bundle

    with _only_our_words():
        split_bundle(args.bundle, split_command.job_of(args))
    if args.json:
        _show(args, args.bundle)
    else:
        args.precision = None
        _show_splits(args)


def _show_splits(args: argparse.Namespace) -> None:
    from .bundle import Bundle

    split_command.show(split_command.splits_of(Bundle.open(args.bundle), args.precision), as_json=args.json)


def _bench(args: argparse.Namespace) -> None:
    with _only_our_words():
        outcome = bench_command.run(args)
    bench_command.show(args, outcome)


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
