"""What a request's parameters may ask for."""

import pytest

from plainconv.engines.serving.refusals import BadRequestError
from plainconv.engines.serving.requests import (
    InferRequest,
    Place,
    SharedInput,
    WantedOutput,
    checked_id,
    parameters_of,
    place_of,
    refuse_not_offered,
    refuse_shared,
    timeout_of,
)


@pytest.mark.parametrize("value", [None, 0, "", False])
@pytest.mark.parametrize("key", ["classification", "sequence_id"])
def test_what_asks_for_nothing(key: str, value: object) -> None:
    """Given a parameter that asks for nothing, as some clients send -> taken; else refused by its name."""
    refuse_not_offered("the request", {key: value, "other": 1})
    with pytest.raises(BadRequestError, match=rf"the request asks for .* \({key}\), which this server does not offer"):
        refuse_not_offered("the request", {key: 1})


@pytest.mark.parametrize("region", [None, 0, "", False])
def test_a_place_that_is_none(region: object) -> None:
    """Given a region that is none, as some clients send -> no place."""
    assert place_of({"shared_memory_region": region, "shared_memory_byte_size": 4}) is None


def test_a_place() -> None:
    """Given a place -> its parameters and back; where none is offered, the first tensor that has one is named."""
    parameters = {"shared_memory_region": "r", "shared_memory_offset": 8, "shared_memory_byte_size": 4}
    assert place_of(parameters) == Place("r", 8, 4) and parameters_of(Place("r", 8, 4)) == parameters
    refuse_shared(InferRequest({}, (WantedOutput("y"),)))
    said = r"asks for shared memory \(shared_memory_region\), which this server does not offer; leave it out$"
    with pytest.raises(BadRequestError, match=f"^input 'x' {said}"):
        refuse_shared(InferRequest({}, shared={"x": SharedInput("FP32", [1], Place("r", 0, 4))}))
    with pytest.raises(BadRequestError, match=f"^output 'y' {said}"):
        refuse_shared(InferRequest({}, (WantedOutput("y", place=Place("r", 0, 4)),)))


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
