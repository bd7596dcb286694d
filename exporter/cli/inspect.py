"""`exporter inspect`: what a bundle holds."""

import argparse
from pathlib import Path

from ..errors import SourceError
from . import split
from .show import show

SUMMARY = "print what a bundle holds, once it is verified"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Set up `exporter inspect`."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument("--plan", action="store_true", help="the parts it is split into and what to expect of them")
    parser.add_argument("--precision", metavar="P", help="of the graph of this precision (default: of all)")


def run(args: argparse.Namespace) -> None:
    """Print it. Raises SourceError for a precision of no plan."""
    if args.precision and not args.plan:
        raise SourceError("--precision given without --plan; give both, or neither")
    if args.plan:
        split.show_splits(args, args.precision)
    else:
        show(args, args.bundle)
