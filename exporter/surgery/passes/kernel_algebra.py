"""The kernel algebra as a pass. PyTorch is loaded only for a graph in which something may merge."""

from typing import Any

import onnx_graphsurgeon as gs

from ..base import Pass
from ..chains import may_merge


class KernelAlgebra(Pass):
    """y = b + Σ K·x for whatever is affine and shift-equivariant between two non-linearities.

    The lifter, planner and builder that reparameterize modules (`exporter.reparam`), on ONNX nodes: a file that was
    exported in its training form becomes what the module would have. Kernels are computed in float64, and each merged
    convolution is compared with the nodes it replaces.

    Given  chains and branches of Conv, ConvTranspose, BatchNormalization, Gemm, AveragePool, Pad, Slice, Concat, sums
           and scales
    Result one Conv, ConvTranspose or Gemm for each, where that takes no more multiply-accumulates
    """

    name = "kernel-algebra"

    def apply(self, graph: gs.Graph) -> int:
        """Merge all regions at once. Raises CheckFailedError if a convolution does not reproduce its nodes."""
        if not may_merge(graph):
            return 0
        from ..algebra import reparameterize_graph

        return len(reparameterize_graph(graph))

    def rewrite(self, graph: gs.Graph, node: Any) -> bool:
        """Regions are found on the whole graph, by `apply`."""
        return False
