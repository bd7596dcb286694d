"""Which layer computes in which type, in each graph of the bundle, and why some stay in a wider one."""

from typing import Any

from ..bundle import Bundle
from ..onnx_file.layer_types import types_in_file

TITLE = "Precision"


def section(bundle: Bundle, extras: Any) -> dict[str, Any] | None:
    """A map of each graph's layers; None where there is but fp32."""
    manifest = bundle.manifest
    named = [(graph.precision, graph) for graph in manifest.graphs]
    named += [(f"{graph.precision} for CPUs", graph) for graph in manifest.cpu_graphs]
    if not named:
        return None
    maps: list[dict[str, Any]] = []
    for name, graph in named:
        types = types_in_file(bundle.file(graph.file))
        kept = {str(each.get("layer")): each for each in graph.kept}
        maps.append(
            {
                "precision": name,
                "tolerance": graph.tolerance,
                "counts": dict(graph.layers),
                "cells": [{"layer": name, "type": kind} for name, kind in types.items()],
                "kept": [
                    {"layer": name, "type": each.get("type"), "reason": each.get("reason")}
                    for name, each in kept.items()
                ],
                "calibration": graph.calibration,
            }
        )
    return {"maps": maps, "types": sorted({cell["type"] for each in maps for cell in each["cells"]})}
