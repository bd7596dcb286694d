"""`exporter inspect`: what a bundle holds."""

import argparse
from pathlib import Path

from ..bundle import Bundle
from ..errors import SourceError
from . import floor, split
from .show import show

SUMMARY = "print what a bundle holds, once it is verified"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Set up `exporter inspect`."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument("--plan", action="store_true", help="the parts it is split into and what to expect of them")
    parser.add_argument("--precision", metavar="P", help="of the graph of this precision (default: of all)")
    floor.add_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Print it. Raises SourceError for a precision of neither a plan nor a floor, and for both."""
    floor.refuse_unused(args)
    if args.precision and not (args.plan or args.device):
        raise SourceError("--precision given without --plan or --device; give one of them too, or leave it out")
    if args.plan and args.device:
        raise SourceError("both --plan and --device given; wanted one of them")
    if args.device:
        floor.show_floor(args)
    elif args.plan:
        split.show_splits(args, args.precision)
    else:
        print_what_runs(args, show(args, args.bundle))


def print_what_runs(args: argparse.Namespace, bundle: Bundle) -> None:
    """Print which of its engines would run here, and why not those that would come before it; not as JSON."""
    from plainconv.engines.choice import what_runs, why_words

    if args.json or not bundle.engines:
        return
    file, reasons = what_runs(bundle.engines)
    print(f"on this machine {'ONNX Runtime' if file == 'onnxruntime' else file} runs it")
    of: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        of.setdefault(reason, []).append(name)
    for words in why_words(of):
        print(words)
