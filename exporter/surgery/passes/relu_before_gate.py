from typing import Any

import onnx_graphsurgeon as gs

from ..base import Pass
from ..edit import fresh, producer, sole_user
from .pool_first import gate_of
from .relu_past_maxpool import FUSES_RELU


class ReluBeforeGate(Pass):
    """relu(z·g) = relu(z)·g for g ≥ 0, which a sigmoid is. It does not hold for SiLU.

    Given  Conv → Mul by a sigmoid gate → Relu, nothing else reading the two values between them
    Result Conv → Relu → Mul, the Relu fused into the Conv
    """

    name = "relu-before-gate"

    def rewrite(self, graph: gs.Graph, node: Any) -> bool:  # noqa: D102
        if node.op != "Relu":
            return False
        product = node.inputs[0]
        mul = producer(product, "Mul")
        gate = gate_of(mul) if mul is not None and sole_user(graph, product) is node else None
        if gate is None or producer(gate, "Sigmoid") is None:
            return False
        side = 0 if mul.inputs[1] is gate else 1
        z, y = mul.inputs[side], node.outputs[0]
        if producer(z, *FUSES_RELU, "Add") is None or sole_user(graph, z) is not mul:
            return False
        positive = gs.Variable(fresh(graph, f"{z.name}_relu"), dtype=z.dtype, shape=z.shape)
        node.inputs[0], node.outputs[0] = z, positive
        mul.inputs[side], mul.outputs[0] = positive, y
        return True
