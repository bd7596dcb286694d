"""`exporter build`: graphs of lower precision and engines for a bundle."""

import argparse
import sys
from pathlib import Path
from typing import Any

from ..errors import SourceError
from .arguments import EVAL_DATA
from .engine_options import build_job_of, engine_arguments, shape_arguments
from .show import show_certified
from .words import only_our_words

SUMMARY = "build an engine for a bundle"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Set up `exporter build`."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    engine_arguments(parser)
    shape_arguments(parser)
    parser.add_argument("--eval-data", type=Path, metavar="FILE", help=EVAL_DATA)
    parser.add_argument("--rebuild", action="store_true", help="build again what the bundle holds already")


def run(args: argparse.Namespace) -> None:
    """Do it, and print what the bundle holds. Raises CheckFailedError where a precision had to be left out."""
    from ..pipeline.build import build_bundle

    job = build_job_of(args, _shapes(args), rebuild=args.rebuild)
    with only_our_words():
        is_new = build_bundle(args.bundle, job)
    if not is_new:
        print(f"exporter: {args.bundle} holds it already; --rebuild builds it again", file=sys.stderr)
    show_certified(args, args.bundle, args.precision)


def _shapes(args: argparse.Namespace) -> list[tuple[Any, Any]]:
    """The optimization profiles: as many as the option given most often; the other once, as often, or not at all."""
    batches, sizes = args.dynamic_batch or [None], args.dynamic_size or [None]
    count = max(len(batches), len(sizes))
    if len(batches) not in (1, count) or len(sizes) not in (1, count):
        found = f"{len(batches)} --dynamic-batch and {len(sizes)} --dynamic-size"
        raise SourceError(f"{found} given; wanted as many of both, or one of either")
    return list(zip(batches * (count // len(batches)), sizes * (count // len(sizes)), strict=True))
