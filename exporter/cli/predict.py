"""`exporter predict`: what a bundle's network says of images."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ImageError
from ..progress import track
from .arguments import count, devices
from .words import only_our_words

if TYPE_CHECKING:
    from plainconv.engines import Runner
    from plainconv.engines.predict.answers import Answer

SUMMARY = "an image in, classes, boxes or masks out"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Set up `exporter predict`."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="PNG, JPEG, WEBP, GIF or BMP")
    parser.add_argument(
        "--draw", type=Path, metavar="FILE.png", help="write the one image there, with its answer on it"
    )
    runner_arguments(parser)


def runner_arguments(parser: argparse.ArgumentParser) -> None:
    """What runs it."""
    parser.add_argument("--engine", choices=("auto", "tensorrt", "tensorrt_rtx", "onnxruntime"), default="auto")
    parser.add_argument("--precision", default="auto", metavar="P", help="which of its precisions, such as fp16")
    parser.add_argument("--device", type=count(0, 1023), default=0, metavar="N", help="the GPU (default 0)")
    parser.add_argument("--devices", type=devices, metavar="0,1,2", help="run the parts that it is split into there")


def run(args: argparse.Namespace) -> None:
    """Do it, and print the answers. Raises ImageError for images that were not taken, once the others are printed."""
    from plainconv.engines import load
    from plainconv.engines.predict.draw import drawn

    if args.draw is not None and (len(args.images) != 1 or args.draw.suffix.lower() not in (".png", ".jpg", ".jpeg")):
        raise ImageError(f"--draw {args.draw}: wanted one IMAGE, and a file that ends in .png or .jpg")
    failed: list[str] = []
    with only_our_words():
        runner = load(args.bundle, args.engine, precision=args.precision, device=args.device, devices=args.devices)
    with runner, track(f"predicting with {args.bundle}", total=len(args.images), unit="images") as bar:
        found: list[dict[str, Any]] = []
        for path in args.images:
            try:
                answers = _answers(runner, path)
            except ImageError as error:
                failed.append(str(error) if str(path) in str(error) else f"{path}: {error}")
                continue
            finally:
                bar.advance(1)
            if args.draw is not None:
                _save(drawn(path, answers), args.draw)
            found.append({"image": str(path), "predictions": [each.as_json() for each in answers]})
            if not args.json:
                _show(path, answers)
    if args.json:
        print(json.dumps(found, indent=2))
    if failed:
        more = f" (and {len(failed) - 1} more images)" if failed[1:] else ""
        raise ImageError(f"{failed[0]}{more}")


def _answers(runner: "Runner", path: Path) -> "list[Answer]":
    with only_our_words():
        return runner.predict(path)  # type: ignore[no-any-return]


def _show(path: Path, answers: "list[Answer]") -> None:
    print(path if answers else f"{path}: nothing found")
    for each in answers:
        box, mask = getattr(each, "xyxy", None), getattr(each, "mask", None)
        where = "" if box is None else "  " + " ".join(f"{side:.1f}" for side in box)
        where += "" if mask is None else f"  {mask.mean():.1%} of the image"
        print(f"  {each.score:.4f}  {each.label}{where}")


def _save(image: Any, path: Path) -> None:
    try:
        image.save(path)
    except OSError as error:
        raise ImageError(f"--draw {path} cannot be written ({error.strerror or error}); give another file") from None
