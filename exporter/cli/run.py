"""`exporter run`: the main job, from SOURCE to a verified bundle with an engine."""

import argparse
import gc

from . import split
from .engine_options import build_job_of, engine_arguments
from .show import show_certified
from .source_options import job_of, source_arguments
from .words import only_our_words

SUMMARY = "export, build and validate: SOURCE to a verified bundle with an engine"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Set up `exporter run`."""
    source_arguments(parser)
    engine_arguments(parser)
    split.device_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Do it, and print what the bundle holds. Raises CheckFailedError where a parity is not certified."""
    from ..pipeline.export import export_bundle

    gc.freeze()  # no search for cycles need look at what is imported
    with only_our_words():
        build = build_job_of(args, ((args.dynamic_batch, args.dynamic_size),))
        nothing = args.engine == "none" and args.precision == ("fp32",)
        bundle = export_bundle(job_of(args, None if nothing else build, split.job_of_run(args)))
    show_certified(args, bundle, args.precision)
