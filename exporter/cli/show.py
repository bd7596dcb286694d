"""A bundle on stdout, as tables or as JSON."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from ..bundle import Bundle
from ..errors import CheckFailedError


def show(args: argparse.Namespace, path: Path) -> Bundle:
    """Print what the bundle at `path` holds, once it is verified."""
    from .table import as_json, bundle_table

    bundle = Bundle.open(path)
    if args.json:
        print(json.dumps(as_json(bundle), indent=2))
    else:
        bundle_table(bundle)
    return bundle


def show_certified(args: argparse.Namespace, path: Path, precisions: Sequence[str] = ()) -> None:
    """Print it.

    Raises CheckFailedError for a parity in it that nothing certifies, and for one of `precisions` that was left out.
    """
    manifest = show(args, path).manifest
    for each in manifest.extra.get("left_out") or ():
        if each.get("precision") in precisions:
            raise CheckFailedError(f"{path} was written without {each['precision']}: {each.get('reason')}")
    for parity in manifest.parities:
        if parity["status"].startswith("not certified"):
            raise CheckFailedError(f"{path} was written, but {parity['step']} is {parity['status']}")
