from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from ..base import Pass
from ..channels import LAYOUT, channel_map
from ..edit import add_node, append, bypass, fresh


class ChannelLayout(Pass):
    """y[:, c] = concat(x₁, …, xₙ)[:, index[c]], whatever mix of Reshape, Transpose, Unsqueeze, Concat says so.

    The form that the passes after this one look for: a channel shuffle and an interleaved concat are one thing
    (the fusion of Non-deep Networks §3.2).

    Given  layout ops whose effect is to move channels
    Result Concat, if there are several sources, and Gather of channels, if their order changes; the source, if neither
    """

    name = "channel-layout"

    def rewrite(self, graph: gs.Graph, node: Any) -> bool:  # noqa: D102
        y = node.outputs[0]
        if node.op not in LAYOUT or any(user.op in LAYOUT for user in y.outputs):
            return False  # the map is read from its last op
        found = channel_map(graph, y)
        if found is None:
            return False
        normal = int(len(found.sources) > 1) + int(not found.is_plain)
        if len(found.nodes) <= normal:
            return False
        if normal == 0:
            return bypass(graph, node, found.sources[0])
        x, name = found.sources[0], node.name
        if len(found.sources) > 1:
            shape = [y.shape[0], sum(t.shape[1] for t in found.sources), *y.shape[2:]]
            if found.is_plain:
                add_node(graph, "Concat", found.sources, y, name=name, attrs={"axis": 1})
                return True
            x = append(graph, "Concat", found.sources, name=f"{name}_concat", like=y, shape=shape, attrs={"axis": 1})
        index = gs.Constant(fresh(graph, f"{name}_channels"), found.index.astype(np.int64))
        add_node(graph, "Gather", [x, index], y, name=name, attrs={"axis": 1})
        return True
