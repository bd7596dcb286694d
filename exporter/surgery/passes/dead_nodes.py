from typing import Any

import onnx_graphsurgeon as gs

from ..base import Pass


class DeadNodes(Pass):
    """What no output depends on computes nothing.

    Given  nodes and weights from which no path leads to an output
    Result none of them
    """

    name = "dead-nodes"

    def apply(self, graph: gs.Graph) -> int:  # noqa: D102
        before = len(graph.nodes)
        graph.cleanup().toposort()
        return before - len(graph.nodes)

    def rewrite(self, graph: gs.Graph, node: Any) -> bool:  # noqa: D102
        raise NotImplementedError("dead nodes are found on the whole graph")
