"""Triton's messages of its model repository extension, made here: its own and KServe's cannot be loaded side by side.

RepositoryModelLoadRequest and RepositoryModelUnloadRequest of KServe have the model's name in field 1; Triton's have
the repository's there, and the model's in field 2.
"""

import functools
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory  # type: ignore[import-untyped]

_TEXT, _TRUTH, _MESSAGE = (
    descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
    descriptor_pb2.FieldDescriptorProto.TYPE_BOOL,
    descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE,
)
_PACKAGE = "inference"


def index_messages() -> tuple[Any, Any]:
    """The classes of RepositoryIndexRequest and RepositoryIndexResponse."""
    classes = _classes()
    return classes["RepositoryIndexRequest"], classes["RepositoryIndexResponse"]


def load_message() -> Any:
    """The class of RepositoryModelLoadRequest, and of the one to unload."""
    return _classes()["RepositoryModelLoadRequest"]


def named(request: Any) -> str:
    """The model that such a request names, by Triton's field or by KServe's."""
    name: str = request.model_name or request.repository_name
    return name


@functools.cache
def _classes() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="repository.proto", package=_PACKAGE, syntax="proto3")
    _message(file.message_type.add(name="RepositoryIndexRequest"), ("repository_name", _TEXT), ("ready", _TRUTH))
    response = file.message_type.add(name="RepositoryIndexResponse")
    row = response.nested_type.add(name="ModelIndex")
    _message(row, ("name", _TEXT), ("version", _TEXT), ("state", _TEXT), ("reason", _TEXT))
    _repeated(response, "models", 1, "RepositoryIndexResponse.ModelIndex")
    load = file.message_type.add(name="RepositoryModelLoadRequest")
    _message(load, ("repository_name", _TEXT), ("model_name", _TEXT))
    _message(load.nested_type.add(name="Parameter"), ("key", _TEXT))
    _repeated(load, "parameters", 3, "RepositoryModelLoadRequest.Parameter")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    classes = message_factory.GetMessageClassesForFiles([file.name], pool)
    return {name.rpartition(".")[2]: kind for name, kind in classes.items()}


def _message(message: Any, *fields: tuple[str, Any]) -> None:
    for number, (name, kind) in enumerate(fields, 1):
        label = descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL
        message.field.add(name=name, number=number, type=kind, label=label)


def _repeated(message: Any, name: str, number: int, of: str) -> None:
    label = descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED
    message.field.add(name=name, number=number, type=_MESSAGE, label=label, type_name=f".{_PACKAGE}.{of}")
