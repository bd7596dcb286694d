"""Who makes and who reads each value of an ONNX graph: all that a plan of parts is about. Imports no torch."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import onnx_ir as ir

from ..errors import ExportError, one_line
from ..onnx_file.ir_graph import settled

RANDOM = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}
"""Ops that give another result each time: no two parts may both compute one."""

NO_TENSOR = {
    "SplitToSequence", "SequenceConstruct", "SequenceEmpty", "SequenceInsert", "SequenceErase", "SequenceMap",
    "Optional",
}  # fmt: skip
"""Ops that make a sequence or an optional: inference calls these by the type of what they hold."""


@dataclass(frozen=True)
class Spec:
    """What a value is: its type as ONNX spells it ("FLOAT"; None where unknown or no tensor) and its shape.

    Axes are sizes, or names where they are open (None: open without a name); None for an unknown rank.
    """

    dtype: str | None
    shape: tuple[int | str | None, ...] | None
    itemsize: float = 4.0

    def sizes(self, axes: Mapping[str, int]) -> tuple[int, ...] | None:
        """The shape with open axes as `axes` says, or 1; None where it is unknown."""
        if self.shape is None:
            return None
        return tuple(n if isinstance(n, int) else axes.get(n, 1) if n is not None else 1 for n in self.shape)


@dataclass(frozen=True)
class Op:
    """A node by its name: the values it reads that are no constants (also inside its subgraphs), and those it makes."""

    name: str
    kind: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    random: bool = False


@dataclass(frozen=True)
class Wiring:
    """A graph of single assignment. `ops` are in an order in which they can run."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    ops: tuple[Op, ...]
    constants: frozenset[str]
    specs: Mapping[str, Spec]

    @cached_property
    def maker(self) -> Mapping[str, int]:
        """Value → the position in `ops` of the one that makes it."""
        return {value: at for at, op in enumerate(self.ops) for value in op.writes}

    @cached_property
    def readers(self) -> Mapping[str, tuple[int, ...]]:
        """Value → the positions of those that read it."""
        found: dict[str, list[int]] = {}
        for at, op in enumerate(self.ops):
            for value in dict.fromkeys(op.reads):
                found.setdefault(value, []).append(at)
        return {value: tuple(ats) for value, ats in found.items()}

    @cached_property
    def folded(self) -> frozenset[int]:
        """The ops that depend on constants alone: each part computes those it needs."""
        found: set[int] = set()
        for at, op in enumerate(self.ops):
            if not op.random and all(v in self.maker and self.maker[v] in found for v in op.reads):
                found.add(at)
        return frozenset(found)

    @cached_property
    def soft(self) -> frozenset[str]:
        """Values that do not go from part to part; whoever needs one computes it from what does.

        Those of no known tensor type, shape arithmetic (a few integers, which an engine wants on the host), what
        constants alone decide, and what a DequantizeLinear makes: the stored integers are a quarter of it. What is
        random is never one, nor is a value of the network's interface.
        """
        ends = {*self.inputs, *self.outputs}
        return frozenset(
            v for at, op in enumerate(self.ops) if not op.random for v in op.writes
            if v not in ends and (at in self.folded or op.kind == "DequantizeLinear" or _stays_home(self.specs[v]))
        )  # fmt: skip

    def needed(self, writes: Iterable[str], reads: Iterable[str]) -> tuple[list[int], set[str]]:
        """The positions of the ops that compute `writes` from `reads`, in order, and the inputs they end at.

        These are the members of `reads` that are used, and the network's inputs that are not among them.
        """
        stops, ends, found = set(reads), set[str](), set[int]()
        stack = list(writes)
        while stack:
            value = stack.pop()
            if value in stops or value not in self.maker:
                ends.add(value)
            elif self.maker[value] not in found:
                found.add(self.maker[value])
                stack.extend(self.ops[self.maker[value]].reads)
        return sorted(found), ends


def read_model(path: Path) -> ir.Model:
    """The model in the file at `path`, `prepared`. Raises ExportError where it is no ONNX file."""
    try:
        return prepared(ir.load(path))
    except Exception as error:  # protobuf, the file system and onnx_ir each raise their own
        raise ExportError(f"{path.name} cannot be read as ONNX ({one_line(error)}); give a file it exported") from error


def prepared(model: ir.Model) -> ir.Model:
    """`model`, in place: nodes in an order in which they run, each with a name of its own; types and shapes known.

    Constants become initializers. What ONNX cannot infer, as behind an op of another domain, stays unknown.
    """
    model.graph.sort()
    return settled(model, shapes=True)


def wiring_of(model: ir.Model) -> Wiring:
    """The wiring of a model that is `prepared`."""
    graph = model.graph
    constants = frozenset(graph.initializers)
    values = {v for node in graph for v in node.outputs if v.name} | {*graph.inputs, *graph.initializers.values()}
    return Wiring(
        inputs=tuple(str(v.name) for v in graph.inputs),
        outputs=tuple(str(v.name) for v in graph.outputs),
        ops=tuple(_op(node, constants) for node in graph),
        constants=constants,
        specs={str(v.name): _spec(v) for v in values},
    )


def values_read(node: ir.Node) -> Iterator[ir.Value]:
    """The values that `node` reads, with those its subgraphs take from the graph around it."""
    inner = {v for g in _subgraphs(node) for n in g for v in n.outputs}
    inner |= {v for g in _subgraphs(node) for v in (*g.inputs, *g.initializers.values())}
    yield from (v for v in node.inputs if v is not None)
    for graph in _subgraphs(node):
        captured = [v for n in graph for v in n.inputs if v is not None]
        yield from (v for v in (*captured, *graph.outputs) if v not in inner)


def _subgraphs(node: ir.Node) -> list[ir.Graph]:
    """The graphs among the attributes of `node`, and within these."""
    found: list[ir.Graph] = []
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            found.append(attribute.as_graph())
        elif attribute.type == ir.AttributeType.GRAPHS:
            found.extend(attribute.as_graphs())
    return found + [g for graph in found for n in graph for g in _subgraphs(n)]


def _op(node: ir.Node, constants: frozenset[str]) -> Op:
    reads = dict.fromkeys(str(v.name) for v in values_read(node) if v.name and v.name not in constants)
    kinds = {node.op_type, *(n.op_type for g in _subgraphs(node) for n in g)}
    kind = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
    writes = tuple(str(v.name) for v in node.outputs if v.name)
    return Op(str(node.name), kind, tuple(reads), writes, bool(kinds & RANDOM))


def _spec(value: ir.Value) -> Spec:
    shape = None if value.shape is None else tuple(n if isinstance(n, int) else n.value for n in value.shape)
    maker = value.producer()
    held = maker is not None and maker.op_type in NO_TENSOR and maker.domain in ("", "ai.onnx")
    if held or not isinstance(value.type, ir.TensorType) or value.dtype in (None, ir.DataType.UNDEFINED):
        return Spec(None, shape)
    dtype = value.type.dtype
    size = 8.0 if dtype == ir.DataType.STRING else dtype.itemsize
    return Spec(dtype.name, shape, float(size))


def _stays_home(spec: Spec) -> bool:
    return spec.dtype is None or (spec.dtype == "INT64" and spec.shape is not None and len(spec.shape) < 2)
