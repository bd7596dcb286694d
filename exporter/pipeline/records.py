"""What the manifest says of graphs, networks and tools."""

import math
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from ..bundle import TensorSpec
from ..count import Cost
from ..onnx_file.type_names import type_name
from ..reparam import Region, Report
from ..version import __version__

TOOLS = ("torch", "onnx", "onnxscript", "onnxruntime", "onnx-graphsurgeon", "polygraphy", "numpy", "tensorrt-rtx")


def spec(tensor: Any) -> TensorSpec:
    """An input or output of a graph."""
    axes = tuple(int(a) if isinstance(a, (int, np.integer)) else str(a) for a in tensor.shape)
    return TensorSpec(tensor.name, type_name(tensor), axes)


def cost_json(cost: Cost, ops: Mapping[str, int]) -> dict[str, Any]:
    """The cost of a network and its layers by kind."""
    layers = {"convs": ops["conv"], "linears": ops["linear"], "norms": ops["norm"]}
    return {"parameters": cost.parameters, "macs": cost.macs, **layers}


def report_json(report: Report) -> dict[str, Any]:
    """What reparameterization did."""
    return {
        "regions": len(report.regions),
        "worst_region_error": max((r.error for r in report.regions), default=0.0),
        "largest_growth": max((r.growth for r in report.regions if r.growth == r.growth), default=1.0),
        "tracer": report.tracer,
        "end_to_end": _end_to_end_json(report),
        "left_alone": sorted({f"{r.code}: {r.found}; {r.remedy}" for r in report.refusals}),
        "merged": [_region_json(region) for region in report.regions],
    }


def _region_json(region: Region) -> dict[str, Any]:
    """One merged region, by the names of the modules that it was, where they are known, else of its ops."""
    return {
        "name": region.name,
        "modules": list(region.modules or region.merged),
        "ops": len(region.merged),
        "kernel": list(region.kernel),
        "macs_before": region.macs_before,
        "macs_after": region.macs_after,
        "error": region.error,
        "growth": region.growth if math.isfinite(region.growth) else None,
    }


def _end_to_end_json(report: Report) -> dict[str, Any] | str:
    found = report.end_to_end
    if found is None:
        return "skipped"
    return {"shapes": [list(shape) for shape in found.shapes], "error": found.error, "tolerance": found.tolerance}


def versions() -> dict[str, str]:
    """The program, Python and the libraries that take part."""
    found = {"plainconv": __version__, "python": sys.version.split()[0]}
    for name in TOOLS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
