"""What the server counts, in the text that Prometheus reads.

Counters have the names that Triton's have, so that what is drawn for Triton fits (times are sums in microseconds):

    nv_inference_request_success, nv_inference_request_failure{reason}    requests
    nv_inference_count, nv_inference_exec_count                           rows, and runs: their ratio is the mean batch
    nv_inference_request_duration_us, nv_inference_queue_duration_us, nv_inference_compute_infer_duration_us
    nv_inference_pending_request_count                                    how many wait now

Histograms beside them: plainconv_request_seconds, plainconv_queue_seconds, plainconv_compute_seconds (of a run) and
plainconv_batch_rows, and plainconv_answers_total by protocol and status. KServe's own are added by the server. A model
has label values only once it is loaded: no request makes a new one.
"""

import threading
from collections.abc import Callable, Mapping

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
    "nv_inference_compute_infer_duration_us": "Microseconds of the runs that requests were in",
}
_PENDING = "nv_inference_pending_request_count"


class Metrics:
    """The counters of one server. From any thread."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._lock = threading.Lock()
        self._counts: dict[str, dict[tuple[str, str], float]] = {name: {} for name in _HELP}
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
            self._add("nv_inference_count", model, rows)
            self._add("nv_inference_exec_count", model, 1)
        self._compute.labels(model, "1").observe(seconds)
        self._rows.labels(model, "1").observe(rows)

    def succeeded(self, model: str, total_s: float, queue_s: float, compute_s: float) -> None:
        """Count a request with a result."""
        with self._lock:
            self._add("nv_inference_request_success", model, 1)
            self._add("nv_inference_request_duration_us", model, total_s * 1e6)
            self._add("nv_inference_queue_duration_us", model, queue_s * 1e6)
            self._add("nv_inference_compute_infer_duration_us", model, compute_s * 1e6)
        self._request.labels(model, "1").observe(total_s)
        self._queue.labels(model, "1").observe(queue_s)

    def failed(self, model: str, reason: str) -> None:
        """Count a request without one."""
        with self._lock:
            self._add("nv_inference_request_failure", model, 1, reason)

    def text(self, waiting: Callable[[], Mapping[str, int]] = dict) -> bytes:
        """All of it, as Prometheus reads it; `waiting` says how many requests wait for each model."""
        with self._lock:
            counts = {name: dict(values) for name, values in self._counts.items()}
        lines = []
        for name, said in _HELP.items():
            lines += [f"# HELP {name} {said}", f"# TYPE {name} counter"]
            lines += [f"{name}{{{_labels(*key)}}} {value:.17g}" for key, value in counts[name].items()]
        lines += [f"# HELP {_PENDING} Requests that wait now", f"# TYPE {_PENDING} gauge"]
        lines += [f"{_PENDING}{{{_labels(model)}}} {count}" for model, count in waiting().items()]
        return "\n".join([*lines, ""]).encode() + generate_latest(self.registry)

    def _histogram(self, name: str, said: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, said, ("model", "version"), buckets=buckets, registry=self.registry)

    def _add(self, name: str, model: str, value: float, reason: str = "") -> None:
        values = self._counts[name]
        values[model, reason] = values.get((model, reason), 0) + value


def _labels(model: str, reason: str = "") -> str:
    """Names of models have no character that would have to be escaped; see `places`."""
    return f'model="{model}",version="1"' + (f',reason="{reason}"' if reason else "")
