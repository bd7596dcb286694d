"""What an ONNX graph costs: parameters, multiply-accumulates, nodes by op, bytes of weights."""

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import onnx_graphsurgeon as gs

from ..onnx_file.file import infer_shapes, read
from .cost import macs_of


@dataclass(frozen=True)
class GraphCost:
    """Of an ONNX graph, for one image where its batch is open.

    `parameters` are the elements of its float constants, which folding may have made of several. `macs` is None where
    a shape that the count needs is unknown: a size that the graph computes.
    """

    parameters: int
    macs: int | None
    bytes: int
    nodes: Mapping[str, int]


def count_onnx(source: Path | gs.Graph, shape: tuple[int, ...] | None = None) -> GraphCost:
    """The cost of an ONNX file, or of a graph with its shapes inferred; at an input of this `shape` where one is given.

    Raises:
        ExportError: the file cannot be read.

    """
    if isinstance(source, Path):
        source, _ = read(source)
        infer_shapes(source)
    if shape is None or not _is_open(source):
        return _count(source)
    with _fixed(source, shape):
        return _count(source)


def _is_open(graph: gs.Graph) -> bool:
    """Whether an input has an open axis other than the first, which counts for one image."""
    return any(isinstance(size, str) for tensor in graph.inputs for size in tensor.shape[1:])


@contextlib.contextmanager
def _fixed(graph: gs.Graph, shape: tuple[int, ...]) -> Iterator[None]:
    """The graph with the shapes that its values have for an input of this shape, for as long as the block lasts."""
    variables = [*graph.inputs, *(t for t in graph.tensors().values() if isinstance(t, gs.Variable))]
    before = [(tensor, tensor.dtype, tensor.shape) for tensor in variables]
    batch, outputs = graph.inputs[0].shape[0], list(graph.outputs)
    try:
        for tensor in variables:
            tensor.shape = None
        graph.outputs.clear()  # inference leaves the shapes of outputs as they are declared
        graph.inputs[0].shape = [1 if isinstance(batch, str) else batch, *shape[1:]]
        infer_shapes(graph)
        yield
    finally:
        graph.outputs[:] = outputs
        for tensor, dtype, held in before:
            tensor.dtype, tensor.shape = dtype, held


def _count(graph: gs.Graph) -> GraphCost:
    constants = [t for t in graph.tensors().values() if isinstance(t, gs.Constant)]
    floats = [t for t in constants if isinstance(t.dtype, np.dtype) and t.dtype.kind == "f"]
    macs = [macs_of(node) for node in graph.nodes]
    return GraphCost(
        parameters=sum(prod(int(size) for size in t.shape) for t in floats),
        macs=None if None in macs else sum(m or 0 for m in macs),
        bytes=sum(t._values.nbytes for t in constants),
        nodes=dict(sorted(Counter(node.op for node in graph.nodes).items())),
    )
