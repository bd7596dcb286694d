"""ONNX files whose weights never pass through protobuf.

Protobuf holds a message whole, copies it to serialize it and stops at 2 GB. Surgery needs the graph and, now and then,
one weight. So a graph in memory is a `gs.Graph` whose large constants are plain arrays (views of a module's own
tensors, maps of a file); its *skeleton*, a `ModelProto` in which each large constant is a stub of name, type and
shape, is all that shape inference, the checker and constant folding see; and `write` streams each weight from its
array to the file.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import TensorProto
from onnx_graphsurgeon.ir.tensor import LazyValues

from ..errors import ExportError, one_line
from . import wire
from .external import mapped, place
from .held import Held, graphs_of, inner_tensors, put_back, remember_ends, restore, take_out, why_unfaithful
from .upgrade import UpgradeError, normalize, shapeless_ends, sort_lists, upgrade
from .wire import is_stub, make_stub

LARGE = 1 << 20
"""Bytes from which a constant stays out of protobuf."""
SMALL = 1 << 12
"""Bytes up to which a constant may say a shape: shape inference and the checker need not see larger ones."""
PROTOBUF_LIMIT = (1 << 31) - 1
"""Bytes that one protobuf message may hold: past it the weights go into a second file."""
ALIGNMENT = 4096
"""Bytes: each weight of a second file starts on a page, so that a reader can map it."""


class UnheldError(ExportError):
    """A valid model that surgery cannot carry."""


def graph_from_proto(proto: onnx.ModelProto, weights: Mapping[str, np.ndarray] | None = None) -> gs.Graph:
    """The graph of `proto`; an initializer named in `weights` takes its values from there, not from the message.

    Raises:
        UnheldError: it has a part that a `gs.Graph` does not keep.

    """
    bare = onnx.ModelProto()
    bare.CopyFrom(proto)
    held = take_out(bare)
    held.arrays = {t.name: weights[t.name] for t in held.defaults if weights and t.name in weights}
    try:
        with _quiet():
            graph = gs.import_onnx(bare)
            carried = gs.export_onnx(graph, do_type_check=False).graph
        remember_ends(held, proto.graph, carried)
        for each in (bare.graph, carried):
            restore(each, held)
        reason = why_unfaithful(bare.graph, carried)
    except Exception as error:  # it raises what it happens to meet
        reason = f"something unknown ({one_line(error, 100)})"
    if reason is not None:
        raise UnheldError(f"the ONNX graph has {reason}, which surgery does not keep; leave it as it is")
    vars(graph)["held"] = held
    tensors = all_tensors(graph)
    for name, values in (weights or {}).items():
        if isinstance(tensors.get(name), gs.Constant):
            tensors[name].values, tensors[name].data_location = values, None
    return graph


def read(path: Path) -> tuple[gs.Graph, dict[str, str]]:
    """The graph and the metadata of the ONNX file at `path`; its large weights are mapped, not read.

    Local functions are inlined, and an opset before 7 is brought up: see `upgrade`.

    Raises:
        ExportError: `path` is missing, is no ONNX file, or names a weight file that is missing or outside its own
            folder; `UnheldError` where the file may be sound, but no `gs.Graph` can be made of it.

    """
    proto, weights = _mapped(path)
    try:
        proto = upgrade(proto)
    except UpgradeError as error:
        raise UnheldError(f"the ONNX graph has {error}, which surgery does not read; leave it as it is") from None
    return graph_from_proto(proto, weights), {prop.key: prop.value for prop in proto.metadata_props}


def skeleton(graph: gs.Graph, metadata: Mapping[str, str] | None = None, *, large: int = LARGE) -> onnx.ModelProto:
    """`graph` as a model whose every initializer of `large` bytes and more is a stub."""
    with _stubbed(graph, large), _quiet():
        proto: onnx.ModelProto = gs.export_onnx(graph, do_type_check=False)
    put_back(proto, vars(graph).get("held"))
    for key, value in sorted((metadata or {}).items()):
        proto.metadata_props.add(key=key, value=value)
    return proto


def stubs_to_inputs(proto: onnx.ModelProto) -> set[str]:
    """Turn the stubs of a skeleton into graph inputs, which need no data; their names."""
    names = {t.name for t in proto.graph.initializer if is_stub(t)}
    inputs = {t.name for t in proto.graph.input}
    kept = [t for t in proto.graph.initializer if not is_stub(t)]
    proto.graph.input.extend(
        onnx.helper.make_tensor_value_info(t.name, t.data_type, list(t.dims))
        for t in proto.graph.initializer
        if is_stub(t) and t.name not in inputs
    )
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    return names


def all_tensors(graph: gs.Graph) -> dict[str, Any]:
    """Every value by its name, those of graphs within (branches, loop bodies) too."""
    found: dict[str, Any] = {}
    for inner in graph.subgraphs(recursive=True):
        found |= inner.tensors()
    found |= graph.tensors()
    return found


def infer_shapes(graph: gs.Graph, *, within: bool = True) -> None:
    """Give every value of `graph` the type and shape that strict inference finds, open where inference finds less.

    Those of graphs within it (branches, loop bodies) only if `within`.

    Raises:
        ExportError: types or shapes contradict one another.

    """
    proto = skeleton(graph, large=SMALL)
    stubs_to_inputs(proto)  # inference asks for the data of integers, which it follows through a graph
    inferred = _inferred(proto).graph
    pairs = [(graph, inferred)]
    while pairs:
        graph, proto = pairs.pop()
        tensors = graph.tensors()
        for info in proto.value_info:
            tensor, type_ = tensors.get(info.name), info.type.tensor_type
            if not isinstance(tensor, gs.Variable) or not info.type.HasField("tensor_type"):
                continue
            if type_.elem_type:
                tensor.dtype = onnx.helper.tensor_dtype_to_np_dtype(type_.elem_type)
            if type_.HasField("shape"):
                sizes = (d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in type_.shape.dim)
                tensor.shape = list(sizes)
        for node, written in zip(graph.nodes, proto.node, strict=True) if within else ():
            named = {a.name: a.g for a in written.attribute if a.type == onnx.AttributeProto.GRAPH}
            pairs += [(node.attrs[name], inner) for name, inner in named.items() if name in node.attrs]


def refuse_unknown_types(graph: gs.Graph) -> None:
    """Raise UnheldError where strict inference fails, as it does on a few sound models."""
    try:
        infer_shapes(graph)
    except UnheldError:
        raise
    except ExportError as error:
        raise UnheldError(str(error)) from None


def write(
    graph: gs.Graph, path: Path, metadata: Mapping[str, str] | None = None, *, limit: int = PROTOBUF_LIMIT
) -> Path:
    """Write `graph` to `path`, and its large weights to `path` + ".data" beside it where one message cannot hold them.

    The same graph gives the same bytes. An interrupted write leaves nothing at `path`.

    Raises:
        ExportError: the file cannot be written (no such folder, disk full).

    """
    proto = skeleton(graph, metadata)
    tensors = all_tensors(graph)
    held = vars(graph).get("held", Held()).arrays
    data = {t.name: _bytes(held.get(t.name, tensors[t.name])) for t in proto.graph.initializer if is_stub(t)}
    beside = path.with_name(path.name + ".data")
    partial, partial_data = (p.with_name(p.name + ".partial") for p in (path, beside))
    try:
        with partial.open("wb") as file:
            if proto.ByteSize() + sum(len(values) for values in data.values()) < limit:
                wire.join(proto, data, file)
            else:
                _write_beside(proto, data, partial_data, beside.name)
                file.write(proto.SerializeToString(deterministic=True))
                partial_data.replace(beside)
        partial.replace(path)
    except OSError as error:
        remedy = "free space, or choose another place"
        raise ExportError(f"{path}: cannot be written ({error.strerror or error}); {remedy}") from None
    finally:
        partial.unlink(missing_ok=True)
        partial_data.unlink(missing_ok=True)
    return path


def ops_of_file(path: Path) -> dict[str, int]:
    """How many nodes of each op the ONNX file at `path` has."""
    proto, _ = _mapped(path, SMALL)
    return dict(sorted(Counter(node.op_type for graph in graphs_of(proto.graph) for node in graph.node).items()))


def leaves_order_open(path: Path) -> bool:
    """Whether a TopK of the ONNX file at `path` need not sort what it takes: runtimes then differ in its order."""
    return sort_lists(wire.split(path, SMALL)[0])


def check(path: Path, *, full: bool = True) -> None:
    """`onnx.checker` and, if `full`, strict shape inference with data propagation, on the file at `path`.

    Large weights are seen as inputs of their type and shape: that their data is there, and as long as the shape says,
    is checked where they are mapped.

    Raises:
        ExportError: the checker's first complaint.

    """
    proto, _ = _mapped(path, SMALL)
    if ends := shapeless_ends(proto):
        reason = f"{ends[0]} has no shape, and none follows from the graph"
        raise ExportError(f"{path.name}: {reason}; give it one, with names for open axes, and save the file again")
    stubs_to_inputs(proto)
    for tensor in (*proto.graph.initializer, *inner_tensors(proto)):
        try:
            onnx.numpy_helper.to_array(tensor)
        except Exception as error:  # it raises what NumPy happens to raise
            reason = f"the data of {tensor.name} do not fit its type and shape ({one_line(error, 100)})"
            raise ExportError(f"{path.name}: {reason}; export it again") from None
    try:
        onnx.checker.check_model(proto, full_check=full)
    except Exception as error:  # ValidationError and InferenceError; UnicodeDecodeError from bytes that are no text
        raise ExportError(f"{path.name}: the ONNX checker refuses it: {one_line(error)}") from None
    if full:
        _inferred(proto)


def _inferred(proto: onnx.ModelProto) -> onnx.ModelProto:
    try:
        return onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
    except Exception as error:  # InferenceError; ValueError for a type that does not exist
        remedy = "export it again"
        raise ExportError(
            f"types or shapes of the ONNX graph contradict one another ({one_line(error)}); {remedy}"
        ) from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep onnx-graphsurgeon's log to itself."""
    from onnx_graphsurgeon.logger import G_LOGGER

    before = G_LOGGER.severity
    G_LOGGER.severity = G_LOGGER.CRITICAL
    try:
        yield
    finally:
        G_LOGGER.severity = before


