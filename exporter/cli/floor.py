"""How it is shown what a bundle takes on a GPU at the least: `exporter inspect --device`."""

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..bundle import Bundle
from ..errors import PlanError, SourceError
from .arguments import count, number

if TYPE_CHECKING:
    from ..partition.roofline import Roofline

_NO_LATENCY = "is not a latency; wanted milliseconds, as in 0.5"
SLOWEST = 12
"""Layers that a table shows."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that belong to `--device`."""
    floor = parser.add_argument_group("floor: the least time on a GPU, by its data sheet")
    floor.add_argument("--device", metavar="a100|h100|…", help="a GPU; each graph of the bundle, layer by layer")
    floor.add_argument("--batch", type=count(1), metavar="N", help="where it is open (default 1)")
    floor.add_argument(
        "--latency", type=number(_NO_LATENCY, zero=_NO_LATENCY), metavar="MS", help="measured: how far from the floor"
    )


def refuse_unused(args: argparse.Namespace) -> None:
    """Raise SourceError for an option that is nothing without --device."""
    for option, given in (("--batch", args.batch), ("--latency", args.latency)):
        if given is not None and args.device is None:
            raise SourceError(f"{option} given without --device; give both, or neither")


def show_floor(args: argparse.Namespace) -> None:
    """Print the floor of each graph, or of the one of a precision. Raises PlanError where there is none of it."""
    from plainconv.engines.choice import graph_of

    from ..partition import read_model
    from ..partition.devices import sheet_of_name
    from ..partition.roofline import roofline

    sheet, bundle = sheet_of_name(args.device), Bundle.open(args.bundle)
    held = ["fp32", *(graph.precision for graph in bundle.manifest.graphs)]
    wanted = [args.precision] if args.precision else held
    if wanted[0] not in held:
        raise PlanError(f"{bundle.folder} has no {wanted[0]} graph (it has {', '.join(held)})")
    batch = args.batch or 1
    axes = {n: batch for spec in bundle.inputs for n in spec.shape[:1] if isinstance(n, str)}
    if args.batch is not None and not axes:
        raise PlanError(f"{bundle.folder} takes a batch of {bundle.inputs[0].shape[0]} alone; leave --batch out")
    floors = {}
    for precision in wanted:
        file, _ = graph_of(bundle.manifest, precision)
        floors[precision] = roofline(read_model(bundle.file(file)), sheet.device, axes)
    if args.json:
        rows = {precision: _as_json(floor, args.latency) for precision, floor in floors.items()}
        print(json.dumps({"device": sheet.name, "source": sheet.source, "batch": batch, "graphs": rows}, indent=2))
    else:
        _print(f"{sheet.title} ({sheet.source}), batch {batch}", floors, args.latency)


def _as_json(floor: "Roofline", latency: float | None) -> dict[str, Any]:
    return {
        "floor_ms": floor.seconds * 1e3,
        "compute_ms": floor.compute * 1e3,
        "memory_ms": floor.memory * 1e3,
        "launches_ms": floor.launches * 1e3,
        "depth": floor.depth,
        "measured_over_floor": latency / (floor.seconds * 1e3) if latency else None,
        "layers": [
            {
                "name": layer.name, "op": layer.kind, "type": layer.type, "macs": layer.macs, "bytes": layer.bytes,
                "us": layer.seconds * 1e6, "bound": layer.bound,
            }
            for layer in floor.layers
        ],
    }  # fmt: skip


def _print(title: str, floors: Mapping[str, "Roofline"], latency: float | None) -> None:
    from .table import rows_table

    columns = ["graph", "floor ms", "compute", "memory", "launches", *(["measured / floor"] if latency else [])]
    rows = [
        [
            precision,
            *(f"{seconds * 1e3:.4f}" for seconds in (floor.seconds, floor.compute, floor.memory, floor.launches)),
            *([f"{latency / (floor.seconds * 1e3):.1f}×"] if latency else []),
        ]
        for precision, floor in floors.items()
    ]
    rows_table([title], columns, rows)
    for precision, floor in floors.items():
        slowest = sorted(floor.layers, key=lambda layer: -layer.seconds)[:SLOWEST]
        said = (
            f"{precision}: the {len(slowest)} slowest of {len(floor.layers)} layers, {floor.depth} on the longest path"
        )
        rows_table([said], ["layer", "op", "type", "MACs", "bytes", "µs", "share", "bound"], _rows(slowest, floor))


def _rows(layers: Sequence[Any], floor: "Roofline") -> list[list[str]]:
    return [
        [
            layer.name if len(layer.name) <= 40 else f"…{layer.name[-39:]}",
            layer.kind,
            layer.type,
            f"{layer.macs / 1e6:.1f} M",
            f"{layer.bytes / 1e6:.2f} MB",
            f"{layer.seconds * 1e6:.2f}",
            f"{layer.seconds / floor.seconds:.0%}",
            layer.bound,
        ]
        for layer in layers
    ]
