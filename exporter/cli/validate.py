"""`exporter validate`: a bundle's files verified, its parity measured again."""

import argparse
from pathlib import Path

from ..errors import CheckFailedError
from .arguments import EVAL_DATA
from .show import show, show_certified
from .words import only_our_words

SUMMARY = "verify a bundle's files and measure its parity again"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Set up `exporter validate`."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument("--eval-data", type=Path, metavar="FILE.npz", help=EVAL_DATA)


def run(args: argparse.Namespace) -> None:
    """Do it, and print what the bundle holds. Raises CheckFailedError where something does not hold."""
    from ..pipeline.export import validate_bundle

    with only_our_words():
        failed = validate_bundle(args.bundle, eval_data=args.eval_data)
    if failed:
        show(args, args.bundle)
        raise CheckFailedError(f"{failed[0]}{f' (and {len(failed) - 1} more)' if failed[1:] else ''}")
    show_certified(args, args.bundle)
