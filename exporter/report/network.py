"""The plain network as a drawing, and what each of its merged convolutions was."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..bundle import Bundle
from ..partition import read_model, wiring_of
from .drawing import MOST, boxes_of, drawn

TITLE = "Network"


def section(bundle: Bundle, extras: Any) -> dict[str, Any]:
    """The drawing, the merged regions, and what was left alone."""
    record = bundle.manifest.extra.get("reparameterization") or {}
    regions = [_region(i, each) for i, each in enumerate(record.get("merged") or ()) if isinstance(each, Mapping)]
    model = read_model(bundle.onnx)
    wiring = wiring_of(model)
    boxes = boxes_of(model, wiring)
    links = {r["name"]: f"{r['id']} {r['ops']}→1" for r in regions}
    drawing = drawn(boxes, links, wiring.inputs, wiring.outputs) if len(boxes) <= MOST else None
    shown = {name for box in boxes for name in box.names}
    for region in regions:
        region["kept"] = region["name"] in shown
    left = record.get("left_alone") or ()
    return {
        "drawing": drawing,
        "boxes": len(boxes),
        "regions": regions,
        "counted": record.get("regions"),
        "worst": record.get("worst_region_error"),
        "end_to_end": record.get("end_to_end"),
        "tracer": record.get("tracer"),
        "left_alone": _grouped([_reason(str(each)) for each in left]),
    }


def _region(i: int, record: Mapping[str, Any]) -> dict[str, Any]:
    kernel: Sequence[int] = record.get("kernel") or ()
    shape = f"{'×'.join(map(str, kernel[2:]))} conv" if kernel[2:] else "linear layer"
    return {
        "id": f"region-{i}",
        "name": str(record.get("name")),
        "modules": [str(name) for name in record.get("modules") or ()],
        "ops": record.get("ops"),
        "shape": f"{shape}, {kernel[0]} channels" if kernel else "conv",
        "before": record.get("macs_before"),
        "after": record.get("macs_after"),
        "error": record.get("error"),
        "growth": record.get("growth"),
    }


def _grouped(reasons: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """Reasons of one code and one remedy together."""
    found: dict[tuple[str, str], list[str]] = {}
    for each in reasons:
        found.setdefault((each["code"], each["remedy"]), []).append(each["found"])
    return [{"code": code, "remedy": remedy, "found": each} for (code, remedy), each in found.items()]


def _reason(text: str) -> dict[str, str]:
    """Of "CODE: what was found; what to do" each of the three."""
    code, _, rest = text.partition(": ")
    found, _, remedy = rest.rpartition("; ")
    return {"code": code, "found": found or rest, "remedy": remedy if found else ""}
