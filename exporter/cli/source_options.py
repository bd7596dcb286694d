"""SOURCE and its options, which `run` and `export` share, and the job that they ask for."""

import argparse
import ast
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..bundle.tensor import DTYPES
from ..errors import SourceError
from ..source.names import NAME
from ..source.shapes import MAX_SIZE
from .arguments import EVAL_DATA, batch_range, size_range

if TYPE_CHECKING:
    from ..pipeline.build import BuildJob
    from ..pipeline.export import Job
    from ..pipeline.split import SplitJob
    from ..source.network import InputSpec, Request


def source_arguments(parser: argparse.ArgumentParser) -> None:
    """SOURCE, where the bundle goes, the weights, and what of the graph is fixed."""
    parser.add_argument(
        "source", metavar="SOURCE", help="catalogue name, timm:NAME, FILE.py:CALLABLE, module:CALLABLE or FILE.onnx"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="BUNDLE", help="the bundle folder to write")
    parser.add_argument("--force", action="store_true", help="replace the bundle that is there")
    weight_arguments(parser)
    graph = parser.add_argument_group("graph")
    graph.add_argument("--name", type=_name, metavar="NAME", help="the bundle's (default: after its file or module)")
    graph.add_argument("--dynamic-batch", type=batch_range, metavar="MIN:OPT:MAX", help="keep the batch size open")
    graph.add_argument(
        "--dynamic-size", type=size_range, metavar="MIN:OPT:MAX", help="keep height and width open: 160x120:224x224:…"
    )
    graph.add_argument("--opset", type=int, metavar="N", help="ONNX operator set (default 20; FILE.onnx keeps its own)")
    images = parser.add_argument_group("images")
    images.add_argument(
        "--preprocessing",
        metavar="NAME|FILE.json",
        help="imagenet, imagenet-320, imagenet-tencrop, coco, yolo, digits, none, or a file",
    )
    images.add_argument(
        "--postprocess",
        metavar="KIND",
        help="what the outputs mean: classify[:k], segment, detect[:score,iou,max], none",
    )
    images.add_argument(
        "--nms", choices=("plain", "node"), help="a detector's suppression in the graph: by a Loop, or as that node"
    )
    images.add_argument(
        "--fold-preprocessing", action="store_true", help="scale, mean, std, colour and layout in the graph: bytes in"
    )
    images.add_argument("--classes", metavar="FILE|a,b,c", help="their names: a list, or a file of one a line")
    parser.add_argument("--eval-data", type=Path, metavar="FILE", help=EVAL_DATA)
    parser.add_argument(
        "--skip-end-to-end", action="store_true", help="do not compare at other sizes (huge networks); it is recorded"
    )


def weight_arguments(parser: argparse.ArgumentParser) -> None:
    """Which weights SOURCE has, and at which shape it runs."""
    weights = parser.add_argument_group("weights")
    weights.add_argument("--checkpoint", type=Path, metavar="FILE", help=".pth, .pt or .safetensors")
    weights.add_argument("--ema", action=argparse.BooleanOptionalAction, help="take the averaged weights, or do not")
    weights.add_argument("--key", metavar="NAME", help="the entry of the file, or the prefix of keys, with the weights")
    weights.add_argument("--drop", action="append", default=[], metavar="PATTERN", help="leave out keys: 'head.*'")
    weights.add_argument("--layout", choices=("auto", "training", "deploy"), default="auto", help="its form")
    weights.add_argument("--slope", type=float, metavar="S", help="deep-training slope, 0 to 1")
    weights.add_argument("--random-init", type=int, metavar="SEED", help="random weights instead")
    weights.add_argument(
        "--set", action="append", default=[], type=_option, metavar="NAME=VALUE", help="network option"
    )
    weights.add_argument("--input-shape", type=_shape, metavar="N,C,H,W", help="the shape to export at, of one input")
    weights.add_argument(
        "--input", action="append", default=[], type=_input, metavar="NAME=SHAPE[:TYPE]",
        help="an input by its name, once for each: rgb=1,3,480,640 or ids=1,16:int64",
    )  # fmt: skip
    weights.add_argument(
        "--inputs",
        type=Path,
        metavar="FILE.npz",
        help="inputs by their names, a row an image: example, and parity data",
    )


def job_of(args: argparse.Namespace, build: "BuildJob | None" = None, split: "SplitJob | None" = None) -> "Job":
    """The export that is asked for, and what is to be built and split behind it."""
    from ..pipeline.export import Job

    return Job(
        source=args.source,
        request=request_of(args),
        target=args.output,
        force=args.force,
        dynamic_batch=args.dynamic_batch,
        dynamic_size=args.dynamic_size,
        opset=args.opset,
        eval_data=args.eval_data,
        end_to_end=not args.skip_end_to_end,
        preprocessing=args.preprocessing,
        postprocess=args.postprocess,
        classes=args.classes,
        fold=args.fold_preprocessing,
        nms=args.nms,
        build=build,
        split=split,
    )


def request_of(args: argparse.Namespace) -> "Request":
    """What `weight_arguments` were given."""
    from ..source.network import Request

    return Request(
        checkpoint=args.checkpoint,
        ema=args.ema,
        key=args.key,
        drop=tuple(args.drop),
        layout=args.layout,
        slope=args.slope,
        random_init=args.random_init,
        options=dict(args.set),
        input_shape=args.input_shape,
        inputs=tuple(args.input),
        inputs_file=args.inputs,
        name=getattr(args, "name", None),
    )


def refuse_weights(args: argparse.Namespace, wanted: str) -> None:
    """Raise SourceError for an option of `weight_arguments` that is nothing without what is `wanted`."""
    parser = argparse.ArgumentParser(add_help=False)
    weight_arguments(parser)
    usual = vars(parser.parse_args([]))
    used = next((name for name, value in usual.items() if getattr(args, name) != value), None)
    if used is not None:
        raise SourceError(f"--{used.replace('_', '-')} given without {wanted}; give both, or neither")


def _shape(text: str, least: int = 2) -> tuple[int, ...]:
    try:
        shape = tuple(int(part) for part in text.split(","))
    except ValueError:
        shape = ()
    if len(shape) < least or not all(1 <= size <= MAX_SIZE for size in shape):
        named = f"; an input by its name is given with --input {text}" if "=" in text else ""
        raise argparse.ArgumentTypeError(f"{text!r} is not a shape; wanted positive integers like 1,3,224,224{named}")
    return shape


def _input(text: str) -> "InputSpec":
    from ..source.network import InputSpec

    name, equals, rest = text.partition("=")
    sizes, colon, dtype = rest.partition(":")
    if not equals or not name.strip() or (colon and dtype not in DTYPES):
        found = f"{dtype!r} is no type of {text!r}" if equals and colon else f"{text!r} is no input"
        wanted = (
            f"one of {', '.join(DTYPES)}" if equals and colon else "NAME=SHAPE or NAME=SHAPE:TYPE like x=1,3,8,8:int64"
        )
        raise argparse.ArgumentTypeError(f"{found}; wanted {wanted}")
    return InputSpec(name.strip(), _shape(sizes, least=1) if sizes else (), dtype or None)


def _name(text: str) -> str:
    if not NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no name of a file; wanted up to 64 letters, digits, '.', '-' and '_', a letter or digit first"
        )
    return text


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} is not an option; wanted NAME=VALUE like num_classes=10")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value
