from collections.abc import Hashable
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from ...onnx_file.file import LARGE
from ..base import Pass
from ..edit import bypass, is_constant, is_output

IMPURE = {
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Multinomial",
    "Bernoulli",
    "Dropout",
}
"""Ops whose two copies need not agree."""


class CommonSubexpressions(Pass):
    """x = x': the same op on the same values gives the same value.

    Given  two nodes of one op with the same inputs and attributes; a small constant counts by its values
    Result one of them, its value read by the readers of both
    """

    name = "common-subexpressions"
    within = True

    def sweep(self, graph: gs.Graph) -> int:  # noqa: D102
        graph.toposort()
        self._seen: dict[Hashable, Any] = {}
        return super().sweep(graph)

    def rewrite(self, graph: gs.Graph, node: Any) -> bool:  # noqa: D102
        if (node.domain or "") not in ("", "ai.onnx"):
            return False  # it may keep a state
        if node.op in IMPURE or any(True for _ in node.subgraphs()) or len(node.outputs) != 1:
            return False
        twin = self._seen.setdefault(_key(node), node)
        if twin is node or (is_output(graph, node.outputs[0]) and is_output(graph, twin.outputs[0])):
            return False
        return bypass(graph, node, twin.outputs[0])


def _key(node: Any) -> Hashable:
    attrs = tuple(sorted((name, repr(_identity(value))) for name, value in node.attrs.items()))
    return (node.domain or "", node.op, attrs, tuple(_identity(t) for t in node.inputs))


def _identity(tensor: Any) -> Hashable:
    if not isinstance(tensor, gs.Tensor):
        return repr(tensor)
    if is_constant(tensor) and tensor._values.nbytes < LARGE:
        values = np.asarray(tensor.values)
        if values.dtype.kind in "biufc":  # bytes say what a number is; of a text, where it lies
            return (str(tensor.dtype), str(values.dtype), values.shape, values.tobytes())
        return id(tensor)
    return "" if tensor.is_empty() else id(tensor)
