"""Every comparison with the eager network in float64, against its tolerance."""

from collections.abc import Mapping
from typing import Any

from ..bundle import Bundle, slice_words
from . import charts

TITLE = "Parity"
MOST = 60
COLORS = {"held": "good", "failed": "bad", "not certified": "warn"}


def section(bundle: Bundle, extras: Any) -> dict[str, Any]:
    """The chart, one row a step and output, and the same as a table."""
    rows = [_row(p) for p in bundle.manifest.parities]
    kinds: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row["error"] is not None and row["tolerance"]:
            kinds.setdefault(row["measure"], []).append(row)
    drawn = []
    for measure, some in kinds.items():
        title = f"{measure} of each step"
        bars = [
            ("\n".join(r["names"]), r["error"], r["tolerance"], r["own"], COLORS.get(r["state"], "soft"))
            for r in some[:MOST]
        ]
        drawn.append({"title": title, "svg": charts.errors(bars, title), "cut": max(0, len(some) - MOST)})
    counted = [row for row in rows if row["accuracy"]]
    return {"rows": rows, "charts": drawn, "counted": bool(counted)}


MEASURES = {
    "max": "largest error",
    "rms": "root mean square error",
    "agreement": "share that differs",
    "overlap": "1 − overlap of boxes",
}


def _row(p: Mapping[str, Any]) -> dict[str, Any]:
    status = str(p.get("status") or "")
    output = f"{p.get('output') or ''}{slice_words(p.get('axis'), p.get('index'))}"
    names = [name for name in (str(p.get("step") or ""), output) if name]
    return {
        "names": names,
        "name": " · ".join(names),
        "measure": MEASURES.get(str(p.get("measure")), "error"),
        "error": p.get("error"),
        "tolerance": p.get("tolerance"),
        "own": p.get("own_error"),
        "top1": p.get("top1"),
        "accuracy": _accuracy(p.get("accuracy") or {}),
        "state": status.partition(":")[0],
        "reason": status.partition(": ")[2],
    }


def _accuracy(found: Mapping[str, Any]) -> str:
    scores = found.get("scores")
    if isinstance(scores, Mapping):
        return ", ".join(f"{name} {score:.4f}" for name, score in scores.items())
    return f"{found.get('correct')} of {found.get('images')}" if found.get("images") else ""
