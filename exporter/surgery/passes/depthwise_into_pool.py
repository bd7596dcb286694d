from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from ..base import Pass
from ..edit import add_node, constant, detach, is_weight, producer, sole_user, spatial, values64
from .global_average_pool import is_pool, pool_of

MAX_GROWTH = 2.0
"""The summed kernel may hold at most this many times the weights of the depthwise kernel it replaces."""


class DepthwiseIntoPool(Pass):
    """mean_p(b + Σ_t w[t]·x[s·p + d·t − pad]) = b + Σ_q S[q]·x[q],  S[q] = (1/P)·Σ_{p,t: s·p+d·t−pad = q} w[t].

    The sum over taps is separable into one 0/1 matrix an axis: S = Aᵀ_h·w·A_w / P, A[t, q] = #{p: s·p + d·t − pad = q}.
    MACs a channel fall from P·K to H·W, and the passes over memory from three (read x, write and read y) to one. The
    weights grow from K to H·W, which sets a limit (`MAX_GROWTH`). S covers the map whole, so H and W must be fixed.

    Given  depthwise Conv → GlobalAveragePool at a static size, nothing else reading the value between them
    Result one depthwise Conv without padding whose kernel is the whole map
    """

    name = "depthwise-into-pool"
    fixes_size = True

    def rewrite(self, graph: gs.Graph, node: Any) -> bool:  # noqa: D102
        if not is_pool(node):
            return False
        y = node.inputs[0]
        conv = producer(y, "Conv")
        if conv is None or sole_user(graph, y) is not node or not is_weight(conv.inputs[1]):
            return False
        x, w = conv.inputs[0], conv.inputs[1]
        size, pooled = spatial(x), spatial(y)
        depthwise = w.shape[1] == 1 and w.shape[0] == conv.attrs.get("group", 1)
        if not depthwise or size is None or pooled is None or conv.attrs.get("auto_pad", "NOTSET") != "NOTSET":
            return False
        if np.prod(size) > MAX_GROWTH * np.prod(w.shape[2:]):
            return False
        node = pool_of(graph, node)
        kernel = pooled_kernel(values64(w), conv.attrs, size, pooled)
        name, bias = conv.name, list(conv.inputs[2:])
        attrs = {
            "dilations": [1] * len(size),
            "group": conv.attrs["group"],
            "kernel_shape": list(size),
            "pads": [0] * (2 * len(size)),
            "strides": [1] * len(size),
        }
        detach(graph, conv)
        inputs = [x, constant(graph, w.name, kernel, w.dtype), *bias]
        add_node(graph, "Conv", inputs, node.outputs[0], name=name, attrs=attrs)
        return True


def pooled_kernel(w_CIK: np.ndarray, attrs: Any, size: tuple[int, ...], pooled: tuple[int, ...]) -> np.ndarray:
    """S[c, 0, q] of the class docstring, in float64, for a map of `size` and a conv output of `pooled`."""
    rank = len(size)
    strides, dilations = attrs.get("strides", [1] * rank), attrs.get("dilations", [1] * rank)
    pads = attrs.get("pads", [0] * (2 * rank))
    s = w_CIK / np.prod(pooled)
    for axis in range(rank):
        hits_tq = np.zeros((w_CIK.shape[2 + axis], size[axis]))
        for t in range(w_CIK.shape[2 + axis]):
            q = np.arange(pooled[axis]) * strides[axis] + dilations[axis] * t - pads[axis]
            np.add.at(hits_tq[t], q[(q >= 0) & (q < size[axis])], 1.0)
        s = np.moveaxis(np.tensordot(s, hits_tq, axes=(2 + axis, 0)), -1, 2 + axis)
    return s
