"""`exporter export`: SOURCE to a bundle without an engine."""

import argparse
import gc

from .show import show_certified
from .source_options import job_of, source_arguments
from .words import only_our_words

SUMMARY = "SOURCE to a bundle with a verified plain ONNX graph"
add_arguments = source_arguments


def run(args: argparse.Namespace) -> None:
    """Do it, and print what the bundle holds. Raises CheckFailedError where a parity is not certified."""
    from ..pipeline.export import export_bundle

    gc.freeze()  # no search for cycles need look at what is imported
    with only_our_words():
        bundle = export_bundle(job_of(args))
    show_certified(args, bundle)
