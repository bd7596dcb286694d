"""Triton's messages that KServe's protocol lacks, made here: the two cannot be loaded side by side.

RepositoryModelLoadRequest and RepositoryModelUnloadRequest of KServe have the model's name in field 1; Triton's have
the repository's there, and the model's in field 2. A message within another is `bytes` where KServe has its class, and
a map is its pairs: on the wire they are the same. A region's registration is the region.
"""

import functools
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory  # type: ignore[import-untyped]

_PACKAGE = "inference"
_FIELD = descriptor_pb2.FieldDescriptorProto
_TYPES = {
    "text": _FIELD.TYPE_STRING,
    "truth": _FIELD.TYPE_BOOL,
    "bytes": _FIELD.TYPE_BYTES,
    "int32": _FIELD.TYPE_INT32,
    "int64": _FIELD.TYPE_INT64,
    "uint32": _FIELD.TYPE_UINT32,
    "uint64": _FIELD.TYPE_UINT64,
}
_MESSAGES = {  # field, number, type; * repeated
    "RepositoryIndexRequest": "repository_name 1 text, ready 2 truth",
    "ModelIndex": "name 1 text, version 2 text, state 3 text, reason 4 text",
    "RepositoryIndexResponse": "models 1 *ModelIndex",
    "LoadParameter": "key 1 text",
    "RepositoryModelLoadRequest": "repository_name 1 text, model_name 2 text, parameters 3 *LoadParameter",
    "ModelStreamInferResponse": "error_message 1 text, infer_response 2 bytes",
    "ModelRequest": "name 1 text, version 2 text",
    "Latest": "num_versions 1 uint32",
    "VersionPolicy": "latest 1 Latest",
    "ModelTensor": "name 1 text, data_type 2 int32, dims 4 *int64",
    "ModelOutput": "name 1 text, data_type 2 int32, dims 3 *int64",
    "InstanceGroup": "name 1 text, count 2 int32, kind 4 int32",
    "DynamicBatching": "max_queue_delay_microseconds 2 uint64",
    "ModelConfig": "name 1 text, platform 2 text, version_policy 3 VersionPolicy, max_batch_size 4 int32, "
    "input 5 *ModelTensor, output 6 *ModelOutput, instance_group 7 *InstanceGroup, dynamic_batching 11 DynamicBatching",
    "ModelConfigResponse": "config 1 ModelConfig",
    "Duration": "count 1 uint64, ns 2 uint64",
    "InferStatistics": "success 1 Duration, fail 2 Duration, queue 3 Duration, compute_input 4 Duration, "
    "compute_infer 5 Duration, compute_output 6 Duration",
    "BatchStatistics": "batch_size 1 uint64, compute_infer 3 Duration",
    "ModelStatistics": "name 1 text, version 2 text, last_inference 3 uint64, inference_count 4 uint64, "
    "execution_count 5 uint64, inference_stats 6 InferStatistics, batch_stats 7 *BatchStatistics",
    "ModelStatisticsResponse": "model_stats 1 *ModelStatistics",
    "Region": "name 1 text, key 2 text, offset 3 uint64, byte_size 4 uint64",
    "RegionOfName": "key 1 text, value 2 Region",
    "RegionsResponse": "regions 1 *RegionOfName",
    "RegionRequest": "name 1 text",
    "Empty": "",
}


def message(name: str) -> Any:
    """The class of that message."""
    return _classes()[name]


def named(request: Any) -> str:
    """The model that a request to load or unload names, by Triton's field or by KServe's."""
    name: str = request.model_name or request.repository_name
    return name


@functools.cache
def _classes() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="triton.proto", package=_PACKAGE, syntax="proto3")
    for name, fields in _MESSAGES.items():
        made = file.message_type.add(name=name)
        for field in filter(None, fields.split(", ")):
            label, number, kind = field.split()
            of = kind.removeprefix("*")
            repeated = _FIELD.LABEL_REPEATED if kind != of else _FIELD.LABEL_OPTIONAL
            more = {"type": _TYPES[of]} if of in _TYPES else {"type_name": f".{_PACKAGE}.{of}"}
            more |= {} if of in _TYPES else {"type": _FIELD.TYPE_MESSAGE}
            made.field.add(name=label, number=int(number), label=repeated, **more)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    classes = message_factory.GetMessageClassesForFiles([file.name], pool)
    return {name.rpartition(".")[2]: kind for name, kind in classes.items()}
