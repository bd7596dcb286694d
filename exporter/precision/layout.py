"""Where the Q/DQ of an int8 or fp8 graph stand, and how a value is stored there: TensorRT's way."""

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass

import onnx_ir as ir

from ..onnx_file.layer_types import WEIGHTED
from .edit import weight_of


@dataclass(frozen=True)
class Plan:
    """The `layers` to quantize, and the values that are stored rounded, each with the one whose range it is given."""

    values: Mapping[ir.Value, ir.Value]
    layers: frozenset[ir.Node]


@dataclass(frozen=True)
class Layout:
    """How a graph is quantized for a kind of runtime.

    `plan` says what of a graph, but for the nodes of these names; `ops` are those whose values it may round. `affine`:
    values are uint8 with a zero point, stored for all that read them, and biases are int32. Else they are symmetric, of
    the layers' own type, and stored for layers alone, and biases are as they were.
    """

    name: str
    plan: Callable[[ir.Graph, Set[str]], Plan]
    ops: tuple[str, ...]
    affine: bool = False


def quantizable(node: ir.Node) -> bool:
    """Whether `node` is a conv or matrix product of a computed float32 value with a constant float32 weight."""
    weight, x = weight_of(node), node.inputs[0] if node.inputs else None
    return (
        weight is not None
        and weight.dtype == ir.DataType.FLOAT
        and x is not None
        and x.const_value is None
        and x.dtype == ir.DataType.FLOAT
    )


def _plan(graph: ir.Graph, kept: Set[str]) -> Plan:
    """What each conv and matrix product reads."""
    layers = frozenset(node for node in graph if quantizable(node) and node.name not in kept)
    return Plan({x: x for node in layers for x in node.inputs[:1] if x is not None}, layers)


ENGINE = Layout("engine", _plan, WEIGHTED)
