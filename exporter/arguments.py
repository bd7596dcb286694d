"""The options of the command line, and what their values must be: a bad one is one line and exit code 2."""

import argparse
import ast
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from .shapes import MAX_SIZE

MOST_DEVICES = 1024
_NO_TOLERANCE = "is not a tolerance; wanted a positive number like 0.1"
EVAL_DATA = "labelled images (arrays images [N,C,H,W] and labels [N]): report accuracy at every step"


class Parser(argparse.ArgumentParser):
    """Reports a bad argument in one line."""

    def error(self, message: str) -> NoReturn:
        """Print it and exit."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def add_command(commands: Any, name: str, function: Callable[[argparse.Namespace], None], summary: str) -> Parser:
    """One command: its name, what runs it and what it does, with the options that all have."""
    parser: Parser = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
    parser.set_defaults(command=function)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def source_arguments(parser: argparse.ArgumentParser) -> None:
    """SOURCE, where the bundle goes, the weights, and what of the graph is fixed."""
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
    graph.add_argument(
        "--dynamic-size", type=_size_range, metavar="MIN:OPT:MAX", help="keep height and width open: 160x120:224x224:…"
    )
    graph.add_argument("--opset", type=int, metavar="N", help="ONNX operator set (default 20; FILE.onnx keeps its own)")
    parser.add_argument("--eval-data", type=Path, metavar="FILE.npz", help=EVAL_DATA)
    parser.add_argument(
        "--skip-end-to-end", action="store_true", help="do not compare at other sizes (huge networks); it is recorded"
    )


def engine_arguments(parser: argparse.ArgumentParser) -> None:
    """Which engine, for which GPUs, by which builder's settings, in which precisions."""
    engine = parser.add_argument_group("engine")
    engine.add_argument("--engine", choices=("auto", "tensorrt", "tensorrt_rtx", "none"), default="auto")
    engine.add_argument("--targets", type=names, default=(), metavar="sm80,sm86,…", help="GPUs (TensorRT-RTX)")
    engine.add_argument("--tf32", action="store_true", help="let fp32 round its factors to 10 bits, which is faster")
    engine.add_argument("--workspace", type=_mebibytes, metavar="MIB", help="the most scratch memory of a layer")
    engine.add_argument("--optimization-level", type=int, choices=range(6), metavar="0…5", help="of the builder")
    engine.add_argument("--timing-cache", type=Path, metavar="FILE", help="keep measurements there (TensorRT)")
    precision = parser.add_argument_group("precision")
    precision.add_argument(
        "--precision", type=names, default=("fp32",), metavar="P,…", help="fp32, fp16, bf16, int8, fp8, int8+fp16, …"
    )
    precision.add_argument("--calibration", type=Path, metavar="FILE.npz", help="images for int8 and fp8")
    precision.add_argument("--calibration-method", choices=("auto", "minmax", "percentile", "entropy"), default="auto")
    tolerance = number(_NO_TOLERANCE, zero=_NO_TOLERANCE)
    precision.add_argument("--tolerance", type=tolerance, metavar="T", help="off by at most T spreads of the output")


def shape_arguments(parser: argparse.ArgumentParser) -> None:
    """The optimization profiles of an engine."""
    shapes = parser.add_argument_group("shapes, where the graph leaves them open; again for further profiles")
    shapes.add_argument(
        "--dynamic-batch", type=_batch_range, action="append", metavar="MIN:OPT:MAX", help="the batch sizes it takes"
    )
    shapes.add_argument(
        "--dynamic-size", type=_size_range, action="append", metavar="MIN:OPT:MAX", help="the heights and widths"
    )


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


def _size_range(text: str) -> tuple[tuple[int, int], ...]:
    """Three sizes, each HEIGHTxWIDTH or one number for a square."""
    try:
        sizes = tuple(tuple(int(n) for n in part.split("x")) for part in text.lower().split(":"))
    except ValueError:
        sizes = ()
    squares = tuple(size * 2 if len(size) == 1 else size for size in sizes)
    ascend = len(squares) == 3 and all(len(size) == 2 for size in squares)
    if not ascend or not all(1 <= a <= b <= c <= MAX_SIZE for a, b, c in zip(*squares, strict=True)):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a size range; wanted MIN:OPT:MAX like 160:224:512, or 120x160:240x320:480x640"
        )
    return tuple((height, width) for height, width in squares)


def _mebibytes(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; wanted MiB, a whole number like 1024")
    return int(text) * 2**20


def count(least: int, most: int = 100_000) -> Callable[[str], int]:
    """The type of an option that is a whole number."""

    def whole(text: str) -> int:
        if not (text.isascii() and text.isdecimal()) or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} to {most}")
        return int(text)

    return whole


def number(wanted: str, below: float = math.inf, zero: str = "") -> Callable[[str], float]:
    """The type of an option that is a number from 0 on; with `zero`, which says why not, above 0.

    `wanted` ends the sentence on what is no such number, and `zero` that on 0.
    """

    def real(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0 <= value < below:
            raise argparse.ArgumentTypeError(f"{text!r} {wanted}")
        if zero and value == 0:
            raise argparse.ArgumentTypeError(f"{text!r} {zero}")
        return value

    return real


def devices(text: str) -> tuple[int, ...]:
    """The type of an option that is a list of devices."""
    parts = text.split(",")
    if not all(part.isascii() and part.isdecimal() and int(part) < MOST_DEVICES for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of devices; wanted some like 0,1,2")
    return tuple(int(part) for part in parts)


def names(text: str) -> tuple[str, ...]:
    """The type of an option that is a list of names."""
    found = tuple(part.strip() for part in text.split(","))
    if not all(found):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of names; wanted some like sm80,sm86 or fp16,int8")
    return tuple(dict.fromkeys(found))


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} is not an option; wanted NAME=VALUE like num_classes=10")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value
