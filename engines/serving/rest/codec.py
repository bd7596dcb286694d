"""A request's body to an `InferRequest`, an `InferResponse` to what is sent: JSON, then any binary tensors.

The JSON is as long as the header Inference-Header-Content-Length says, else it is the whole body. Binary tensors follow
in the order of the inputs that have `binary_data_size`.
"""

import re
from collections.abc import Mapping
from typing import Any

import orjson

from ...runner import Array
from ..datatypes import datatype_of_dtype
from ..refusals import BadRequestError, TooLargeError, shown
from ..requests import (
    InferRequest,
    InferResponse,
    SharedInput,
    WantedOutput,
    checked_id,
    parameters_of,
    place_of,
    refuse_not_offered,
    timeout_of,
)
from ..tensors import array_of_bytes, array_of_numbers, bytes_of, numbers_of

MOST_TENSORS = 256
MOST_JSON = 16 * 2**20  # nothing else runs in this process while it is read
HEADER_LENGTH = "inference-header-content-length"
_LENGTH = re.compile(r"0|[1-9][0-9]{0,17}")


def header_length(value: str | None, body: int) -> int | None:
    """How many of the body's bytes are JSON, None where all are. Raises BadRequestError."""
    if value is None:
        return None
    if not _LENGTH.fullmatch(value) or int(value) > body:
        raise BadRequestError(f"{HEADER_LENGTH} is {shown(value)}, wanted up to the {body} bytes of the body")
    return int(value)


def decode(body: memoryview, json_length: int | None = None) -> InferRequest:
    """The request in `body`; its binary tensors stay there.

    Raises BadRequestError at the first thing that is wrong, TooLargeError where there is too much JSON.
    """
    length = len(body) if json_length is None else json_length
    if length > MOST_JSON:
        raise TooLargeError(f"the request has {length} bytes of JSON, wanted up to {MOST_JSON}; send binary tensors")
    request = _json(body[:length])
    parameters = _parameters("the request", request)
    refuse_not_offered("the request", parameters)
    inputs, shared, end = _inputs(request, body, length, binary_follows=json_length is not None)
    if end != len(body):
        raise BadRequestError(f"the body has {len(body) - end} bytes more than its inputs say; see binary_data_size")
    return InferRequest(
        inputs,
        _outputs(request),
        checked_id(request.get("id") or ""),
        timeout_of(parameters),
        _flag("the request", parameters, "binary_data_output") or False,
        shared=shared,
    )


def encode(response: InferResponse) -> tuple[list[bytes | memoryview], int | None]:
    """What to send, piece by piece, and the length of its JSON; None where all of it is JSON."""
    outputs, tensors = [], []
    for name, array in response.outputs.items():
        output: dict[str, Any] = {"name": name, "datatype": datatype_of_dtype(array.dtype), "shape": list(array.shape)}
        if name in response.places:
            output["parameters"] = parameters_of(response.places[name])
        elif name in response.binary:
            output["parameters"] = {"binary_data_size": array.nbytes}
            tensors.append(bytes_of(array))
        else:
            output["data"] = numbers_of(array)
        outputs.append(output)
    answer: dict[str, Any] = {"model_name": response.model, "model_version": response.version}
    if response.id:
        answer["id"] = response.id
    header = orjson.dumps(answer | {"outputs": outputs}, option=orjson.OPT_SERIALIZE_NUMPY)
    return [header, *tensors], len(header) if tensors else None


def object_of(body: memoryview | bytes, what: str) -> dict[str, Any]:
    """The JSON object in `body`, {} where it is empty. Raises BadRequestError."""
    return _json(body, what) if len(body) else {}


def _json(body: memoryview | bytes, what: str = "the request") -> dict[str, Any]:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        said = f"{error.msg} at line {error.lineno}, column {error.colno}"
        raise BadRequestError(f"{what} is not JSON ({said[:120]})") from None
    if not isinstance(value, dict):
        raise BadRequestError(f"{what} is a JSON {_kind(value)}, wanted an object")
    return value


def _inputs(request: Mapping[str, Any], body: memoryview, start: int, *, binary_follows: bool) -> Any:
    """The arrays by name, those in shared memory, and where the binary tensors end."""
    inputs: dict[str, Array] = {}
    shared: dict[str, SharedInput] = {}
    for tensor in _objects(request, "inputs"):
        name = _name("inputs", tensor)
        if name in inputs or name in shared:
            raise BadRequestError(f"input {shown(name)} is given twice")
        parameters = _parameters(f"input {shown(name)}", tensor)
        refuse_not_offered(f"input {shown(name)}", parameters)
        datatype, shape, data = tensor.get("datatype"), tensor.get("shape"), tensor.get("data")
        size, place = parameters.get("binary_data_size"), place_of(parameters)
        if place:
            if "data" in tensor or size is not None:
                raise BadRequestError(f"input {shown(name)} has a region of shared memory and data as well")
            shared[name] = SharedInput(datatype, shape, place)
            continue
        if size is None:
            if "data" not in tensor:
                raise BadRequestError(f"input {shown(name)} has neither data nor binary_data_size")
            inputs[name] = array_of_numbers(name, datatype, shape, data)
            continue
        if "data" in tensor or not binary_follows:
            found = "data as well" if "data" in tensor else f"the request no header {HEADER_LENGTH}"
            raise BadRequestError(f"input {shown(name)} has binary_data_size and {found}")
        if type(size) is not int or not 0 <= size <= len(body) - start:
            raise BadRequestError(
                f"input {shown(name)} has binary_data_size {shown(size)}, and {len(body) - start} bytes follow"
            )
        inputs[name] = array_of_bytes(name, datatype, shape, body[start : start + size])
        start += size
    return inputs, shared, start


def _outputs(request: Mapping[str, Any]) -> tuple[WantedOutput, ...]:
    wanted = []
    for tensor in _objects(request, "outputs") if request.get("outputs") is not None else ():
        name = _name("outputs", tensor)
        parameters = _parameters(f"output {shown(name)}", tensor)
        refuse_not_offered(f"output {shown(name)}", parameters)
        is_binary = _flag(f"output {shown(name)}", parameters, "binary_data")
        wanted.append(WantedOutput(name, is_binary, place_of(parameters)))
    return tuple(wanted)


def _objects(request: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    value = request.get(key)
    if not isinstance(value, list) or len(value) > MOST_TENSORS:
        found = "no" if value is None else f"{len(value)}" if isinstance(value, list) else "other"
        raise BadRequestError(f"the request has {found} {key}, wanted a list of up to {MOST_TENSORS} tensors")
    if not all(isinstance(tensor, dict) for tensor in value):
        raise BadRequestError(f"the request has something else than tensors (JSON objects) in its {key}")
    return value


def _name(key: str, tensor: Mapping[str, Any]) -> str:
    name = tensor.get("name")
    if not isinstance(name, str):
        raise BadRequestError(f"the request has a tensor named {shown(name)} in its {key}, wanted a name")
    return name


def _parameters(what: str, holder: Mapping[str, Any]) -> Mapping[str, Any]:
    parameters = holder.get("parameters")
    if parameters is not None and not isinstance(parameters, dict):
        raise BadRequestError(f"{what} has parameters {shown(parameters)}, wanted an object")
    return parameters or {}


def _flag(what: str, parameters: Mapping[str, Any], key: str) -> bool | None:
    value = parameters.get(key)
    if value is not None and type(value) is not bool:
        raise BadRequestError(f"{what} has {key} {shown(value)}, wanted true or false")
    return value


def _kind(value: object) -> str:
    return {list: "list", str: "text", type(None): "null", bool: "truth value"}.get(type(value), "number")
