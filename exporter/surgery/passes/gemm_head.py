from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from ..base import Pass
from ..edit import add_node, append, detach, fresh, is_weight, producer, sole_user, spatial


class GemmHead(Pass):
    """On a 1×1 map a 1×1 conv is a matrix product: y[n,o] = b[o] + Σ_i W[o,i]·x[n,i].

    Given  x of 1×1 → Conv 1×1, one group → Flatten, nothing else reading the value between them
    Result x → Flatten → Gemm
    """

    name = "gemm-head"

    def rewrite(self, graph: gs.Graph, node: Any) -> bool:  # noqa: D102
        if node.op != "Flatten" or node.attrs.get("axis", 1) != 1:
            return False
        map_ = node.inputs[0]
        conv = producer(map_, "Conv")
        if conv is None or sole_user(graph, map_) is not node or not is_weight(conv.inputs[1]):
            return False
        x, w = conv.inputs[0], conv.inputs[1]
        size = spatial(x)
        if size is None or set(size) != {1} or set(w.shape[2:]) != {1} or conv.attrs.get("group", 1) != 1:
            return False
        if any(conv.attrs.get("pads", [])) or conv.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
            return False
        name, bias, matrix_shape = conv.name, list(conv.inputs[2:]), w.shape[:2]
        detach(graph, conv)
        flat = append(
            graph, "Flatten", [x], name=node.name, like=map_, shape=[x.shape[0], w.shape[1]], attrs={"axis": 1}
        )
        matrix = gs.Constant(fresh(graph, w.name), np.reshape(w.values, matrix_shape))
        if hasattr(w, "exact"):
            matrix.exact = np.reshape(w.exact, matrix_shape)
        add_node(graph, "Gemm", [flat, matrix, *bias], node.outputs[0], name=name, attrs={"transB": 1})
        return True
