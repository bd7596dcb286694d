"""The parts of a split network on a timeline, and what is sent between devices."""

from collections.abc import Mapping
from typing import Any

from ..bundle import Bundle, SplitRecord
from ..partition import Prediction, prediction_of_json
from ..partition.picture import size
from ..partition.planner import micro
from . import charts

TITLE = "Parts"


def section(bundle: Bundle, extras: Any) -> dict[str, Any] | None:
    """A timeline and a table of copies for each split; None where there is none."""
    return {"splits": [_split(split) for split in bundle.splits]} if bundle.splits else None


def _split(split: SplitRecord) -> dict[str, Any]:
    found: dict[str, Any] = {
        "precision": split.precision,
        "devices": split.devices,
        "streams": split.streams,
        "parts": [
            {"name": p.name, "device": p.device, "stream": p.stream, "file": p.file,
             "reads": [f"{spec.name} {'×'.join(map(str, spec.shape))}" for spec in p.inputs],
             "writes": [f"{spec.name} {'×'.join(map(str, spec.shape))}" for spec in p.outputs]}
            for p in split.parts
        ],
        "asked": split.plan.get("asked"),
        "refusal": split.plan.get("refusal"),
        "chart": None,
        "edges": [],
        "seconds": None,
    }  # fmt: skip
    predicted = _prediction(split)
    if predicted is not None:
        found |= {
            "chart": _timeline(predicted, split),
            "edges": [
                {"from": edge.source or "input", "to": edge.device, "value": edge.value, "bytes": size(edge.bytes),
                 "takes": micro(edge.arrival - edge.begin), "critical": edge.critical}
                for edge in predicted.edges
            ],
            "seconds": micro(predicted.seconds),
            "whole": micro(predicted.whole),
            "speedup": f"{predicted.speedup:.2f}",
            "sent": size(predicted.sent),
            "path": " ▸ ".join(predicted.critical),
        }  # fmt: skip
    return found


def _prediction(split: SplitRecord) -> Prediction | None:
    """What the plan says that it takes; a section that another program may have left out."""
    data = split.plan.get("prediction")
    if not isinstance(data, Mapping):
        return None
    try:
        return prediction_of_json(data)
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def _timeline(predicted: Prediction, split: SplitRecord) -> Any:
    bars = []
    for part in sorted(predicted.parts, key=lambda p: (p.device, p.stream, p.start)):
        row = f"device {part.device}" + (f" stream {part.stream}" if split.streams > 1 else "")
        label = part.name if len(part.name) <= 12 else part.name.rpartition(".")[2]
        color = "accent" if part.critical else "second"
        bars.append(charts.Bar(row, part.start * 1e6, (part.finish - part.start) * 1e6, color, label))
    for edge in predicted.edges:
        row, color = f"to device {edge.device}", "warn" if edge.critical else "soft"
        bars.append(charts.Bar(row, edge.begin * 1e6, max(edge.arrival - edge.begin, 1e-9) * 1e6, color))
    kinds = ("parts waited for", "other parts", "copies waited for", "other copies")
    legend = dict(zip(("accent", "second", "warn", "soft"), kinds, strict=True))
    return charts.spans(bars, "µs from the start, predicted", f"the {split.precision} parts on a timeline", legend)
