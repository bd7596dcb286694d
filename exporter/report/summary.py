"""What the bundle is, in a few numbers, and what is to be known of it first."""

from collections.abc import Mapping
from typing import Any

from ..bundle import Bundle
from . import charts

TITLE = "Summary"
TORCH = {
    "conv1d": "Conv", "conv2d": "Conv", "conv3d": "Conv", "conv_transpose2d": "ConvTranspose", "linear": "Gemm",
    "batch_norm": "BatchNormalization", "leaky_relu": "LeakyRelu", "hardswish": "HardSwish", "max_pool2d": "MaxPool",
    "avg_pool2d": "AveragePool", "adaptive_avg_pool2d": "GlobalAveragePool", "mean": "ReduceMean", "cat": "Concat",
    "view": "Reshape", "permute": "Transpose", "upsample_nearest2d": "Resize", "constant_pad_nd": "Pad",
    "matmul": "MatMul",
}  # fmt: skip
"""What ONNX calls an op of PyTorch."""
FORMS = (("training", "training form"), ("plain", "plain network"), ("onnx", "ONNX graph"))
MOST_OPS = 16


def section(bundle: Bundle, extras: Any) -> dict[str, Any]:
    """Sizes before and after, ops before and after, warnings."""
    counts = bundle.manifest.counts
    forms = [{"form": words, **counts[form]} for form, words in FORMS if isinstance(counts.get(form), Mapping)]
    left = bundle.manifest.extra.get("left_out") or ()
    return {
        "verdict": _verdict(bundle),
        "forms": forms,
        "tiles": _tiles(counts),
        "ops": _ops(counts),
        "warnings": list(bundle.manifest.extra.get("warnings") or ()),
        "left_out": [f"{each.get('precision')}: {each.get('reason')}" for each in left if isinstance(each, Mapping)],
    }


def _verdict(bundle: Bundle) -> tuple[str, str]:
    """The state of its parities as a color, and in words."""
    parities = [p for p in bundle.manifest.parities if p.get("output")]
    states = [str(p.get("status")) for p in parities]
    if not states:
        return "warn", "no parity is on record: exporter validate measures it"
    failed = sum(state.startswith("failed") for state in states)
    if failed:
        return "bad", f"{failed} of {len(states)} parities failed"
    open_ = sum(state.startswith("not certified") for state in states)
    if open_:
        return "warn", f"{open_} of {len(states)} parities certify nothing"
    held = sum(state == "held" for state in states)
    rest = len(states) - held
    return "good", f"{held} parities hold" + (f"; {rest} could not be run where they were measured" if rest else "")


def _tiles(counts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Before → after of what can be compared."""
    before, after = counts.get("training") or {}, counts.get("onnx") or {}
    found = []
    for name, unit in (("parameters", ""), ("macs", "MACs")):
        if before.get(name) and after.get(name):
            found.append({"name": unit or name, "before": before[name], "after": after[name]})
    a, b = _total(before), _total(after)
    if a and b:
        found.append({"name": "ops", "before": a, "after": b})
    return found


def _total(form: Mapping[str, Any]) -> int:
    return sum((form.get("ops") or {}).values())


def _ops(counts: Mapping[str, Any]) -> Any:
    """Ops by kind, before and after; None where one side is not known."""
    before, after = ((counts.get(form) or {}).get("ops") for form in ("training", "onnx"))
    if not before or not after:
        return None
    known: dict[str, int] = {}
    for op, count in before.items():
        name = _onnx_name(op)
        known[name] = known.get(name, 0) + count
    names = sorted({*known, *after}, key=lambda op: (-known.get(op, 0) - after.get(op, 0), op))[:MOST_OPS]
    values = [[float(side.get(name, 0)) for name in names] for side in (known, after)]
    return charts.pairs(names, values[0], values[1], "ops by kind, in the training form and in the ONNX graph")


def _onnx_name(op: str) -> str:
    """The name of an op of PyTorch in ONNX's spelling; one of an ONNX file has it already."""
    if op[:1].isupper():
        return op
    op = op.rstrip("_")
    return TORCH.get(op) or "".join(part.capitalize() for part in op.split("_"))
