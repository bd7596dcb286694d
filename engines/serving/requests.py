"""A request and its answer, whatever protocol carries them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..runner import Array
from .refusals import BadRequestError, shown

MOST_ID = 1024
_NOTHING = (None, 0, "", False)
_REGION = "shared_memory_region"
_NOT_OFFERED = {
    "classification": "classification",
    "sequence_id": "sequences of requests",
}


@dataclass(frozen=True)
class Place:
    """Where a tensor lies in shared memory, as it was sent: a region, the first byte in it, and how many."""

    region: object
    offset: Any
    size: Any


@dataclass(frozen=True)
class SharedInput:
    """An input whose bytes lie in shared memory."""

    datatype: object
    shape: object
    place: Place


@dataclass(frozen=True)
class WantedOutput:
    """An output that was asked for; `binary` is how it is to be sent, None as the request says for all.

    One with a `place` is to be put there.
    """

    name: str
    binary: bool | None = None
    place: Place | None = None


@dataclass(frozen=True)
class InferRequest:
    """Arrays by name, as they were sent; the outputs that are wanted (none: all); how long it may take.

    `binary` says how outputs are to be sent that do not say so themselves; `version` is of the model, "" for any.
    `shared` are inputs that are not among the arrays yet.
    """

    inputs: Mapping[str, Array]
    outputs: tuple[WantedOutput, ...] = ()
    id: str = ""
    timeout_s: float | None = None
    binary: bool = False
    version: str = ""
    shared: Mapping[str, SharedInput] = field(default_factory=dict)


@dataclass(frozen=True)
class InferResponse:
    """Arrays by name, in the order to be sent, which of them as binary tensors, and which lie in shared memory."""

    model: str
    version: str
    id: str
    outputs: Mapping[str, Array]
    binary: frozenset[str] = frozenset()
    places: Mapping[str, Place] = field(default_factory=dict)


def place_of(parameters: Mapping[str, object]) -> Place | None:
    """Where a tensor lies in shared memory, None where its parameters name no region."""
    if parameters.get(_REGION) in _NOTHING:
        return None
    return Place(parameters[_REGION], parameters.get("shared_memory_offset"), parameters.get("shared_memory_byte_size"))


def parameters_of(place: Place) -> dict[str, Any]:
    """The parameters of a tensor that lies there."""
    found = {_REGION: place.region, "shared_memory_offset": place.offset, "shared_memory_byte_size": place.size}
    return {name: value for name, value in found.items() if value}


def refuse_shared(request: "InferRequest") -> None:
    """Raise BadRequestError where a tensor of the request lies in shared memory."""
    placed = (*request.shared, *(o.name for o in request.outputs if o.place))
    if placed:
        what = f"{'input' if request.shared else 'output'} {shown(placed[0])}"
        raise BadRequestError(
            f"{what} asks for shared memory ({_REGION}), which this server does not offer; leave it out"
        )


def refuse_not_offered(what: str, parameters: Mapping[str, object]) -> None:
    """Raise BadRequestError for a parameter that asks for something else than this server would do."""
    for key, name in _NOT_OFFERED.items():
        if parameters.get(key) not in _NOTHING:
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
