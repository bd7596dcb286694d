"""Each layer's multiply-accumulates and bytes, its least time on a GPU, and its measured one where there is one."""

from typing import Any

from ..bundle import Bundle
from ..partition import read_model
from ..partition.roofline import Layer, roofline
from . import charts

TITLE = "Layers"
MOST = 64
SLOWEST = 400


def section(bundle: Bundle, extras: Any) -> dict[str, Any]:
    """The floor of each graph on the GPU, layer by layer for the plain one; measured latencies."""
    axes = {n: 1 for spec in bundle.inputs for n in spec.shape[:1] if isinstance(n, str)}
    floors = []
    graphs = [("fp32", "model.onnx"), *((graph.precision, graph.file) for graph in bundle.manifest.graphs)]
    for precision, file in graphs:
        floors.append((precision, roofline(read_model(bundle.file(file)), extras.sheet.device, axes)))
    first = floors[0][1]
    shown = first.layers if len(first.layers) <= MOST else _slowest(first.layers, MOST)
    rows = [_row(layer, first.seconds, extras.profile) for layer in _slowest(first.layers, SLOWEST)]
    bars = [
        charts.Bar(layer.name, 0.0, layer.seconds * 1e6, "accent" if layer.bound == "compute" else "second")
        for layer in shown
    ]
    legend = {"accent": "bound by sums", "second": "bound by memory"}
    return {
        "gpu": extras.sheet.title,
        "source": extras.sheet.source,
        "floors": [
            {"precision": p, "ms": f.seconds * 1e3, "compute": f.compute * 1e3, "memory": f.memory * 1e3,
             "launches": f.launches * 1e3}
            for p, f in floors
        ],
        "chart": charts.spans(bars, f"least µs on {extras.sheet.title}", "least time of each layer", legend, thin=True)
        if bars
        else None,
        "cut": len(first.layers) - len(shown),
        "rows": rows,
        "measured": any(row["measured"] is not None for row in rows),
        "measured_on": extras.measured_on,
        "latency": charts.histogram(extras.latencies, "latency of single calls") if extras.latencies else None,
    }  # fmt: skip


def _slowest(layers: tuple[Layer, ...], count: int) -> tuple[Layer, ...]:
    """The slowest, in the order of the graph."""
    kept = sorted(range(len(layers)), key=lambda i: -layers[i].seconds)[:count]
    return tuple(layers[i] for i in sorted(kept))


def _row(layer: Layer, total: float, profile: dict[str, float]) -> dict[str, Any]:
    seconds = profile.get(layer.name)
    return {
        "name": layer.name,
        "op": layer.kind,
        "macs": layer.macs,
        "bytes": layer.bytes,
        "us": layer.seconds * 1e6,
        "share": layer.seconds / total if total else 0.0,
        "bound": layer.bound,
        "measured": None if seconds is None else seconds * 1e6,
    }
