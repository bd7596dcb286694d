"""What the page is told of the counters."""

from types import SimpleNamespace

import pytest

pytest.importorskip("prometheus_client")
pytest.importorskip("PIL")
from plainconv.engines.serving.metrics import Metrics
from plainconv.engines.serving.page.state import HISTOGRAMS, counts_of, state
from plainconv.engines.serving.refusals import UnavailableError


def test_histograms_and_failures_by_model() -> None:
    """Given what was counted -> cumulative counts up to each edge and in all, sums, and failures by reason."""
    metrics = Metrics()
    metrics.ran("m", 3, 0.004)
    metrics.ran("m", 500, 0.004)
    metrics.succeeded("m", 0.006, 0.001, 0.0, 0.004, 0.0)
    metrics.succeeded("m", 99.0, 0.001, 0.0, 0.004, 0.0)
    metrics.succeeded("other", 0.006, 0.001, 0.0, 0.004, 0.0)
    metrics.failed("m", "REJECTED")
    metrics.failed("m", "REJECTED")
    metrics.failed("", "OTHER")
    metrics.answered("http", "200")
    counts = counts_of(metrics.text(lambda: {"m": 3}).decode())
    assert set(counts) == {"m", "other"} and set(counts["m"]) == {"failures", *HISTOGRAMS}
    assert counts["m"]["failures"] == {"REJECTED": 2} and counts["other"]["failures"] == {}
    for histogram in HISTOGRAMS:
        found = counts["m"][histogram]
        assert len(found["counts"]) == len(found["edges"]) + 1 and found["counts"][-1] == 2
        assert found["edges"] == sorted(found["edges"]) and found["counts"] == sorted(found["counts"])
    request, rows = counts["m"]["request"], counts["m"]["rows"]
    assert request["sum"] == pytest.approx(99.006) and request["counts"][-2] == 1
    assert dict(zip(request["edges"], request["counts"], strict=False))[0.005] == 0
    assert dict(zip(request["edges"], request["counts"], strict=False))[0.01] == 1
    assert rows["sum"] == 503 and dict(zip(rows["edges"], rows["counts"], strict=False))[4] == 1


def test_nothing_counted() -> None:
    assert counts_of(Metrics().text().decode()) == {}


@pytest.mark.parametrize(("repository", "names"), [(False, ["a"]), (True, ["a", "b"])])
def test_a_server_that_drains(repository: bool, names: list[str]) -> None:
    """Given a model that is gone just now -> not loaded; others that are not are listed where that is offered."""

    def gone(name: str) -> None:
        raise UnavailableError(f"model {name} is not loaded")

    rows = [{"name": name, "state": "UNAVAILABLE", "reason": "unloaded"} for name in ("a", "b")]
    store = SimpleNamespace(ready=lambda: ("a",), index=lambda: rows, waiting=dict, model=gone)
    options = SimpleNamespace(repository=repository)
    found = state(SimpleNamespace(store=store, options=options, metrics=Metrics(), ready=lambda: False, draining=True))
    assert (found["ready"], found["draining"]) == (False, True) and found["seconds"] >= 0
    assert [(model["name"], model["loaded"]) for model in found["models"]] == [(name, False) for name in names]
