from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from ..base import Pass
from ..edit import append, constant, detach, redirect
from ..norms import affine_from_norm, norm_of
from ..takers import take_scale, take_shift


class NormIntoConv(Pass):
    """s·f(w*x + b) + t = f'((s·w)*x + s·b + …) for an f that a factor and a summand pass, see `takers`.

    So a norm goes that the kernel algebra leaves because it cannot say what lies before it: convolutions of one concat,
    of a padding that depends on the size, a resize or a pool between, an activation that is a comparison.

    Given  BatchNormalization of such an f of Convs and ConvTransposes, nothing else reading any of it
    Result Mul by the scale → Add of the shift, for the passes that put these into the convolutions
    """

    name = "norm-into-conv"

    def rewrite(self, graph: gs.Graph, node: Any) -> bool:  # noqa: D102
        y = node.outputs[0]
        if node.op != "BatchNormalization" or norm_of(y) is None or y.shape is None or len(y.shape) < 3:
            return False
        x, (scale_C, shift_C), dtype = node.inputs[0], affine_from_norm(node), node.inputs[1].dtype
        if not (np.isfinite(scale_C).all() and np.isfinite(shift_C).all()) or x.dtype != dtype:
            return False
        if take_scale(graph, x, node, scale_C) is None or take_shift(graph, x, node, shift_C) is None:
            return False
        name, shape = node.name, [1, -1, *[1] * (len(y.shape) - 2)]
        detach(graph, node)
        for op, values_C in (("Mul", scale_C), ("Add", shift_C)):
            factor = constant(graph, f"{name}.{op.lower()}", values_C.reshape(shape), dtype)
            x = append(graph, op, [x, factor], name=f"{name}_{op.lower()}", like=y)
        _stand_for(graph, x, y)
        return True


def _stand_for(graph: gs.Graph, x: Any, y: Any) -> None:
    """Let what makes x make y."""
    (maker,) = x.inputs
    maker.outputs[0] = y
    redirect(x, y)
