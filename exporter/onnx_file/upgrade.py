"""What a file may say in an old or a loose way, said as surgery reads it."""

import contextlib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter

import onnx
import onnx.inliner
import onnx.version_converter
from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto, helper

from ..errors import one_line
from .held import FIRST_WITH_DEFAULTS, graphs_of

OLDEST = 8
"""The opset from which an operand broadcasts by its shape alone; files before 7 are converted to it."""
LAST_OLD = 6
WITH_SHAPES = 5
"""The opset from which Reshape takes its shape as an input."""
ANY_CONSTANT = 9
"""The opset from which a Constant may be of any type: before, inference fails on the integers that everybody wrote."""
ALREADY = "plainconv.converted"
"""The domain of a node that the converter has nothing left to do on: it would ask for sizes that it cannot infer."""
ALIGNED = {"Add", "Sub", "Mul", "Div", "Pow", "And", "Or", "Xor", "Equal", "Greater", "Less"}
"""Ops that until opset 6 laid a second operand of fewer axes from `axis` on."""


class UpgradeError(ValueError):
    """A model cannot be said in a newer way."""


def normalize(proto: ModelProto) -> None:
    """Take a negative size for the free axis that it stands for; give an output the shape that follows from the graph.

    And put each node behind those that it reads from, which ONNX Runtime's own converter to float16 does not. Surgery,
    the checker and every count ask for all three; ONNX Runtime runs a file that lacks them. Lists are sorted, too.
    """
    sort_lists(proto)
    for graph in reversed(list(graphs_of(proto.graph))):  # inner ones first
        _sort(graph)
        for value in (*graph.input, *graph.output, *graph.value_info):
            for axis in value.type.tensor_type.shape.dim if value.type.HasField("tensor_type") else ():
                if axis.dim_value < 0:
                    axis.ClearField("value")
    shapeless = list(_without_shape(proto.graph.output))
    if not shapeless:
        return
    try:
        inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True).graph.output
    except Exception:  # InferenceError, and what protobuf raises: the checker will say what is wrong
        return
    found = {value.name: value for value in inferred}
    for value in shapeless:
        if found[value.name].type.tensor_type.HasField("shape"):
            value.CopyFrom(found[value.name])


def sort_lists(proto: ModelProto) -> bool:
    """Have every TopK sort what it may leave in any order, each runtime in its own; whether there was one."""
    found = [
        attribute
        for nodes in (*(graph.node for graph in graphs_of(proto.graph)), *(f.node for f in proto.functions))
        for node in nodes
        for attribute in (node.attribute if node.op_type == "TopK" and node.domain in ("", "ai.onnx") else ())
        if attribute.name == "sorted" and not attribute.i
    ]
    for attribute in found:
        attribute.i = 1
    return bool(found)


def _sort(graph: GraphProto) -> None:
    """Order its nodes; as they are where they are in order, and where there is none."""
    maker = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    reads = [{maker[name] for name in _reads(node) if name in maker} for node in graph.node]
    if all(max(found, default=-1) < i for i, found in enumerate(reads)):
        return
    with contextlib.suppress(CycleError):  # the checker will say so
        nodes = [graph.node[i] for i in TopologicalSorter(dict(enumerate(reads))).static_order()]
        copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(copies)


def _reads(node: NodeProto) -> Iterator[str]:
    """What it reads, and what nodes within its graphs do."""
    yield from node.input
    for attribute in node.attribute:
        for inner in (attribute.g, *attribute.graphs):
            for each in inner.node:
                yield from _reads(each)
            yield from (value.name for value in inner.output)


def shapeless_ends(proto: ModelProto) -> list[str]:
    """Inputs and outputs that have no shape, spelled."""
    return [
        f"the {part} {value.name}"
        for part in ("input", "output")
        for value in _without_shape(getattr(proto.graph, part))
    ]


def _without_shape(values: list[ValueInfoProto]) -> Iterator[ValueInfoProto]:
    return (v for v in values if v.type.HasField("tensor_type") and not v.type.tensor_type.HasField("shape"))


def upgrade(proto: ModelProto) -> ModelProto:
    """`proto` with its local functions inlined, and in opset `OLDEST` where it is in one before 7.

    Raises:
        UpgradeError: onnx.version_converter does not know the way, as for a network that trains.

    """
    if proto.functions:
        proto = _inlined(proto)
    opset = opset_of(proto)
    if 0 < opset <= LAST_OLD:
        proto = _converted(proto, opset)
    if 0 < opset < ANY_CONSTANT:
        for graph in graphs_of(proto.graph):
            _constants_to_initializers(
                graph, are_inputs=proto.ir_version < FIRST_WITH_DEFAULTS and graph is proto.graph
            )
    return proto


def opset_of(proto: ModelProto) -> int:
    """The version of the standard ops; 0 where none is said."""
    return next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), 0)


