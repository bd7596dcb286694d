"""A bundle on stdout, as tables or as JSON."""

import argparse
import json
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


def show_certified(args: argparse.Namespace, path: Path) -> None:
    """Print it. Raises CheckFailedError for a parity in it that nothing certifies."""
    for parity in show(args, path).manifest.parities:
        if parity["status"].startswith("not certified"):
            raise CheckFailedError(f"{path} was written, but {parity['step']} is {parity['status']}")
