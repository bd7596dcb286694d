"""The options of an engine, which `run` and `build` share, and what they ask to be built."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import SourceError
from .arguments import batch_range, count, names, number, size_range

if TYPE_CHECKING:
    from ..pipeline.build import BuildJob

_NO_TOLERANCE = "is not a tolerance; wanted a positive number like 0.1"


def engine_arguments(parser: argparse.ArgumentParser) -> None:
    """Which engine, for which GPUs, by which builder's settings, in which precisions."""
    engine = parser.add_argument_group("engine")
    engine.add_argument("--engine", choices=("auto", "tensorrt", "tensorrt_rtx", "none"), default="auto")
    engine.add_argument("--targets", type=names, default=(), metavar="sm80,sm86,…", help="GPUs (TensorRT-RTX)")
    engine.add_argument("--tf32", action="store_true", help="let fp32 round its factors to 10 bits, which is faster")
    engine.add_argument("--workspace", type=_mebibytes, metavar="MIB", help="the most scratch memory of a layer")
    engine.add_argument("--optimization-level", type=int, choices=range(6), metavar="0…5", help="of the builder")
    engine.add_argument("--aux-streams", type=count(0, 64), metavar="N", help="beside its own (default: the builder's)")
    engine.add_argument("--device", type=count(0, 1023), default=0, metavar="N", help="the GPU to build on (TensorRT)")
    engine.add_argument("--timing-cache", type=Path, metavar="FILE", help="keep measurements there (TensorRT)")
    precision = parser.add_argument_group("precision")
    precision.add_argument(
        "--precision", type=names, default=("fp32",), metavar="P,…", help="fp32, fp16, bf16, int8, fp8, int8+fp16, …"
    )
    precision.add_argument("--calibration", type=Path, metavar="FILE.npz", help="images for lower precisions")
    precision.add_argument("--calibration-method", choices=("auto", "minmax", "percentile", "entropy"), default="auto")
    tolerance = number(_NO_TOLERANCE, zero=_NO_TOLERANCE)
    precision.add_argument(
        "--tolerance", type=tolerance, metavar="T", help="RMS error of at most T spreads of the output"
    )


def shape_arguments(parser: argparse.ArgumentParser) -> None:
    """The optimization profiles of an engine."""
    shapes = parser.add_argument_group("shapes, where the graph leaves them open; again for further profiles")
    shapes.add_argument(
        "--dynamic-batch", type=batch_range, action="append", metavar="MIN:OPT:MAX", help="the batch sizes it takes"
    )
    shapes.add_argument(
        "--dynamic-size", type=size_range, action="append", metavar="MIN:OPT:MAX", help="the heights and widths"
    )


def build_job_of(args: argparse.Namespace, shapes: Any, *, rebuild: bool = False) -> "BuildJob":
    """What is to be built. Raises SourceError for targets of no engine."""
    from plainconv.engines.options import BuildOptions

    from ..pipeline.build import BuildJob

    if args.engine == "none" and args.targets:
        raise SourceError("both --targets and --engine none given; wanted one of them")
    builder = BuildOptions(
        targets=args.targets,
        tf32=args.tf32,
        workspace=args.workspace,
        optimization_level=args.optimization_level,
        timing_cache=args.timing_cache,
        max_aux_streams=args.aux_streams,
        device=args.device,
    )
    return BuildJob(
        args.precision,
        args.engine,
        shapes,
        builder,
        calibration=args.calibration,
        method=args.calibration_method,
        tolerance=args.tolerance,
        eval_data=args.eval_data,
        rebuild=rebuild,
    )


def _mebibytes(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; wanted MiB, a whole number like 1024")
    return int(text) * 2**20
