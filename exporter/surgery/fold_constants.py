import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from .base import Pass
from .edit import detach, is_constant, is_output, redirect
from .onnx_file import LARGE, skeleton, stubs_to_inputs

_VIEWS: dict[str, Callable[[np.ndarray, Any], np.ndarray]] = {
    "Transpose": lambda w, node: np.transpose(w, node.attrs.get("perm")),
    "Reshape": lambda w, node: np.reshape(w, node.outputs[0].shape),
    "Flatten": lambda w, node: np.reshape(w, node.outputs[0].shape),
    "Squeeze": lambda w, node: np.reshape(w, node.outputs[0].shape),
    "Unsqueeze": lambda w, node: np.reshape(w, node.outputs[0].shape),
    "Identity": lambda w, node: w,
}


class FoldConstants(Pass):
    """f(constants) is a constant.

    Small constants are folded by Polygraphy, which runs f in ONNX Runtime and reads shapes that are known off the
    graph. It sees large ones as inputs, so that nothing grows past `LARGE` and no large weight is copied. A large
    weight that is only laid out anew (transposed, reshaped) becomes a view of itself.

    Given  f(c₁, …, cₙ), every c known; Shape of a value whose shape is known
    Result the constant
    """

    name = "fold-constants"

    def apply(self, graph: gs.Graph) -> int:  # noqa: D102
        count = super().apply(graph)
        graph.cleanup()
        if any(_may_fold(node) for node in graph.nodes):
            before = len(graph.nodes)
            _fold_small(graph)
            count += before - len(graph.nodes)
        return count

    def rewrite(self, graph: gs.Graph, node: Any) -> bool:
        """Fold a change of layout of a large weight that has no other reader."""
        view = _VIEWS.get(node.op) if not node.domain else None
        weight = node.inputs[0] if node.inputs else None
        if view is None or weight is None or not is_constant(weight):
            return False
        if weight._values.nbytes < LARGE or len(weight.outputs) > 1:
            return False
        output = node.outputs[0]
        if is_output(graph, output) or not all(isinstance(d, int) for d in output.shape or [None]):
            return False
        folded = gs.Constant(output.name, view(weight.values, node))
        detach(graph, node)
        redirect(output, folded)
        return True


def _may_fold(node: Any) -> bool:
    """Whether `node` may be known without running the graph."""
    if node.op == "Constant":
        return True
    if node.op in ("Shape", "Size"):
        return node.inputs[0].shape is not None
    known = [is_constant(t) and t._values.nbytes < LARGE for t in node.inputs if not t.is_empty()]
    return bool(known) and all(known)


def _fold_small(graph: gs.Graph) -> None:
    from polygraphy.backend.onnx import fold_constants
    from polygraphy.logger import G_LOGGER

    held = {t.name: t for t in graph.tensors().values() if is_constant(t)}
    proto = skeleton(graph)
    large = stubs_to_inputs(proto)

    logging.getLogger("polygraphy").setLevel(logging.ERROR)
    with G_LOGGER.verbosity(G_LOGGER.CRITICAL):
        proto = fold_constants(
            proto, partitioning="recursive", size_threshold=LARGE, allow_onnxruntime_shape_inference=False
        )

    folded = gs.import_onnx(proto)
    for tensor in folded.inputs:
        if tensor.name in large:
            tensor.to_constant(held[tensor.name]._values)
    for tensor in folded.tensors().values():
        if is_constant(tensor) and hasattr(held.get(tensor.name), "exact"):
            tensor.exact = held[tensor.name].exact
    graph.nodes = folded.nodes
    graph.inputs = [t for t in folded.inputs if t.name not in large]
    graph.outputs = folded.outputs
