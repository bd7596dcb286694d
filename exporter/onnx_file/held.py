"""What a `gs.Graph` cannot hold: it is taken out of a model before the import and put back on export.

A model with anything else that does not survive the way there and back is not for surgery (`why_unfaithful`).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

FOREIGN = "::"
"""Between domain and op of a node that is none of the standard ones: no pass takes it for one of these."""
NOTES = ("domain", "model_version", "doc_string")
"""Fields of a model that describe it."""
FIRST_WITH_DEFAULTS = 4
"""The IR version from which an initializer need not be an input, so that one which is may be overridden."""


@dataclass
class Held:
    """Parts of a model.

    `notes` has what describes the model (its version, domain and text). `defaults` are initializers that are inputs
    too: a caller may feed others, so that nothing may be computed from them. `arrays` are the data of those among them
    that are stubs. `ends` are inputs and outputs of which onnx-graphsurgeon loses a part (an axis' denotation, a
    sequence's shapes, that a value is optional): what it writes in their place, and the whole of them. `outer` names
    the initializers of the outermost graph, which it writes into each graph within that reads them.
    """

    notes: ModelProto = field(default_factory=ModelProto)
    functions: list[Any] = field(default_factory=list)
    defaults: list[TensorProto] = field(default_factory=list)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    ends: dict[str, tuple[bytes, ValueInfoProto]] = field(default_factory=dict)
    outer: frozenset[str] = frozenset()


def take_out(model: ModelProto) -> Held:
    """Leave in `model`, in place, what a `gs.Graph` can hold; the rest."""
    graph = model.graph
    initialized = {t.name for t in graph.initializer}
    held = Held(functions=list(model.functions), outer=frozenset(initialized))
    for name in NOTES:
        if model.HasField(name):
            setattr(held.notes, name, getattr(model, name))
    del model.functions[:]
    if model.ir_version < FIRST_WITH_DEFAULTS:
        model.ir_version = FIRST_WITH_DEFAULTS  # before, every initializer was an input, and a constant
        _replace(graph.input, [t for t in graph.input if t.name not in initialized])
    else:
        inputs = {t.name for t in graph.input}
        held.defaults = [t for t in graph.initializer if t.name in inputs]
        _replace(graph.initializer, [t for t in graph.initializer if t.name not in inputs])
    for value in (*graph.input, *graph.output):
        if value.type.HasField("optional_type"):
            held.ends[value.name] = (b"", _copied(value))
            value.type.CopyFrom(onnx.helper.make_tensor_type_proto(TensorProto.FLOAT, None))
    for node in _nodes(graph):
        if node.domain not in ("", "ai.onnx"):
            node.op_type = f"{node.domain}{FOREIGN}{node.op_type}"
    return held


def remember_ends(held: Held, before: GraphProto, after: GraphProto) -> None:
    """Note which inputs and outputs of `before` are not the same in `after`, the same graph once it was carried."""
    given = {value.name: value for value in (*before.input, *before.output)}
    for value in (*after.input, *after.output):
        written = _typed(value)[1]
        if value.name in given and written != _typed(given[value.name])[1]:
            held.ends.setdefault(value.name, (b"", _copied(given[value.name])))
        if value.name in held.ends:
            held.ends[value.name] = (written, held.ends[value.name][1])


def put_back(model: ModelProto, held: Held | None) -> None:
    """Undo `take_out`."""
    for node in _nodes(model.graph):
        node.op_type = node.op_type.rpartition(FOREIGN)[2]
    if held is not None:
        model.MergeFrom(held.notes)
        model.functions.extend(held.functions)
        model.graph.initializer.extend(held.defaults)
        restore(model.graph, held)


def restore(graph: GraphProto, held: Held) -> None:
    """Give inputs and outputs back what they lost, and the outermost graph its initializers, each once."""
    for value in (*graph.input, *graph.output):
        written, whole = held.ends.get(value.name, (None, value))
        if written == _typed(value)[1]:  # nobody gave it another type since
            value.CopyFrom(whole)
    here = {t.name for t in graph.initializer}
    for inner in graphs_of(graph):
        if inner is graph:
            continue
        moved = [_copied(t) for t in inner.initializer if t.name in held.outer]
        if moved:
            _replace(inner.initializer, [_copied(t) for t in inner.initializer if t.name not in held.outer])
        for tensor in moved:
            if tensor.name not in here:
                graph.initializer.append(tensor)
                here.add(tensor.name)


def why_unfaithful(before: GraphProto, after: GraphProto, *, within: bool = False) -> str | None:
    """What of a graph did not survive the way into a `gs.Graph` and back; None where all of it did.

    In a graph within another the shapes of inputs and outputs say nothing that inference does not find.
    """
    if before.sparse_initializer:
        return "a sparse initializer"
    typed = _kind if within else _typed
    for part in ("input", "output"):
        if [typed(v) for v in getattr(before, part)] != [typed(v) for v in getattr(after, part)]:
            return f"the type of an {part}"
    if _initialized(before) - _unused(before) != _initialized(after):
        return "an initializer"
    if len(before.node) != len(after.node):
        return "a node"
    for old, new in zip(before.node, after.node, strict=True):
        reason = _why_unfaithful_node(old, new)
        if reason:
            return f"{reason} of {old.name or old.op_type}"
    return None


def _why_unfaithful_node(old: NodeProto, new: NodeProto) -> str | None:
    if (old.op_type, old.domain, list(old.input), list(old.output)) != (
        new.op_type, new.domain, list(new.input), list(new.output),
    ):  # fmt: skip
        return "the inputs or outputs"
    attrs = {a.name: a for a in new.attribute}
    if set(attrs) != {a.name for a in old.attribute}:
        return "an attribute"
    for a in old.attribute:
        b = attrs[a.name]
        if a.type == AttributeProto.GRAPH and b.type == a.type:
            reason = why_unfaithful(a.g, b.g, within=True)
            if reason:
                return reason
        elif _plain(a) != _plain(b):
            return f"the attribute {a.name}"
    return None


def _typed(value: Any) -> tuple[str, bytes]:
    return value.name, value.type.SerializeToString(deterministic=True)


def _kind(value: Any) -> tuple[str, str | None, int]:
    return value.name, value.type.WhichOneof("value"), value.type.tensor_type.elem_type


def _copied(message: Any) -> Any:
    copied = type(message)()
    copied.CopyFrom(message)
    return copied


def _plain(attribute: AttributeProto) -> bytes:
    """An attribute without what says nothing: its notes, and the name of its tensor."""
    bare = AttributeProto()
    bare.CopyFrom(attribute)
    bare.doc_string = ""
    if bare.type == AttributeProto.TENSOR:
        values = bare.t
        values.name, values.doc_string = "", ""
    return bytes(bare.SerializeToString(deterministic=True))


def _initialized(graph: GraphProto) -> set[str]:
    """Names of initializers, of graphs within too: one of an outer graph may move into the only one that reads it."""
    return {t.name for g in graphs_of(graph) for t in g.initializer}


def _unused(graph: GraphProto) -> set[str]:
    read = {name for g in graphs_of(graph) for node in g.node for name in node.input}
    read |= {t.name for g in graphs_of(graph) for t in g.output}
    return _initialized(graph) - read


def graphs_of(graph: GraphProto) -> Iterator[GraphProto]:
    """The graph and all graphs within it: branches, loop bodies."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g,) if attribute.type == AttributeProto.GRAPH else attribute.graphs:
                yield from graphs_of(inner)


def _nodes(graph: GraphProto) -> Iterator[NodeProto]:
    for inner in graphs_of(graph):
        yield from inner.node


def _replace(target: Any, values: Iterable[Any]) -> None:
    kept = list(values)
    del target[:]
    target.extend(kept)


def inner_tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Tensors that are no initializers of the outermost graph: of graphs within, and of attributes."""
    for graph in graphs_of(model.graph):
        if graph is not model.graph:
            yield from graph.initializer
    for node in _nodes(model.graph):
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                yield attribute.t
            yield from attribute.tensors
