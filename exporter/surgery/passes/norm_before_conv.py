from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from ..base import Pass
from ..channels import shuffle_of
from ..convs import bias64, channels_read, groups_of, is_unpadded, set_weights
from ..edit import add_node, append, constant, detach, is_output, is_weight, redirect, values64
from ..norms import affine_from_norm, finite_ratio, norm_of


class NormBeforeConv(Pass):
    """w*(s·x + t) = (w·s)*(x + t/s): padded or not, the border of both sides sees zeros.

    The scale goes into the weights. The shift must stay before the padding, where it is a sum, which the runtime fuses
    with what makes x and which `ShiftIntoBias` may take away. Pools may read the norm too: they are scaled behind.

    Given  BatchNormalization, no scale of it 0 → padded Convs, some perhaps behind a channel shuffle, and
           GlobalAveragePools, nothing else
    Result Add of a constant, where a shift is not 0 → the Convs with scaled weights, GlobalAveragePools → Mul
    """

    name = "norm-before-conv"

    def rewrite(self, graph: gs.Graph, node: Any) -> bool:  # noqa: D102
        y = node.outputs[0]
        if node.op != "BatchNormalization" or norm_of(y) is None or is_output(graph, y) or y.shape is None:
            return False
        convs, pools = _readers(graph, y, node.inputs[1].shape[0]) or ([], [])
        if not convs:
            return False
        scale_C, shift_C = affine_from_norm(node)
        ratio_C = finite_ratio(shift_C, scale_C, node.inputs[1].dtype)
        if ratio_C is None:
            return False
        x, name, dtype = node.inputs[0], node.name, node.inputs[1].dtype
        for conv, index_C in convs:
            scale_inputs(graph, conv, scale_C[index_C])
        for pool, index_C in pools:
            _scale_output(graph, pool, scale_C[index_C], dtype)
        if np.any(ratio_C):
            shift = constant(graph, f"{name}.shift", ratio_C.reshape(1, -1, *[1] * (len(y.shape) - 2)), dtype)
            add_node(graph, "Add", [x, shift], y, name=name)
        else:
            detach(graph, node)
            redirect(y, x)
        return True


def scale_inputs(graph: gs.Graph, conv: Any, scale_C: np.ndarray) -> None:
    """Let `conv` multiply its input channels: w[o, i] → w[o, i]·s[channel that o's group reads as its i-th]."""
    w_OIK = values64(conv.inputs[1])
    scaled = w_OIK * np.expand_dims(scale_C[channels_read(conv)], tuple(range(2, w_OIK.ndim)))
    set_weights(graph, conv, scaled, bias64(conv) if len(conv.inputs) > 2 else None)


def _scale_output(graph: gs.Graph, pool: Any, scale_C: np.ndarray, dtype: Any) -> None:
    pooled, name = pool.outputs[0], pool.name
    mean = append(graph, "GlobalAveragePool", [pool.inputs[0]], name=f"{name}_unscaled", like=pooled)
    scale = constant(graph, f"{name}.scale", scale_C.reshape(1, -1, *[1] * (len(pooled.shape) - 2)), dtype)
    add_node(graph, "Mul", [mean, scale], pooled, name=name)


_Readers = list[tuple[Any, np.ndarray]]


def _readers(graph: gs.Graph, y: Any, channels: int) -> tuple[_Readers, _Readers] | None:
    """The padded Convs and the pools that read y, each with the channel of y that its c-th is; None if others do."""
    convs: _Readers = []
    pools: _Readers = []
    for user in y.outputs:
        if (index_C := shuffle_of(user)) is not None and not is_output(graph, user.outputs[0]):
            inner = _readers(graph, user.outputs[0], channels)
            if inner is None:
                return None
            convs += [(conv, index_C[inner_C]) for conv, inner_C in inner[0]]
            pools += [(pool, index_C[inner_C]) for pool, inner_C in inner[1]]
        elif user.op == "Conv" and user.inputs[0] is y and all(is_weight(t) for t in user.inputs[1:]):
            if is_unpadded(user):
                return None  # the kernel algebra folds all of it
            convs.append((user, np.arange(user.inputs[1].shape[1] * groups_of(user))))
        elif user.op == "GlobalAveragePool" and user.outputs[0].shape is not None:
            pools.append((user, np.arange(channels)))
        else:
            return None
    return convs, pools
