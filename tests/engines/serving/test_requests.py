"""What a request's parameters may ask for."""

import pytest

from plainconv.engines.serving.refusals import BadRequestError
from plainconv.engines.serving.requests import checked_id, refuse_not_offered, timeout_of


@pytest.mark.parametrize("value", [None, 0, "", False])
@pytest.mark.parametrize("key", ["shared_memory_region", "classification", "sequence_id"])
def test_what_asks_for_nothing(key: str, value: object) -> None:
    """Given a parameter that asks for nothing, as some clients send -> taken; else refused by its name."""
    refuse_not_offered("the request", {key: value, "other": 1})
    with pytest.raises(BadRequestError, match=rf"the request asks for .* \({key}\), which this server does not offer"):
        refuse_not_offered("the request", {key: 1})


def test_a_timeout() -> None:
    assert timeout_of({}) is None and timeout_of({"timeout": 0}) is None
    assert timeout_of({"timeout": 1_500_000}) == 1.5


@pytest.mark.parametrize("value", [-1, 1.5, "1", True, 2**53, [1]])
def test_a_timeout_that_is_none(value: object) -> None:
    with pytest.raises(BadRequestError, match="wanted whole microseconds"):
        timeout_of({"timeout": value})


def test_an_id() -> None:
    assert checked_id("é" * 1024) == "é" * 1024
    for value in ("x" * 1025, 7, None, ["a"]):
        with pytest.raises(BadRequestError, match="wanted text of up to 1024 characters"):
            checked_id(value)
