from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from .base import Pass
from .convs import bias64, channels_read, conv_of, is_unpadded, set_weights
from .edit import bypass, is_weight, sole_user, values64
from .norms import affine_from_norm, norm_of


class FoldNorm(Pass):
    """s·(w*x + b) + t = (s·w)*x + (s·b + t), and w*(s·x + t) + b = (w·s)*x + (b + Σ_i w_i·t_i) where nothing is padded.

    Behind padding the shift of a norm is no bias: the border sees zeros, not t.

    Given  Conv → BatchNormalization, nothing else reading the value between;
           or BatchNormalization → Conv without padding
    Result one Conv
    """

    name = "fold-norm"

    def rewrite(self, graph: gs.Graph, node: Any) -> bool:  # noqa: D102
        if node.op == "BatchNormalization":
            return _after(graph, node)
        if node.op == "Conv" and is_unpadded(node) and all(is_weight(t) for t in node.inputs[1:]):
            return _before(graph, node)
        return False


def _after(graph: gs.Graph, norm: Any) -> bool:
    x = norm.inputs[0]
    conv = conv_of(x)
    if conv is None or norm_of(norm.outputs[0]) is None or sole_user(graph, x) is not norm:
        return False
    scale_O, shift_O = affine_from_norm(norm)
    w_OIK = values64(conv.inputs[1])
    w_OIK = w_OIK * scale_O.reshape(-1, *[1] * (w_OIK.ndim - 1))
    b_O = bias64(conv) * scale_O + shift_O
    if not bypass(graph, norm, x):
        return False
    set_weights(graph, conv, w_OIK, b_O)
    return True


def _before(graph: gs.Graph, conv: Any) -> bool:
    norm = norm_of(conv.inputs[0])
    if norm is None:
        return False
    scale_C, shift_C = affine_from_norm(norm)
    w_OIK = values64(conv.inputs[1])
    reads_OI = channels_read(conv)
    tail = tuple(range(2, w_OIK.ndim))
    b_O = bias64(conv) + (w_OIK.sum(tail) * shift_C[reads_OI]).sum(1)
    set_weights(graph, conv, w_OIK * np.expand_dims(scale_C[reads_OI], tail), b_O)
    conv.inputs[0] = norm.inputs[0]
    return True
