"""Requests of `cases.json` as gRPC's messages, where they have that form, and what is wrong with the answers."""

import json
import re
from typing import Any

import grpc
import numpy as np
import serving_cases
from tritonclient.grpc import service_pb2

CODES = {200: "OK", 400: "INVALID_ARGUMENT", 404: "NOT_FOUND"}
_PATH = re.compile(r"/v2/models/([^/%]+)(?:/versions/([^/%]+))?/infer")
_FIELDS = {"BOOL": "bool", "INT64": "int64", "FP32": "fp32", "FP64": "fp64", "UINT64": "uint64"} | dict.fromkeys(
    ("INT8", "INT16", "INT32"), "int"
)
_FIELDS |= dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint")
_DTYPES = {"FP32": np.dtype("<f4"), "INT64": np.dtype("<i8")}
_OTHERS = re.compile(r"JSON|binary_data|bytes more than|lists of|a list|other data|header")  # what only REST has to say


def message_of(case: dict[str, Any]) -> Any:
    """The ModelInferRequest that says the same, None where none can."""
    found = _PATH.fullmatch(case.get("path", ""))
    is_plain = not case.get("headers", {}).keys() - {"Inference-Header-Content-Length", "Content-Type"}
    if (
        case.get("method") != "POST"
        or case["status"] not in CODES
        or not found
        or not is_plain
        or _OTHERS.search(case.get("error", ""))
    ):
        return None
    body, headers = serving_cases.message_of(case)
    try:
        length = int(headers.get("Inference-Header-Content-Length", len(body)))
        said, binary = json.loads(body[:length]), body[length:]
        request = service_pb2.ModelInferRequest(
            model_name=found[1],
            model_version=found[2] or "",
            id=said.get("id") or "",
            parameters=_parameters(said),
            outputs=[{"name": each["name"], "parameters": _parameters(each)} for each in said.get("outputs") or ()],
        )
        for tensor in said["inputs"]:
            if not all(type(size) is int for size in tensor["shape"]):
                return None
            given = request.inputs.add(name=tensor["name"], datatype=tensor["datatype"], shape=tensor["shape"])
            given.parameters.MergeFrom(service_pb2.ModelInferRequest(parameters=_parameters(tensor)).parameters)
            size = tensor.get("parameters", {}).get("binary_data_size")
            if size is not None:
                request.raw_input_contents.append(binary[:size])
                binary = binary[size:]
            elif np.shape(tensor["data"])[1:] and np.shape(tensor["data"]) != tuple(tensor["shape"]):
                return None
            else:
                numbers = np.array(tensor["data"]).reshape(-1).tolist()
                if max(map(abs, numbers), default=0) > float(np.finfo(np.float32).max):
                    return None  # infinity is a number to gRPC
                getattr(given.contents, f"{_FIELDS[tensor['datatype']]}_contents").extend(numbers)
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    is_mixed = len(request.raw_input_contents) not in (0, len(request.inputs))
    return None if is_mixed or any(None in each["data"] for each in case.get("outputs", ())) else request


def _parameters(holder: dict[str, Any]) -> dict[str, Any]:
    kinds = {bool: "bool_param", int: "int64_param", str: "string_param"}
    given = {key: value for key, value in (holder.get("parameters") or {}).items() if not key.startswith("binary_data")}
    return {key: service_pb2.InferParameter(**{kinds[type(value)]: value}) for key, value in given.items()}


def wrong(channel: Any, case: dict[str, Any], request: Any) -> str:
    """What is wrong with the answer to a case's message, "" where it is what the case wants."""
    infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    wanted = CODES[case["status"]]
    try:
        answer = service_pb2.ModelInferResponse.FromString(infer(request.SerializeToString(), timeout=60))
    except grpc.RpcError as error:
        code, said = error.code().name, error.details()
        is_right = code == wanted and re.search(case.get("error", ""), said) and "\n" not in said
        return "" if is_right else f"{code} {said!r}, wanted {wanted} {case.get('error')}"
    if wanted != "OK":
        return f"answered, wanted {wanted}"
    if "outputs" in case:
        outputs = [{key: each[key] for key in ("name", "datatype", "shape", "data")} for each in case["outputs"]]
        found = list(map(_output, answer.outputs, answer.raw_output_contents or [None] * len(answer.outputs)))
        return "" if found == outputs else f"outputs {found}, wanted {outputs}"
    return ""


def _output(output: Any, raw: bytes | None) -> dict[str, Any]:
    if raw is None:
        numbers = list(getattr(output.contents, f"{_FIELDS[output.datatype]}_contents"))
    else:
        numbers = np.frombuffer(raw, _DTYPES[output.datatype]).tolist()
    data = [serving_cases.named(each) for each in numbers]
    return {"name": output.name, "datatype": output.datatype, "shape": list(output.shape), "data": data}
