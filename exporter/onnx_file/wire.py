"""ONNX files as protobuf's wire format, so that the data of a large weight is neither parsed nor serialized.

A message is a sequence of fields: a varint of number·8 + kind, then a varint (kind 0), 8 bytes (1), a length and as
many bytes (2) or 4 bytes (5). A weight lies in ModelProto.graph → GraphProto.initializer → TensorProto.raw_data, each
of kind 2.
"""

import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import onnx
from onnx import GraphProto, ModelProto, TensorProto

_GRAPH = ModelProto.GRAPH_FIELD_NUMBER
_INITIALIZER = GraphProto.INITIALIZER_FIELD_NUMBER
_RAW_DATA = TensorProto.RAW_DATA_FIELD_NUMBER
_FIXED = {1: 8, 5: 4}
STUB = "-"
"""Where a stub says that its data lies: nowhere yet."""


class WireError(ValueError):
    """The bytes are no protobuf message, or are cut short."""


@dataclass(frozen=True)
class Extent:
    """A run of bytes of a file."""

    offset: int
    length: int


def make_stub(name: str, data_type: int, dims: list[int]) -> TensorProto:
    """An initializer without its data."""
    stub = TensorProto(name=name, data_type=data_type, dims=dims, data_location=TensorProto.EXTERNAL)
    stub.external_data.add(key="location", value=STUB)
    return stub


def is_stub(tensor: TensorProto) -> bool:
    """Whether `make_stub` made `tensor`."""
    return bool(tensor.external_data) and tensor.external_data[0].value == STUB


def split(path: Path, large: int) -> tuple[onnx.ModelProto, dict[str, Extent]]:
    """The model in the file at `path` with stubs for initializers of `large` bytes and more, and where their data lie.

    Raises:
        WireError: no protobuf message, or cut short.
        google.protobuf.message.DecodeError: no ONNX model.
        OSError: the file cannot be read.

    """
    found: dict[str, Extent] = {}
    if path.stat().st_size == 0:
        raise WireError("empty")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        rest = bytearray()
        for number, kind, start, body, end in _fields(data, 0, len(data)):
            if number == _GRAPH and kind == 2:
                graph = _without_data(data, body, end, large, found)
                rest += header(_GRAPH, len(graph)) + graph
            else:
                rest += data[start:end]
    return onnx.ModelProto.FromString(bytes(rest)), found


def join(proto: onnx.ModelProto, data: Mapping[str, memoryview], file: BinaryIO) -> None:
    """Write `proto` to `file` with the data of each stub in place; inverse of `split`."""
    body, records = GraphProto(), []
    body.CopyFrom(proto.graph)
    del body.initializer[:]
    body.initializer.extend(t for t in proto.graph.initializer if not is_stub(t))
    for stub in filter(is_stub, proto.graph.initializer):
        head = TensorProto(name=stub.name, data_type=stub.data_type, dims=stub.dims).SerializeToString()
        head += header(_RAW_DATA, len(data[stub.name]))
        records.append((header(_INITIALIZER, len(head) + len(data[stub.name])) + head, data[stub.name]))
    rest = body.SerializeToString(deterministic=True)
    model = ModelProto()
    model.CopyFrom(proto)
    model.ClearField("graph")
    file.write(model.SerializeToString(deterministic=True))
    file.write(header(_GRAPH, len(rest) + sum(len(head) + len(values) for head, values in records)))
    file.write(rest)
    for head, values in records:
        file.write(head)
        file.write(values)


def header(number: int, length: int) -> bytes:
    """What precedes the bytes of a field of kind 2."""
    return _varint(number << 3 | 2) + _varint(length)


def _without_data(data: mmap.mmap, start: int, end: int, large: int, found: dict[str, Extent]) -> bytes:
    """The graph at data[start:end] with stubs in the place of large initializers, which `found` takes up."""
    rest, stubs = bytearray(), bytearray()
    for number, kind, first, body, last in _fields(data, start, end):
        extent = None
        if number == _INITIALIZER and kind == 2 and last - body >= large:
            head = bytearray()
            for inner, inner_kind, inner_first, inner_body, inner_last in _fields(data, body, last):
                if inner == _RAW_DATA and inner_kind == 2 and inner_last - inner_body >= large:
                    extent = Extent(inner_body, inner_last - inner_body)
                else:
                    head += data[inner_first:inner_last]
        if extent is None:
            rest += data[first:last]
            continue
        tensor = TensorProto.FromString(bytes(head))
        found[tensor.name] = extent
        stub = make_stub(tensor.name, tensor.data_type, list(tensor.dims)).SerializeToString()
        stubs += header(_INITIALIZER, len(stub)) + stub
    return bytes(rest + stubs)


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int, int, int]]:
    """(number, kind, where the field starts, where its content starts, where it ends) of each field of a message."""
    at = start
    while at < end:
        key, body = _read_varint(data, at, end)
        kind = key & 7
        if kind == 2:
            length, body = _read_varint(data, body, end)
            last = body + length
        elif kind == 0:
            last = _read_varint(data, body, end)[1]
        elif kind in _FIXED:
            last = body + _FIXED[kind]
        else:
            raise WireError(f"field kind {kind} at byte {at}")
        if last > end:
            raise WireError(f"cut short: a field at byte {at} ends {last - end} bytes past the end")
        yield key >> 3, kind, at, body, last
        at = last


def _read_varint(data: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    """The varint at `at`, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise WireError(f"cut short: no number at byte {at}")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
