"""Whether the kernel algebra can find anything in a graph, read off its nodes: no number is touched, no PyTorch loaded.

A value is a map of those before it that are its *sources*. Of a linear op, what it reads and the sources of that; of a
sum or a concatenation, what is a source of every term, each term being one of its own. A merge needs a linear op with a
second source, or two terms with a source in common.
"""

from collections.abc import Callable
from typing import Any

import onnx_graphsurgeon as gs

from .edit import is_weight, scalar

SUMS = {"Add", "Sub", "Sum"}
"""Sums where no term is constant; else a shift, of one value."""
_READS: dict[str, Callable[[Any], bool]] = {
    "MatMul": lambda node: all(t.shape is not None and len(t.shape) == 2 for t in node.inputs),
    "LeakyRelu": lambda node: node.attrs.get("alpha", 0.01) == 1,
    "PRelu": lambda node: scalar(node.inputs[1]) in (None, 1) and is_weight(node.inputs[1]),
}
"""What more must hold for a node of the op to be linear in its first input."""
LINEAR = {
    "Conv", "ConvTranspose", "BatchNormalization", "Gemm", "MatMul", "AveragePool", "Pad", "Slice", "Neg", "Identity",
    "Dropout", "LeakyRelu", "PRelu",
}  # fmt: skip
SCALES = {"Mul", "Div"}
"""Linear where one factor is constant."""
OPS = LINEAR | SCALES | SUMS | {"Concat"}


def may_merge(graph: gs.Graph) -> bool:
    """Whether some node of `graph`, in the order in which they run, could be one map with one before it.

    False is sure; of what may, costs and borders decide, which only the algebra knows.
    """
    constant: set[int] = set()
    sources: dict[int, set[int]] = {}
    summed: dict[int, list[set[int]]] = {}
    """The terms of each sum, those of sums among them taken in."""

    def over(tensor: Any) -> set[int]:
        return {id(tensor)} | sources.get(id(tensor), set())

    for node in graph.nodes:
        read = [t for t in node.inputs if not (isinstance(t, gs.Constant) or t.is_empty() or id(t) in constant)]
        if not read and node.inputs:
            constant.update(id(t) for t in node.outputs)
            continue
        values = _terms(node, read)
        if not values:
            continue
        is_sum = node.op in SUMS and len(values) > 1
        terms = [term for t in values for term in (summed.get(id(t), []) if is_sum else []) or [over(t)]]
        seen = [source for term in terms for source in term]
        if (len(terms) == 1 and len(seen) > 1) or len(seen) > len(set(seen)):
            return True
        result = id(node.outputs[0])
        sources[result] = terms[0] if len(terms) == 1 else set()
        if is_sum:
            summed[result] = terms
    return False


def _terms(node: Any, read: list[Any]) -> list[Any]:
    """The values that the node is affine in, of those that are not constant; none where it is not."""
    if (node.domain or "") not in ("", "ai.onnx") or node.op not in OPS:
        return []
    if node.op == "Concat" or (node.op in SUMS and len(read) > 1):
        return read
    linear = len(read) == 1 or (node.op in LINEAR and read[0] is node.inputs[0] and len(read) < len(node.inputs))
    return read[:1] if linear and _READS.get(node.op, lambda node: True)(node) else []