def _inlined(proto: ModelProto) -> ModelProto:
    """Functions whose opset is another than the model's stay functions."""
    try:
        inlined = onnx.inliner.inline_local_functions(proto)
    except Exception:  # it raises what it happens to meet; a function that stays is run as it is
        return proto
    used = {"", "ai.onnx", *(node.domain for graph in graphs_of(inlined.graph) for node in graph.node)}
    used |= {o.domain for f in inlined.functions for o in f.opset_import}
    kept = [o for o in inlined.opset_import if o.domain in used]
    del inlined.opset_import[:]
    inlined.opset_import.extend(kept)
    return inlined


def _converted(proto: ModelProto, opset: int) -> ModelProto:
    """By onnx.version_converter, which loses the data of large weights and leaves types open that inference finds."""
    try:
        converted = proto
        for step in (WITH_SHAPES, OLDEST):  # a shape must be an initializer before the next step asks for sizes
            if opset_of(converted) < step:
                converted = onnx.version_converter.convert_version(_with_own_axes(converted), step)
                _welcome(converted)
                _constants_to_initializers(converted.graph, are_inputs=converted.ir_version < FIRST_WITH_DEFAULTS)
    except UpgradeError:
        raise
    except Exception as error:  # ConvertError, RuntimeError
        reason = f"cannot be brought to {OLDEST} ({one_line(error, 100)})"
        raise UpgradeError(f"opset {opset}, which {reason}") from None
    given = {t.name: t for t in proto.graph.initializer}
    for tensor in converted.graph.initializer:
        if tensor.name in given:
            tensor.CopyFrom(given[tensor.name])
    del converted.graph.value_info[:]
    _restore_ends(proto.graph, converted.graph)
    return converted


def _constants_to_initializers(graph: GraphProto, *, are_inputs: bool) -> None:
    """Each tensor that a Constant of `graph` holds becomes an initializer; one that is an output stays.

    In old files every initializer is an input as well: `are_inputs`.
    """
    ends = {value.name for value in graph.output}
    for node in list(graph.node):
        if node.op_type != "Constant" or node.domain not in ("", "ai.onnx") or node.output[0] in ends:
            continue
        held = [a.t for a in node.attribute if a.name == "value"]
        if held:
            graph.initializer.add().CopyFrom(held[0])
            graph.initializer[-1].name = name = node.output[0]
            graph.node.remove(node)
            if are_inputs:
                graph.input.append(helper.make_tensor_value_info(name, held[0].data_type, held[0].dims))


def _welcome(proto: ModelProto) -> None:
    """Bring the nodes that were kept from the converter back among the others."""
    for node in proto.graph.node:
        node.domain = "" if node.domain == ALREADY else node.domain
    kept = [o for o in proto.opset_import if o.domain != ALREADY]
    del proto.opset_import[:]
    proto.opset_import.extend(kept)


def _with_own_axes(proto: ModelProto) -> ModelProto:
    """Every second operand with as many axes behind those that it has as it needs to broadcast by its shape alone.

    a[n, c, h, w] + b[c] at axis 1 is a + b[c, 1, 1]; a slope of PRelu lies along the channels.

    Raises:
        UpgradeError: how many axes an operand has is not known.

    """
    inferred = onnx.shape_inference.infer_shapes(proto).graph
    ranks = {t.name: len(t.dims) for t in inferred.initializer}
    for value in (*inferred.input, *inferred.output, *inferred.value_info):
        if value.type.tensor_type.HasField("shape"):
            ranks[value.name] = len(value.type.tensor_type.shape.dim)
    lowered = ModelProto()
    lowered.CopyFrom(proto)
    lowered.opset_import.append(helper.make_opsetid(ALREADY, 1))
    nodes: list[NodeProto] = []
    for node in lowered.graph.node:
        attrs = {a.name: a for a in node.attribute}
        legacy = node.op_type in ALIGNED and "broadcast" in attrs and attrs["broadcast"].i
        if legacy or node.op_type == "PRelu":
            a, b = (ranks.get(name) for name in node.input)
            if a is None or b is None:
                raise UpgradeError(f"an operand of {node.name or node.op_type} of unknown rank")
            axis = attrs["axis"].i % a if "axis" in attrs else a - b
            behind = a - b - (axis if legacy else min(1, a - b))
            if behind > 0 and b > 0:
                aligned = f"{node.output[0]}_aligned"
                axes = list(range(b, b + behind))
                nodes.append(helper.make_node("Unsqueeze", [node.input[1]], [aligned], axes=axes))
                node.input[1] = aligned
        if node.op_type in ALIGNED:
            kept = [a for name, a in attrs.items() if name not in ("axis", "broadcast")]
            del node.attribute[:]
            node.attribute.extend(kept)
            node.domain = ALREADY
        nodes.append(node)
    nodes = [NodeProto.FromString(node.SerializeToString()) for node in nodes]  # of their own, not of the list cleared
    del lowered.graph.node[:]
    lowered.graph.node.extend(nodes)
    return lowered


def _restore_ends(before: GraphProto, after: GraphProto) -> None:
    for part in ("input", "output"):
        given = {value.name: value for value in getattr(before, part)}
        for value in getattr(after, part):
            if value.name in given:
                value.CopyFrom(given[value.name])
