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
from .edit import outputs_inferred


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


def count_onnx(source: Path | gs.Graph, shapes: Mapping[str, tuple[int, ...]] | None = None) -> GraphCost:
    """The cost of an ONNX file, or of a graph with its shapes inferred; at inputs of these `shapes`, if any are given.

    Raises:
        ExportError: the file cannot be read.

    """
    if isinstance(source, Path):
        source, _ = read(source)
        infer_shapes(source)
    if shapes is None or not _is_open(source):
        return _count(source)
    with _fixed(source, shapes):
        return _count(source)


def _is_open(graph: gs.Graph) -> bool:
    """Whether an input has an open axis other than the first, which counts for one image."""
    return any(isinstance(size, str) for tensor in graph.inputs for size in tensor.shape[1:])


@contextlib.contextmanager
def _fixed(graph: gs.Graph, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[None]:
    """The graph with the shapes that its values have for inputs of these shapes, for as long as the block lasts."""
    variables = [*graph.inputs, *(t for t in graph.tensors().values() if isinstance(t, gs.Variable))]
    before = [(tensor, tensor.dtype, tensor.shape) for tensor in variables]
    is_open = {t.name: bool(t.shape) and isinstance(t.shape[0], str) for t in graph.inputs}
    try:
        for tensor in variables:
            tensor.shape = None
        for tensor in graph.inputs:
            shape = shapes[tensor.name]
            tensor.shape = [1, *shape[1:]] if is_open[tensor.name] else list(shape)
        with outputs_inferred(graph):
            infer_shapes(graph)
            yield
    finally:
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
