"""`exporter eval`: how right a bundle's graphs and engines are about labelled images."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from ..errors import CheckFailedError
from .arguments import count
from .words import only_our_words

SUMMARY = "top-1 and top-5, mIoU or COCO AP of every graph and engine, on labelled images"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Set up `exporter eval`."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    help_ = (
        "a folder of one folder a class, or of images/ and masks/; an .npz of uint8 images and labels, or of several "
        "inputs by name and labels; COCO's .json"
    )
    parser.add_argument("--images", type=Path, required=True, metavar="FOLDER|F.npz|coco.json", help=help_)
    parser.add_argument("--limit", type=count(1, 10**9), metavar="N", help="no more than the first N images")


def run(args: argparse.Namespace) -> None:
    """Do it, and print a table. Raises CheckFailedError where nothing of the bundle could run."""
    from ..pipeline.evaluate import evaluate_bundle
    from .table import evaluation_table

    with only_our_words():
        found, images = evaluate_bundle(args.bundle, args.images, most=args.limit)
    if args.json:
        print(json.dumps({"images": images, "evaluations": [asdict(each) for each in found]}, indent=2))
    else:
        evaluation_table(found, images)
    if not any(each.scores for each in found):
        raise CheckFailedError(f"{args.bundle}: nothing of it could run here: {found[0].reason}")
