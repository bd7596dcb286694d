"""How it is shown where a bundle's graphs part from the eager network: `exporter validate --layers`."""

import argparse
import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import CheckFailedError
from .source_options import refuse_weights, request_of
from .words import only_our_words

if TYPE_CHECKING:
    from ..pipeline.layers import Boundary, StepLayers

MOST = 24
"""Rows of a table without a fault."""
WIDE = 34
MARKS = {"fault": "✗ fault", "propagated": "↓ passed on", "rounding": "rounding"}


def show_layers(args: argparse.Namespace) -> None:
    """Print the layers of each form. Raises CheckFailedError for the first module at fault."""
    from ..pipeline.layers import compare_bundle

    if not args.layers:
        refuse_weights(args, "--layers SOURCE")
    with only_our_words():
        found = compare_bundle(args.bundle, args.layers or None, request_of(args))
    if args.json:
        steps = [{"step": s.step, "boundaries": [b.as_json() for b in s.boundaries]} for s in found.steps]
        at = found.fault
        fault = None if at is None else {"step": at[0].step, **at[1].as_json()}
        print(json.dumps({"fault": fault, "notes": list(found.notes), "steps": steps}, indent=2))
    else:
        for step in found.steps:
            _print(step)
        for note in found.notes:
            print(note)
    if found.fault is not None:
        raise CheckFailedError(fault_words(*found.fault))


def fault_words(step: "StepLayers", b: "Boundary") -> str:
    """One line: where, as PyTorch, ONNX and an engine call it, and by how much."""
    more = len(step.faults) - 1
    inner = [name for name in b.within if name != b.module]
    within = f" (with {', '.join(inner[:6])}{' …' if inner[6:] else ''})" if inner else ""
    channel = "" if b.channel is None else f", most in channel {b.channel}"
    off = f"by itself off by {b.local:.1e} of its spread, {b.tolerance:.1e} is rounding{channel}"
    what = b.why if b.why and not b.local > b.tolerance else f"{off}; {b.why}" if b.why else off
    also = f" (and {more} more)" if more else ""
    return f"{step.step}: the first module at fault is {b.module}{within} → {b.value} → layer {b.node}: {what}{also}"


def _print(step: "StepLayers") -> None:
    from .table import rows_table

    ranked = step.ranked
    shown: Sequence[Boundary] = step.boundaries
    cut = ""
    if len(shown) > MOST:
        shown, cut = _telling(step), f", {MOST} of {len(step.boundaries)} shown"
    faults = f"{len(step.faults)} at fault" if step.faults else "sound"
    columns = ["module", "value", "error", "eager's own", "by itself", "explained", ""]
    rows = [[_short(b.module), _short(b.value), *map(_number, _errors(b)), MARKS[b.status]] for b in shown]
    rows_table([f"{step.step}: {faults}{cut}; errors in spreads, of the worst channel"], columns, rows)
    if ranked:
        causes = [[_short(b.module), _short(b.node), _number(b.local), _number(b.caused)] for b in ranked[:12]]
        rows_table(
            [f"{step.step}: what each layer alone causes at the output, the largest first"],
            ["module", "layer", "by itself", "at the output"],
            causes,
        )


def _errors(b: "Boundary") -> tuple[float, ...]:
    return b.error, b.own, b.local, b.tolerance


def _telling(step: "StepLayers") -> list["Boundary"]:
    """The boundaries to show of many: faults and their neighbours, and some along the depth."""
    wanted = set[int]()
    for i, b in enumerate(step.boundaries):
        if b.status == "fault" and len(wanted) < MOST // 2:
            wanted |= {max(i - 1, 0), i, min(i + 1, len(step.boundaries) - 1)}
    for i in range(MOST):
        if len(wanted) < MOST:
            wanted.add(round(i * (len(step.boundaries) - 1) / (MOST - 1)))
    return [step.boundaries[i] for i in sorted(wanted)]


def _short(name: str) -> str:
    return name if len(name) <= WIDE else f"…{name[1 - WIDE :]}"


def _number(x: float | None) -> str:
    return "" if x is None or math.isnan(x) else f"{x:.1e}"
