"""What the server counts, in the text that Prometheus reads.

Counters have the names that Triton's have, so that what is drawn for Triton fits; times are whole microseconds:

    nv_inference_request_success, nv_inference_request_failure{reason}    requests
    nv_inference_count, nv_inference_exec_count                           rows, and runs: their ratio is the mean batch
    nv_inference_request_duration_us, nv_inference_queue_duration_us      of requests with a result
    nv_inference_compute_input_duration_us, …_infer_…, …_output_…         of the runs they were in, and before and after
    nv_inference_pending_request_count                                    how many wait now

Histograms beside them: plainconv_request_seconds, plainconv_queue_seconds, plainconv_compute_seconds (of a run) and
plainconv_batch_rows; plainconv_answers_total by protocol and status; plainconv_model_ready, 0 once a device was lost.
KServe's own are added by the server. A model has label values only once it is loaded: no request makes a new one.
"""

import bisect
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
_HELP = {
    "nv_inference_request_success": "Requests that got a result",
    "nv_inference_request_failure": "Requests that got none, by reason",
    "nv_inference_count": "Rows computed",
    "nv_inference_exec_count": "Runs of the model",
    "nv_inference_request_duration_us": "Microseconds of all requests, from their decoding to their result",
    "nv_inference_queue_duration_us": "Microseconds that requests waited",
    "nv_inference_compute_input_duration_us": "Microseconds that putting the inputs of their runs together took",
    "nv_inference_compute_infer_duration_us": "Microseconds of the runs that requests were in",
    "nv_inference_compute_output_duration_us": "Microseconds that taking the outputs of their runs apart took",
}
_TIMES = ("queue", "compute_input", "compute_infer", "compute_output")
REASONS = ("REJECTED", "CANCELED", "BACKEND", "OTHER")
_PENDING, _READY = "nv_inference_pending_request_count", "plainconv_model_ready"


@dataclass
class Counts:
    """Of one model; times in nanoseconds. `runs` is by rows: how many, and how long they took."""

    succeeded: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    success_ns: int = 0
    failure_ns: int = 0
    times_ns: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_TIMES, 0))
    runs: dict[int, tuple[int, int]] = field(default_factory=dict)
    last_ms: int = 0


