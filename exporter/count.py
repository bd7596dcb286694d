"""What a network costs: parameters, multiply-accumulates, nodes by op, bytes of weights.

A multiply-accumulate (MAC) is one product of a weight and a value, added: VanillaNet's "FLOPs" are MACs, ParNet's are
twice that. Convolutions, matrix products and Linears count; elementwise ops and pools do not.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from .errors import ReparamError, first_line
from .onnx_file.file import infer_shapes, read
from .surgery.cost import macs_of

aten = torch.ops.aten
_PRODUCTS = {aten.mm, aten.addmm, aten.bmm, aten.baddbmm}
_MEANS = {aten.mean, aten.sum, aten._adaptive_avg_pool2d, aten.avg_pool2d}


@dataclass(frozen=True)
class Cost:
    """Of a network at one input size, for the batch given.

    `longest_sum` is the most terms that one value of a convolution, matrix product, mean or sum adds up.
    """

    parameters: int
    macs: int
    longest_sum: int = 1


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


def count_module(module: nn.Module, example: Tensor | tuple[Tensor, ...]) -> Cost:
    """Parameters, and MACs of one forward of `example`; nothing is computed and `module` is left as it is.

    Raises ReparamError where the forward needs the values it computes, as data-dependent control flow does.
    """
    examples = example if isinstance(example, tuple) else (example,)
    parameters = sum(p.numel() for p in module.parameters())
    with FakeTensorMode(allow_non_fake_inputs=True) as fake, torch.no_grad():
        inputs = tuple(fake.from_tensor(t) for t in examples)
        with FlopCounterMode(display=False) as counter, _LongestSum() as sums:
            try:
                module(*inputs)
            except Exception as error:
                raise ReparamError(
                    f"{type(module).__name__} cannot be traced ({first_line(error)}); "
                    "it needs a forward without data-dependent control flow"
                ) from error
    return Cost(parameters, counter.get_total_flops() // 2, sums.terms)


class _LongestSum(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps the largest number of terms that an operation adds up for one value of its result."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.terms = 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        op = func.overloadpacket
        if op is aten.convolution:
            self.terms = max(self.terms, args[1][0].numel())
        elif op in _PRODUCTS:
            self.terms = max(self.terms, args[-1].shape[-2])
        elif op in _MEANS and result.numel():
            self.terms = max(self.terms, args[0].numel() // result.numel())
        return result


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
