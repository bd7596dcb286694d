"""What a pass is."""

from abc import ABC, abstractmethod
from typing import Any

import onnx_graphsurgeon as gs

from .edit import find_outputs
from .names import names_kept


class Pass(ABC):
    """One exact rewrite of an ONNX graph. Its docstring states the algebra, then *Given → Result*.

    A pass keeps names and shapes of the graph's inputs and outputs, leaves a value alone that something else reads, and
    finds nothing to do on what it left behind.
    """

    name: str
    fixes_size = False
    """Whether what the pass leaves takes the spatial size that the graph was written for and no other."""
    within = False
    """Whether the pass also fits a graph within another: it looks at a node, its neighbours and known shapes alone."""

    def apply(self, graph: gs.Graph) -> int:
        """Rewrite `graph` in place until the pass fits nowhere; the number of rewrites made (0: nothing changed)."""
        total = 0
        find_outputs(graph)
        with names_kept(graph):
            while count := self.sweep(graph):
                total += count
                graph.cleanup()  # what a rewrite left behind must not count as a reader in the next sweep
        return total

    def sweep(self, graph: gs.Graph) -> int:
        """Try the pass once on every node; the number of rewrites made."""
        return sum(1 for node in list(graph.nodes) if node.outputs and self.rewrite(graph, node))

    @abstractmethod
    def rewrite(self, graph: gs.Graph, node: Any) -> bool:
        """Rewrite around `node` if the pass fits there; whether it did."""
