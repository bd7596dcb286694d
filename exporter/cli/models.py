"""`exporter models`: the networks of the catalogue."""

import argparse
import json

SUMMARY = "list the networks of the catalogue"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Nothing beyond what every command takes."""


def run(args: argparse.Namespace) -> None:
    """Print them."""
    from plainconv import models

    rows = [
        {
            "name": e.name,
            "family": e.family,
            "parameters": e.params_training,
            "parameters_plain": e.params_plain,
            "input": list(e.input_shape),
        }
        for e in models.entries().values()
    ]
    if args.json:
        print(json.dumps(rows, indent=2))
    else:
        from .table import models_table

        models_table(rows)
