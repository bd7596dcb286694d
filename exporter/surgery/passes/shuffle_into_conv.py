from functools import partial
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from ..base import Pass
from ..channels import ChannelMap, channel_map, inverse
from ..convs import groups_of, move_weights, take_inputs
from ..cost import Work, elements, macs_of
from ..edit import is_weight, sole_user


class ShuffleIntoConv(Pass):
    """Σ_c W[o, c]·x[index[c]] = Σ_i W[o, index⁻¹[i]]·x[i]: a conv reads permuted channels by permuted weights.

    A grouped conv can where each group keeps its channels. A shuffle across groups feeds every group from all, which no
    order of weights undoes: only a dense conv, zeros for what a group does not read, takes it up. Its MACs are those of
    the grouped one times the groups, which pays on 1×1 maps (gates) and next to never elsewhere; `Work.price` decides.

    Given  Gather of channels (a permutation) → Conv
    Result Conv of the value before the shuffle
    """

    name = "shuffle-into-conv"

    def rewrite(self, graph: gs.Graph, node: Any) -> bool:  # noqa: D102
        if node.op != "Conv" or not is_weight(node.inputs[1]):
            return False
        found = channel_map(graph, node.inputs[0])
        if found is None or len(found.sources) != 1 or found.is_plain:
            return False
        index_C, w = found.index, node.inputs[1]
        if not np.array_equal(np.sort(index_C), np.arange(index_C.size)):
            return False
        width, groups = w.shape[1], groups_of(node)
        if np.array_equal(index_C // width, np.arange(index_C.size) // width):
            # Channel i of the source, index[c] = i, meets the weight of c.
            place_GI = inverse(index_C).reshape(groups, width) % width
            move_weights(graph, node, partial(take_inputs, place_GI=place_GI))
        elif _dense_pays(graph, node, found):
            move_weights(graph, node, partial(_dense, groups=groups, index_C=index_C))
            node.attrs = dict(node.attrs) | {"group": 1}
        else:
            return False
        node.inputs[0] = found.sources[0]
        return True


def _dense(w_OIK: np.ndarray, groups: int, index_C: np.ndarray) -> np.ndarray:
    """w'[o, index[c]] = w[o, c − g·I] for the channels c that the group g of o reads, and 0 for others."""
    dense = np.zeros((w_OIK.shape[0], index_C.size, *w_OIK.shape[2:]), w_OIK.dtype)
    for rows, part, read in zip(
        np.split(dense, groups), np.split(w_OIK, groups), np.split(index_C, groups), strict=True
    ):
        rows[:, read] = part
    return dense


def _dense_pays(graph: gs.Graph, conv: Any, found: ChannelMap) -> bool:
    """Whether a dense conv costs less than the grouped one and the shuffle before it."""
    y, x, macs = elements(conv.outputs[0]), elements(conv.inputs[0]), macs_of(conv)
    if x is None or y is None or macs is None or any(sole_user(graph, n.outputs[0]) is None for n in found.nodes):
        return False
    groups, weights = groups_of(conv), int(np.prod(conv.inputs[1].shape))
    shuffled, dense = Work(macs, 2 * x + weights, kernels=1), Work(macs * groups, weights * groups)
    return dense.price < shuffled.price
