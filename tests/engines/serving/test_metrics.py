"""What the server counts."""

from prometheus_client.parser import text_string_to_metric_families

from plainconv.engines.serving.metrics import Metrics


def samples(metrics: Metrics, **waiting: int) -> dict[str, float]:
    """Every sample by its name and labels, as the text has them. Prometheus's own parser must read it."""
    text = metrics.text(lambda: waiting, lambda: waiting).decode()
    lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    assert len(lines) == sum(len(family.samples) for family in text_string_to_metric_families(text))
    return {name.replace('"', ""): float(value) for name, _, value in lines}


def test_what_is_counted() -> None:
    """Given two requests in one run of three rows, and one refused -> Triton's counters, and histograms."""
    metrics = Metrics()
    metrics.ran("m", 3, 0.004)
    metrics.succeeded("m", 0.006, 0.001, 0.0003, 0.004, 0.0001)
    metrics.succeeded("m", 0.007, 0.002, 0.0003, 0.004, 0.0001)
    metrics.failed("m", "REJECTED")
    metrics.answered("http", "200")
    found = samples(metrics, m=2)
    of = "model=m,version=1"
    wanted = {
        f"nv_inference_request_success{{{of}}}": 2,
        f"nv_inference_request_failure{{{of},reason=REJECTED}}": 1,
        f"nv_inference_count{{{of}}}": 3,
        f"nv_inference_exec_count{{{of}}}": 1,
        f"nv_inference_request_duration_us{{{of}}}": 13000,
        f"nv_inference_queue_duration_us{{{of}}}": 3000,
        f"nv_inference_compute_input_duration_us{{{of}}}": 600,
        f"nv_inference_compute_infer_duration_us{{{of}}}": 8000,
        f"nv_inference_compute_output_duration_us{{{of}}}": 200,
        **{f"nv_inference_request_failure{{{of},reason={reason}}}": 0 for reason in ("CANCELED", "BACKEND", "OTHER")},
        f"plainconv_model_ready{{{of}}}": 1,
        f"nv_inference_pending_request_count{{{of}}}": 2,
        f"plainconv_batch_rows_bucket{{le=4.0,{of}}}": 1,
        f"plainconv_batch_rows_bucket{{le=2.0,{of}}}": 0,
        f"plainconv_request_seconds_count{{{of}}}": 2,
        "plainconv_answers_total{protocol=http,status=200}": 1,
    }
    assert {key: found[key] for key in wanted} == wanted


def test_two_servers_count_apart() -> None:
    one, other = Metrics(), Metrics()
    one.failed("m", "OTHER")
    assert not any("nv_inference_request_failure" in key for key in samples(other))
    assert any("nv_inference_request_failure" in key for key in samples(one))