class Metrics:
    """The counters of one server. From any thread."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._lock = threading.Lock()
        self._counts: dict[str, Counts] = {}
        self._largest: dict[str, list[float]] = {}
        self._request = self._histogram("plainconv_request_seconds", "Of a request with a result", _SECONDS)
        self._queue = self._histogram("plainconv_queue_seconds", "That a request waited", _SECONDS)
        self._compute = self._histogram("plainconv_compute_seconds", "Of a run of the model", _SECONDS)
        self._rows = self._histogram("plainconv_batch_rows", "Rows of a run of the model", _ROWS)
        self._answers = Counter(
            "plainconv_answers", "Answers of any kind", ("protocol", "status"), registry=self.registry
        )

    def answered(self, protocol: str, status: str) -> None:
        """Count an answer to anything, of that status."""
        self._answers.labels(protocol, status).inc()

    def ran(self, model: str, rows: int, seconds: float) -> None:
        """Count a run of a model."""
        with self._lock:
            counts = self._of(model)
            runs, took = counts.runs.get(rows, (0, 0))
            counts.runs[rows] = (runs + 1, took + _ns(seconds))
        self._compute.labels(model, "1").observe(seconds)
        self._rows.labels(model, "1").observe(rows)

    def succeeded(
        self, model: str, total_s: float, queue_s: float, input_s: float, compute_s: float, output_s: float
    ) -> None:
        """Count a request with a result."""
        with self._lock:
            counts = self._of(model)
            counts.succeeded += 1
            largest = self._largest.setdefault(model, [0.0] * (len(_SECONDS) + 1))
            bucket = bisect.bisect_left(_SECONDS, total_s)
            largest[bucket] = max(largest[bucket], total_s)
            counts.success_ns += _ns(total_s)
            counts.last_ms = int(time.time() * 1e3)
            for name, seconds in zip(_TIMES, (queue_s, input_s, compute_s, output_s), strict=True):
                counts.times_ns[name] += _ns(seconds)
        self._request.labels(model, "1").observe(total_s)
        self._queue.labels(model, "1").observe(queue_s)

    def largest(self, model: str) -> list[float]:
        """The longest request with a result in each bucket of plainconv_request_seconds; 0 where there was none."""
        with self._lock:
            return list(self._largest.get(model, ()))

    def failed(self, model: str, reason: str, seconds: float = 0.0) -> None:
        """Count a request without one."""
        with self._lock:
            counts = self._of(model)
            counts.failed[reason] = counts.failed.get(reason, 0) + 1
            counts.failure_ns += _ns(seconds)

    def statistics(self, model: str) -> dict[str, Any]:
        """What was counted of a model, as Triton's clients ask for it; times in nanoseconds."""
        with self._lock:
            counts = self._of(model)
            succeeded, failed = counts.succeeded, sum(counts.failed.values())
            stats = {name: {"count": succeeded, "ns": ns} for name, ns in counts.times_ns.items()}
            stats["success"] = {"count": succeeded, "ns": counts.success_ns}
            stats["fail"] = {"count": failed, "ns": counts.failure_ns}
            return {
                "last_inference": counts.last_ms,
                "inference_count": sum(rows * runs for rows, (runs, _) in counts.runs.items()),
                "execution_count": sum(runs for runs, _ in counts.runs.values()),
                "inference_stats": stats,
                "batch_stats": [
                    {"batch_size": rows, "compute_infer": {"count": runs, "ns": took}}
                    for rows, (runs, took) in sorted(counts.runs.items())
                ],
            }

    def text(
        self, waiting: Callable[[], Mapping[str, int]] = dict, ready: Callable[[], Collection[str]] = tuple
    ) -> bytes:
        """All of it, as Prometheus reads it; `waiting` says how many wait for each model that is loaded."""
        loaded, can_compute = waiting(), ready()
        with self._lock:
            for model in loaded:
                self._of(model)
            values = {model: _values(model, counts) for model, counts in self._counts.items()}
        lines = []
        for name, said in _HELP.items():
            lines += [f"# HELP {name} {said}", f"# TYPE {name} counter"]
            lines += [f"{name}{{{labels}}} {value}" for own in values.values() for labels, value in own[name]]
        lines += [f"# HELP {_PENDING} Requests that wait now", f"# TYPE {_PENDING} gauge"]
        lines += [f"{_PENDING}{{{_labels(model)}}} {count}" for model, count in loaded.items()]
        lines += [f"# HELP {_READY} Whether a model that is loaded can compute", f"# TYPE {_READY} gauge"]
        lines += [f"{_READY}{{{_labels(model)}}} {int(model in can_compute)}" for model in loaded]
        return "\n".join([*lines, ""]).encode() + generate_latest(self.registry)

    def _of(self, model: str) -> Counts:
        return self._counts.setdefault(model, Counts())

    def _histogram(self, name: str, said: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, said, ("model", "version"), buckets=buckets, registry=self.registry)


def _values(model: str, counts: Counts) -> dict[str, list[tuple[str, int]]]:
    """The labels and values of each counter of a model."""
    runs = counts.runs.items()
    values = {
        "nv_inference_request_success": counts.succeeded,
        "nv_inference_count": sum(rows * number for rows, (number, _) in runs),
        "nv_inference_exec_count": sum(number for _, (number, _) in runs),
        "nv_inference_request_duration_us": counts.success_ns // 1000,
        **{f"nv_inference_{name}_duration_us": ns // 1000 for name, ns in counts.times_ns.items()},
    }
    found = {name: [(_labels(model), value)] if model else [] for name, value in values.items()}
    failed = dict.fromkeys(REASONS, 0) | counts.failed if model else counts.failed
    found["nv_inference_request_failure"] = [(_labels(model, reason), value) for reason, value in failed.items()]
    return found


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)


def _labels(model: str, reason: str = "") -> str:
    """Names of models have no character that would have to be escaped; see `places`."""
    return f'model="{model}",version="1"' + (f',reason="{reason}"' if reason else "")
