"""`exporter validate`: a bundle's files verified, its parity measured again; with --layers, module by module."""

import argparse
from pathlib import Path

from ..errors import CheckFailedError, SourceError
from . import layers
from .arguments import EVAL_DATA
from .show import show, show_certified
from .source_options import refuse_weights, weight_arguments
from .words import only_our_words

SUMMARY = "verify a bundle's files and measure its parity again; with --layers, module by module"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Set up `exporter validate`."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument("--eval-data", type=Path, metavar="FILE", help=EVAL_DATA)
    parser.add_argument(
        "--layers",
        nargs="?",
        const="",
        metavar="SOURCE",
        help="name the first module that diverges, in each form; SOURCE and its weights as it was made of them, else "
        "from the ONNX model on; nothing is written",
    )
    weight_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Do it, and print what the bundle holds, or its layers. Raises CheckFailedError where something does not hold."""
    if args.layers is not None:
        if args.eval_data is not None:
            raise SourceError("--eval-data given with --layers, which compares the bundle's own images; leave it out")
        layers.show_layers(args)
        return
    refuse_weights(args, "--layers SOURCE")
    from ..pipeline.export import validate_bundle

    with only_our_words():
        failed = validate_bundle(args.bundle, eval_data=args.eval_data)
    if failed:
        show(args, args.bundle)
        raise CheckFailedError(f"{failed[0]}{f' (and {len(failed) - 1} more)' if failed[1:] else ''}")
    show_certified(args, args.bundle)
