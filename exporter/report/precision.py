"""Which layer computes in which type, in each graph of the bundle, and why some stay in a wider one."""

from typing import Any

from ..bundle import Bundle
from ..onnx_file.layer_types import types_in_file

TITLE = "Precision"


def section(bundle: Bundle, extras: Any) -> dict[str, Any] | None:
    """A map of each graph's layers; None where there is but fp32."""
    if not bundle.manifest.graphs:
        return None
    maps: list[dict[str, Any]] = []
    for graph in bundle.manifest.graphs:
        types = types_in_file(bundle.file(graph.file))
        kept = {str(each.get("layer")): each for each in graph.kept}
        maps.append(
            {
                "precision": graph.precision,
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
