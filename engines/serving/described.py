"""A model as Triton's clients ask for it: its configuration and statistics, in the terms of JSON, and of gRPC by them.

REST sends it as it is.
"""

from typing import Any

from plainconv.exporter.bundle import TensorSpec

from .datatypes import datatype_of
from .service import VERSION, Service, check_version

_NUMBERS = ("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64")
TYPES = {f"TYPE_{name}": number for number, name in enumerate(_NUMBERS, 1)} | {"TYPE_BF16": 14}
KINDS = {"KIND_GPU": 1, "KIND_CPU": 2}


def config(service: Service, name: str, version: str = "") -> dict[str, Any]:
    """What the model is. Raises UnknownError and UnavailableError."""
    check_version(version)
    model = service.store.model(name)
    batched = model.covering is not None
    found: dict[str, Any] = {
        "name": name,
        "platform": model.platform,
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": model.covering.most if model.covering else 0,
        "input": [_tensor(spec, batched) for spec in model.inputs],
        "output": [_tensor(spec, batched) for spec in model.outputs],
        "instance_group": [
            {"name": name, "count": model.workers, "kind": "KIND_CPU" if model.backend == "onnxruntime" else "KIND_GPU"}
        ],
    }
    if batched:
        found["dynamic_batching"] = {"max_queue_delay_microseconds": service.options.max_delay_us}
    return found


def numbered(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration with numbers for its types, as gRPC has them."""
    return config | {
        "input": [each | {"data_type": TYPES[each["data_type"]]} for each in config["input"]],
        "output": [each | {"data_type": TYPES[each["data_type"]]} for each in config["output"]],
        "instance_group": [each | {"kind": KINDS[each["kind"]]} for each in config["instance_group"]],
    }


def statistics(service: Service, name: str = "", version: str = "") -> dict[str, Any]:
    """What was counted of a model, or without a name of all that are loaded. Raises UnknownError."""
    check_version(version)
    if name:
        service.store.model(name)
    names = (name,) if name else service.store.ready()
    rows = [{"name": each, "version": VERSION, **service.metrics.statistics(each)} for each in names]
    return {"model_stats": rows}


def _tensor(spec: TensorSpec, batched: bool) -> dict[str, Any]:
    shape = spec.shape[1:] if batched else spec.shape
    dims = [-1 if isinstance(axis, str) else axis for axis in shape]
    return {"name": spec.name, "data_type": f"TYPE_{datatype_of(spec.dtype)}", "dims": dims}
