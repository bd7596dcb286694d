"""REST, given what nobody means to send: a 4xx with one sentence, or a result; and the next request is served.

`python tests/benchmarks/fuzz_serve.py` does the same with ten thousand requests and more.
"""

import importlib.util
from typing import Any

import fuzz_requests as fuzz
import pytest
from hypothesis import HealthCheck, example, given, settings

pytestmark = pytest.mark.skipif(importlib.util.find_spec("kserve") is None, reason="needs kserve")


seeded = settings(derandomize=True, database=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(autouse=True)
def serves_on(server: Any) -> Any:
    seen = len(server.lines)
    yield
    server.ask("POST", "/v2/repository/models/one/load")
    assert fuzz.is_serving(server.http) and fuzz.is_serving(server.http, "one")
    assert [line for line in server.lines[seen:] if not line.startswith(("serving ", "exporter: "))] == []
    assert not [line for line in server.lines[seen:] if "fault of the server" in line]


@settings(seeded, max_examples=200)
@given(request=fuzz.rest_infers())
@example(request=fuzz.EMPTY_AND_HUGE)
def test_infer(server: Any, request: Any) -> None:
    assert list(fuzz.rest_problems(request, fuzz.exchanged(server.http, request.bytes))) == []


@settings(seeded, max_examples=100)
@given(request=fuzz.rest_others())
def test_other_paths(server: Any, request: Any) -> None:
    assert list(fuzz.rest_problems(request, fuzz.exchanged(server.http, request.bytes))) == []


@settings(seeded, max_examples=100)
@given(data=fuzz.HTTP_BYTES)
@example(data=fuzz.TWO_AND_GONE)
def test_hardly_http(server: Any, data: bytes) -> None:
    """Given bytes -> only statuses below 500, or none; the connection ends."""
    assert not {s for s in fuzz.statuses_of(fuzz.exchanged(server.http, data, half_closed=True)) if s >= 500}
