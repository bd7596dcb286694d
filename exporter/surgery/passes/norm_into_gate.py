from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from ..base import Pass
from ..edit import add_node, append, constant, sole_user
from ..norms import Affine, affine_from_norm, finite_ratio, norm_of
from .pool_first import gate_of


class NormIntoGate(Pass):
    """BN(x)·g = (s·x + t)·g = (x + t/s)·(s·g), or x·(s·g) + t·g where an s is 0.

    The products with g are 1×1. Over the whole map a sum with a constant takes the place of the norm, which the runtime
    fuses with the product and the sum that a skip connection ends in (the gated skip of Non-deep Networks §3.1).

    Given  BatchNormalization → Mul by a 1×1 gate, nothing else reading the normalized value
    Result Add of a constant → Mul by the scaled gate; or Mul by the scaled gate → Add of the gate times the shift
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
        affine, dtype = affine_from_norm(norm), norm.inputs[1].dtype
        ratio_C = finite_ratio(affine.shift, affine.scale, dtype)
        if ratio_C is None:
            _shift_last(graph, node, gate, norm, affine)
            return True
        x, y = norm.inputs[0], node.outputs[0]
        tail = [1] * (len(y.shape) - 2)
        if np.any(ratio_C):
            shift = constant(graph, f"{norm.name}.shift", _map(ratio_C, tail), dtype)
            x = append(graph, "Add", [x, shift], name=f"{norm.name}_shift", like=value)
        scaled = _times(graph, gate, f"{norm.name}.scale", _map(affine.scale, tail), f"{node.name}_scale", dtype)
        add_node(graph, "Mul", [x, scaled], y, name=node.name)
        return True


def _shift_last(graph: gs.Graph, mul: Any, gate: Any, norm: Any, affine: Affine) -> None:
    """x·(s·g) + t·g."""
    x, y, dtype = norm.inputs[0], mul.outputs[0], norm.inputs[1].dtype
    tail = [1] * (len(y.shape) - 2)
    scaled, shifted = (
        _times(graph, gate, f"{norm.name}.{part}", _map(v_C, tail), f"{mul.name}_{part}", dtype)
        for part, v_C in zip(("scale", "shift"), affine, strict=True)
    )
    product = append(graph, "Mul", [x, scaled], name=f"{mul.name}_product", like=y)
    add_node(graph, "Add", [product, shifted], y, name=mul.name)


def _times(graph: gs.Graph, gate: Any, weight: str, values: np.ndarray, name: str, dtype: Any) -> Any:
    return append(graph, "Mul", [gate, constant(graph, weight, values, dtype)], like=gate, name=name)


def _map(v_C: np.ndarray, tail: list[int]) -> np.ndarray:
    return v_C.reshape(1, -1, *tail)