@contextmanager
def _stubbed(graph: gs.Graph, large: int) -> Iterator[None]:
    """Within it, each large constant of `graph` exports as a stub."""
    held: list[tuple[Any, Any]] = []
    outer = vars(graph).get("held", Held()).outer
    for tensor in (graph.tensors() | {n: t for n, t in all_tensors(graph).items() if n in outer}).values():
        if isinstance(tensor, gs.Constant) and tensor._values.nbytes >= large:
            held.append((tensor, tensor._values))
            dtype = tensor.dtype  # onnx-graphsurgeon gives the ONNX type itself where numpy has none
            type_ = dtype if isinstance(dtype, int) else onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
            tensor.values = LazyValues(make_stub(tensor.name, type_, list(tensor.shape)))
    try:
        yield
    finally:
        for tensor, values in held:
            tensor.values = values


def _mapped(path: Path, large: int = LARGE) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """The model in the file at `path` with stubs for its large initializers, and these mapped from where they lie."""
    try:
        proto, extents = wire.split(path, large)
    except OSError as error:
        raise ExportError(f"{path}: {error.strerror or error}; give the path of an ONNX file") from None
    except (wire.WireError, DecodeError) as error:
        raise ExportError(f"{path}: no ONNX file, or a truncated one ({error}); export it again") from None
    if not proto.HasField("graph"):
        raise ExportError(f"{path}: holds no graph; give the path of an ONNX file")
    normalize(proto)
    weights = {}
    for tensor in proto.graph.initializer:
        if tensor.name in extents:
            weights[tensor.name] = mapped(tensor, path, extents[tensor.name])
        elif tensor.data_location == TensorProto.EXTERNAL:
            weights[tensor.name] = mapped(tensor, *place(tensor, path))
            tensor.CopyFrom(make_stub(tensor.name, tensor.data_type, list(tensor.dims)))
    for tensor in inner_tensors(proto):
        if tensor.data_location == TensorProto.EXTERNAL:
            tensor.CopyFrom(onnx.numpy_helper.from_array(mapped(tensor, *place(tensor, path)), tensor.name))
    return proto, weights


def _bytes(tensor: Any) -> memoryview:
    """The values of a constant or an array as little-endian bytes in C order, copied only where they are not."""
    values = np.ascontiguousarray(tensor if isinstance(tensor, np.ndarray) else tensor.values)
    if values.dtype.byteorder == ">":
        values = values.astype(values.dtype.newbyteorder("<"))
    return values.reshape(-1).view(np.uint8).data


def _write_beside(proto: onnx.ModelProto, data: Mapping[str, memoryview], path: Path, name: str) -> None:
    """Write the data of each stub to `path`, and its place in the file `name` into the stub."""
    with path.open("wb") as file:
        for stub in filter(is_stub, proto.graph.initializer):
            offset = -(-file.tell() // ALIGNMENT) * ALIGNMENT
            file.write(bytes(offset - file.tell()))
            length = file.write(data[stub.name])
            del stub.external_data[:]
            for key, value in (("location", name), ("offset", str(offset)), ("length", str(length))):
                stub.external_data.add(key=key, value=value)
