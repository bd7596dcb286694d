"""What the page shows of a server: the models, whether they answer, and what was counted, as JSON can hold it.

The counts are read off the text that Prometheus reads, so that the page and a dashboard tell the same.
"""

import math
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from plainconv.exporter.bundle import TensorSpec

from ..datatypes import datatype_of
from ..model import Model
from ..refusals import RefusedError
from ..service import Service
from ..store import READY
from .reports import has_report

_LINE = re.compile(r"(\w+)\{([^}]*)\} (\S+)")
_LABEL = re.compile(r'(\w+)="([^"]*)"')
HISTOGRAMS: Mapping[str, str] = {
    "request": "plainconv_request_seconds",
    "queue": "plainconv_queue_seconds",
    "compute": "plainconv_compute_seconds",
    "rows": "plainconv_batch_rows",
}
_START = time.monotonic()
_FAILURES = "nv_inference_request_failure"
JsonObject = dict[str, Any]


@dataclass(frozen=True)
class Sample:
    """One line of Prometheus's text."""

    name: str
    labels: Mapping[str, str]
    value: float


def samples(text: str) -> Iterator[Sample]:
    """The lines that have labels, none of which needs escapes; see `metrics`."""
    for name, labels, value in _LINE.findall(text):
        yield Sample(name, dict(_LABEL.findall(labels)), float(value))


def counts_of(text: str) -> dict[str, JsonObject]:
    """By model: its histograms, and its failures by reason.

    A histogram is {"edges", "counts", "sum"}: `counts` has the samples up to each of `edges` (seconds, or rows), and
    one more, all of them.
    """
    found: dict[str, JsonObject] = {}
    parts = {f"{name}_{part}": (key, part) for key, name in HISTOGRAMS.items() for part in ("bucket", "sum")}
    for sample in samples(text):
        model = sample.labels.get("model", "")
        if not model or sample.name not in (*parts, _FAILURES):
            continue
        counts = found.setdefault(model, {"failures": {}})
        if sample.name == _FAILURES:
            if sample.value:
                counts["failures"][sample.labels.get("reason", "")] = int(sample.value)
            continue
        key, part = parts[sample.name]
        histogram = counts.setdefault(key, {"edges": [], "counts": [], "sum": 0.0})
        if part == "sum":
            histogram["sum"] = sample.value
            continue
        edge = float(sample.labels["le"])
        histogram["counts"].append(int(sample.value))
        if math.isfinite(edge):
            histogram["edges"].append(edge)
    return found


def state(service: Service) -> JsonObject:
    """All of it, now. Reads the models' folder where the repository is offered; call it in a thread."""
    counts = counts_of(service.metrics.text(service.store.waiting).decode())
    waiting = service.store.waiting()
    rows = service.store.index() if service.options.repository else [_row(name) for name in service.store.ready()]
    models = []
    for row in rows:
        try:
            model = service.store.model(row["name"])
        except RefusedError:  # not loaded, or not any more
            models.append({"name": row["name"], "loaded": False, "reason": row["reason"]})
            continue
        about = described(model)
        counted = counts.get(row["name"], {"failures": {}})
        if "request" in counted:
            counted["request"]["largest"] = service.metrics.largest(row["name"])
        models.append({**about, "name": row["name"], "waiting": waiting.get(row["name"], 0), "counts": counted})
    return {
        "seconds": time.monotonic() - _START,
        "ready": service.ready(),
        "draining": service.draining,
        "models": models,
    }


def described(model: Model) -> JsonObject:
    """What a loaded model is, what it takes and gives, what its form takes, or why it has none, if it has a report."""
    predictor = model.predictor
    image: JsonObject = {"refused": predictor}
    if not isinstance(predictor, str):
        image = {"takes": str(predictor.preprocessing), "kind": predictor.postprocessing.kind}
    return {
        "loaded": True,
        "backend": model.backend,
        "precision": model.precision,
        "batch": model.covering.most if model.covering else None,
        "inputs": [_tensor(spec) for spec in model.inputs],
        "outputs": [_tensor(spec) for spec in model.outputs],
        "image": image,
        "report": has_report(model),
    }


def _row(name: str) -> Mapping[str, str]:
    return {"name": name, "state": READY, "reason": ""}


def _tensor(spec: TensorSpec) -> JsonObject:
    return {"name": spec.name, "datatype": datatype_of(spec.dtype), "shape": list(spec.shape)}
