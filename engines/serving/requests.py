"""A request and its answer, whatever protocol carries them."""

from collections.abc import Mapping
from dataclasses import dataclass

from ..runner import Array
from .refusals import BadRequestError, shown

MOST_ID = 1024
_NOT_OFFERED = {
    "shared_memory_region": "shared memory",
    "classification": "classification",
    "sequence_id": "sequences of requests",
}


@dataclass(frozen=True)
class WantedOutput:
    """An output that was asked for; `binary` is how it is to be sent, None as the request says for all."""

    name: str
    binary: bool | None = None


@dataclass(frozen=True)
class InferRequest:
    """Arrays by name, as they were sent; the outputs that are wanted (none: all); how long it may take.

    `binary` says how outputs are to be sent that do not say so themselves; `version` is of the model, "" for any.
    """

    inputs: Mapping[str, Array]
    outputs: tuple[WantedOutput, ...] = ()
    id: str = ""
    timeout_s: float | None = None
    binary: bool = False
    version: str = ""


@dataclass(frozen=True)
class InferResponse:
    """Arrays by name, in the order to be sent, and which of them as binary tensors."""

    model: str
    version: str
    id: str
    outputs: Mapping[str, Array]
    binary: frozenset[str] = frozenset()


def refuse_not_offered(what: str, parameters: Mapping[str, object]) -> None:
    """Raise BadRequestError for a parameter that asks for something else than this server would do."""
    for key, name in _NOT_OFFERED.items():
        if parameters.get(key) not in (None, 0, "", False):
            raise BadRequestError(f"{what} asks for {name} ({key}), which this server does not offer; leave it out")


def timeout_of(parameters: Mapping[str, object]) -> float | None:
    """The seconds of the parameter `timeout`, which is in microseconds. Raises BadRequestError."""
    value = parameters.get("timeout")
    if value is None or value == 0:
        return None
    if type(value) is not int or not 0 < value < 2**53:
        raise BadRequestError(f"the request has timeout {shown(value)}, wanted whole microseconds")
    return value / 1e6


def checked_id(value: object) -> str:
    """The request's id. Raises BadRequestError."""
    if not isinstance(value, str) or len(value) > MOST_ID:
        raise BadRequestError(f"the request has id {shown(value)}, wanted text of up to {MOST_ID} characters")
    return value
