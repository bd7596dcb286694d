from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from .base import Pass
from .channels import channel_map
from .convs import groups_of, set_weights
from .edit import is_weight, values64


class ShuffleIntoConv(Pass):
    """Σ_c W[o, c]·x[index[c]] = Σ_i W[o, index⁻¹[i]]·x[i]: a conv reads permuted channels by permuted weights.

    A grouped conv can where each group keeps its channels; a shuffle across groups feeds every group from all, which no
    order of weights undoes.

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
        groups, width = groups_of(node), w.shape[1]
        if not np.array_equal(np.sort(index_C), np.arange(index_C.size)):
            return False
        if not np.array_equal(index_C // width, np.arange(index_C.size) // width):
            return False
        place_GI = np.argsort(index_C).reshape(groups, width) % width  # channel i of the source is weight place[i]
        group_O = np.arange(w.shape[0]) // (w.shape[0] // groups)
        w_OIK = np.take_along_axis(
            values64(w), np.expand_dims(place_GI[group_O], tuple(range(2, len(w.shape)))), axis=1
        )
        bias = values64(node.inputs[2]) if len(node.inputs) > 2 else None
        set_weights(graph, node, w_OIK, bias)
        node.inputs[0] = found.sources[0]
        return True
