"""gRPC's messages to an `InferRequest` and back. They are taken by their fields: this file imports no gRPC.

Inputs are raw, one in `raw_input_contents` for each, or typed, in `contents`; outputs are sent as the inputs were. A
message keeps its bytes apart from NumPy's, so that an output is copied once; an input is not. Tensors in shared memory
have no contents, but an output of them an empty one where the others are raw.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...runner import Array
from ..datatypes import datatype_of_dtype
from ..refusals import BadRequestError, shown
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
from ..rest.codec import MOST_TENSORS
from ..tensors import array_of_bytes, array_of_numbers, bytes_of

_CONTENTS = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}

_DTYPES = {
    "bool_contents": "bool",
    "uint_contents": "uint32",
    "uint64_contents": "uint64",
    "int_contents": "int32",
    "int64_contents": "int64",
    "fp32_contents": "float32",
    "fp64_contents": "float64",
}


def decode(message: Any, remaining_s: float | None = None) -> InferRequest:
    """The request in a ModelInferRequest, whose sender waits `remaining_s` more. Raises BadRequestError."""
    raw, tensors = message.raw_input_contents, message.inputs
    if len(tensors) > MOST_TENSORS or len(message.outputs) > MOST_TENSORS:
        raise BadRequestError(f"the request has more than {MOST_TENSORS} tensors")
    places = [place_of(_parameters(tensor.parameters)) for tensor in tensors]
    here = places.count(None)
    if len(raw) and len(raw) != here:
        raise BadRequestError(f"the request has {len(raw)} raw_input_contents, wanted one for each of {here} inputs")
    parameters = _parameters(message.parameters)
    refuse_not_offered("the request", parameters)
    inputs: dict[str, Array] = {}
    shared: dict[str, SharedInput] = {}
    contents = iter(raw)
    for tensor, place in zip(tensors, places, strict=True):
        name = tensor.name
        if name in inputs or name in shared:
            raise BadRequestError(f"input {shown(name)} is given twice")
        refuse_not_offered(f"input {shown(name)}", _parameters(tensor.parameters))
        if place:
            if tensor.HasField("contents"):
                raise BadRequestError(f"input {shown(name)} has a region of shared memory and contents as well")
            shared[name] = SharedInput(tensor.datatype, list(tensor.shape), place)
        elif len(raw):
            if tensor.HasField("contents"):
                raise BadRequestError(f"input {shown(name)} has contents and raw_input_contents, wanted one of them")
            inputs[name] = array_of_bytes(name, tensor.datatype, list(tensor.shape), next(contents))
        else:
            inputs[name] = _typed(tensor)
    timeouts = [limit for limit in (timeout_of(parameters), remaining_s) if limit is not None]
    return InferRequest(
        inputs,
        tuple(_wanted(output) for output in message.outputs),
        checked_id(message.id),
        min(timeouts) if timeouts else None,
        binary=len(raw) > 0 or len(shared) > 0,
        version=message.model_version,
        shared=shared,
    )


def encode(response: InferResponse, answer: Any) -> Any:
    """Fill `answer`, an empty ModelInferResponse, and give it back."""
    answer.model_name, answer.model_version, answer.id = response.model, response.version, response.id
    raw = response.binary | response.places.keys() == response.outputs.keys() or not all(
        datatype_of_dtype(array.dtype) in _CONTENTS for array in response.outputs.values()
    )
    for name, array in response.outputs.items():
        datatype = datatype_of_dtype(array.dtype)
        output = answer.outputs.add(name=name, datatype=datatype, shape=array.shape)
        if name in response.places:
            for key, value in parameters_of(response.places[name]).items():
                kind = "string_param" if isinstance(value, str) else "int64_param"
                setattr(output.parameters[key], kind, value)
            if raw:
                answer.raw_output_contents.append(b"")  # so that they are as many as the outputs
        elif raw:
            answer.raw_output_contents.append(bytes(bytes_of(array)))
        else:
            getattr(output.contents, _CONTENTS[datatype]).extend(array.reshape(-1).tolist())
    return answer


def _typed(tensor: Any) -> Array:
    """The array of an input whose numbers are in the field of their type."""
    field = _CONTENTS.get(tensor.datatype)
    if field is None:
        raise BadRequestError(
            f"input {shown(tensor.name)} has datatype {shown(tensor.datatype)}; give it in raw_input_contents, "
            f"or one of {', '.join(_CONTENTS)} in contents"
        )
    others = [other.name for other, _ in tensor.contents.ListFields() if other.name != field]
    if others:
        raise BadRequestError(f"input {shown(tensor.name)} has {others[0]}, wanted {field} for {tensor.datatype}")
    numbers = np.array(getattr(tensor.contents, field), _DTYPES[field])
    if field in ("fp32_contents", "fp64_contents") and numbers.size == math.prod(tensor.shape):
        return array_of_bytes(tensor.name, tensor.datatype, list(tensor.shape), bytes_of(numbers))  # NaN is a number
    return array_of_numbers(tensor.name, tensor.datatype, list(tensor.shape), numbers)


def _wanted(output: Any) -> WantedOutput:
    parameters = _parameters(output.parameters)
    refuse_not_offered(f"output {shown(output.name)}", parameters)
    return WantedOutput(output.name, place=place_of(parameters))


def _parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """A map of InferParameter messages as Python's values."""
    found: dict[str, Any] = {}
    for key, value in parameters.items():
        choice = value.WhichOneof("parameter_choice")
        found[key] = getattr(value, choice) if choice else None
    return found
