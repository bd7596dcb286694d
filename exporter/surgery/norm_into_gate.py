from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from .base import Pass
from .edit import add_node, append, constant, sole_user
from .norms import affine_from_norm, norm_of
from .pool_first import gate_of


class NormIntoGate(Pass):
    """BN(x)·g = (s·x + t)·g = x·(s·g) + t·g.

    The products with g are 1×1: one pass over the whole map takes the place of the norm's, and it is a sum, which joins
    the sum that a skip connection ends in (the gated skip of Non-deep Networks §3.1).

    Given  BatchNormalization → Mul by a 1×1 gate, nothing else reading the normalized value
    Result Mul by the scaled gate, and Add of the gate times the shift
    """

    name = "norm-into-gate"

    def rewrite(self, graph: gs.Graph, node: Any) -> bool:  # noqa: D102
        gate = gate_of(node) if node.op == "Mul" else None
        if gate is None:
            return False
        value = node.inputs[0] if node.inputs[1] is gate else node.inputs[1]
        norm = norm_of(value)
        if norm is None or sole_user(graph, value) is not node:
            return False
        x, y, dtype = norm.inputs[0], node.outputs[0], norm.inputs[1].dtype
        tail = [1] * (len(y.shape) - 2)
        scaled, shifted = (
            append(
                graph,
                "Mul",
                [gate, constant(graph, f"{norm.name}.{part}", _map(v_C, tail), dtype)],
                like=gate,
                name=f"{node.name}_{part}",
            )
            for part, v_C in zip(("scale", "shift"), affine_from_norm(norm), strict=True)
        )
        product = append(graph, "Mul", [x, scaled], name=f"{node.name}_product", like=y)
        add_node(graph, "Add", [product, shifted], y, name=node.name)
        return True


def _map(v_C: np.ndarray, tail: list[int]) -> np.ndarray:
    return v_C.reshape(1, -1, *tail)
