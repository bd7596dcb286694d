"""The protocol's REST paths as an OpenAPI document, for schemathesis: what is taken, and what is answered."""

from typing import Any

DATATYPES = ["BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64"]
_NAMES = {"type": "string", "enum": ["open", "one"]}
_PARAMETERS = {"type": "object", "additionalProperties": {"type": ["string", "integer", "boolean"]}}
_NUMBERS = {"type": "array", "items": {"type": "number"}, "minItems": 0, "maxItems": 12}
_INPUT = {
    "type": "object",
    "required": ["name", "shape", "datatype", "data"],
    "properties": {
        "name": {"type": "string", "enum": ["x"]},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 8}, "maxItems": 4},
        "datatype": {"type": "string", "enum": DATATYPES},
        "parameters": _PARAMETERS,
        "data": {"anyOf": [_NUMBERS, {"type": "array", "items": _NUMBERS, "maxItems": 4}]},
    },
}
_OUTPUT = {
    "type": "object",
    "required": ["name"],
    "properties": {"name": {"type": "string", "enum": ["y"]}, "parameters": _PARAMETERS},
}
_INFER = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string"},
        "parameters": _PARAMETERS,
        "inputs": {"type": "array", "items": _INPUT, "minItems": 1, "maxItems": 3},
        "outputs": {"type": "array", "items": _OUTPUT, "maxItems": 2},
    },
}
_ERROR = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string", "minLength": 1}}}
_INDEX = {"type": "object", "properties": {"ready": {"type": "boolean"}}}


def document() -> dict[str, Any]:
    """The document. Repository calls that would unload a model are left out."""
    model, version = _path("model_name", _NAMES), _path("model_version", {"type": "string", "enum": ["1"]})
    of_version = "/v2/models/{model_name}/versions/{model_version}"
    return {
        "openapi": "3.1.0",
        "info": {"title": "Open Inference Protocol", "version": "2"},
        "paths": {
            "/v2": {"get": _operation()},
            "/v2/health/live": {"get": _operation()},
            "/v2/health/ready": {"get": _operation()},
            "/v2/models": {"get": _operation()},
            "/metrics": {"get": _operation()},
            "/v2/models/{model_name}": {"get": _operation(model)},
            "/v2/models/{model_name}/ready": {"get": _operation(model)},
            "/v2/models/{model_name}/infer": {"post": _operation(model, body=_INFER)},
            of_version: {"get": _operation(model, version)},
            f"{of_version}/ready": {"get": _operation(model, version)},
            f"{of_version}/infer": {"post": _operation(model, version, body=_INFER)},
            "/v2/repository/index": {"post": _operation(body=_INDEX)},
            "/v2/repository/models/{model_name}/load": {"post": _operation(model, body={"type": "object"})},
        },
    }


def _path(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _operation(*parameters: dict[str, Any], body: dict[str, Any] | None = None) -> dict[str, Any]:
    refused = {"description": "refused", "content": {"application/json": {"schema": _ERROR}}}
    operation: dict[str, Any] = {
        "parameters": list(parameters),
        "responses": {"200": {"description": "done"}, **dict.fromkeys(("400", "404", "405", "413"), refused)},
    }
    if body:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    return operation
