from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter

from ...onnx_file.file import LARGE
from ..base import Pass
from ..edit import detach, fresh, ints, is_constant, is_end, is_output, redirect, root_of

_VIEWS: dict[str, Callable[[np.ndarray, Any], np.ndarray]] = {
    "Transpose": lambda w, node: np.transpose(w, node.attrs.get("perm")),
    "Reshape": lambda w, node: np.reshape(w, node.outputs[0].shape),
    "Flatten": lambda w, node: np.reshape(w, node.outputs[0].shape),
    "Squeeze": lambda w, node: np.reshape(w, node.outputs[0].shape),
    "Unsqueeze": lambda w, node: np.reshape(w, node.outputs[0].shape),
    "Identity": lambda w, node: w,
}
KEPT = {
    "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear",  # they say in which type a weight is stored
    "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli",
    "Dropout", "If", "Loop", "Scan", "SequenceMap", "Constant",
}  # fmt: skip
"""Ops that are not folded: random ones, those with a graph of their own, and those that are there to be seen."""
PLAIN = "biuf"
"""The kinds of numbers that are folded: NumPy's own."""


class FoldConstants(Pass):
    """f(constants) is a constant.

    Small constants are folded by ONNX Runtime, all in one run. Large ones are left as they are, so that nothing grows
    past `LARGE` and no large weight is copied; one that is only laid out anew (transposed, reshaped) becomes a view of
    itself.

    Given  f(c₁, …, cₙ), every c known; Shape of a value whose shape is known, or Gather of sizes that are known
    Result the constant
    """

    name = "fold-constants"
    within = True

    def apply(self, graph: gs.Graph) -> int:  # noqa: D102
        graph.toposort()
        count = super().apply(graph)
        while folded := _fold_small(graph):
            count += folded
            graph.cleanup()
        return count

    def rewrite(self, graph: gs.Graph, node: Any) -> bool:
        """Fold a Constant, the shape of a value, or a change of layout of a large weight that has no other reader."""
        output = node.outputs[0]
        if (node.domain or "") not in ("", "ai.onnx") or is_end(graph, output):
            return False
        if node.op == "Constant":
            values = _constant_values(node)
        elif node.op in ("Shape", "Size", "Gather"):
            values = _shape_values(node)
        else:
            return _fold_view(graph, node)
        if values is None:
            return False
        _replace(graph, node, [values])
        return True


def _replace(graph: gs.Graph, node: Any, values: Sequence[Any]) -> None:
    """Let constants of `values` stand for the outputs of `node`.

    One that a graph within reads belongs to the outermost graph, under a name that nothing else has.
    """
    outputs = [t for t in node.outputs if not t.is_empty()]
    detach(graph, node)
    for output, value in zip(outputs, values, strict=True):
        name = output.name
        if is_output(graph, output):
            name, held = fresh(graph, name), vars(root_of(graph)).get("held")
            if held is not None:
                held.outer |= {name}
        redirect(output, gs.Constant(name, value))


def _constant_values(node: Any) -> Any:
    """The values of a Constant node: an array, or what gs has in the place of one."""
    if "value" in node.attrs:
        return node.attrs["value"]._values
    for name, dtype in (("value_float", "f4"), ("value_floats", "f4"), ("value_int", "i8"), ("value_ints", "i8")):
        if name in node.attrs:
            return np.array(node.attrs[name], dtype)
    return None


def _shape_values(node: Any) -> np.ndarray | None:
    """The value of a Shape or Size, or of a Gather from a Shape, where the sizes that it asks for are known."""
    if node.op == "Gather":
        shape = node.inputs[0].inputs[0] if node.inputs[0].inputs else None
        if shape is None or shape.op != "Shape" or (shape.domain or "") not in ("", "ai.onnx"):
            return None
        sizes, chosen = _sizes(shape), ints(node.inputs[1])
        if sizes is None or chosen is None or not all(-len(sizes) <= i < len(sizes) for i in chosen):
            return None
        found = [sizes[i] for i in chosen]
        known = all(isinstance(size, int) for size in found)
        return np.array(found, np.int64).reshape(node.inputs[1].values.shape) if known else None
    sizes = _sizes(node)
    if sizes is None or not all(isinstance(size, int) for size in sizes):
        return None
    return np.array(sizes if node.op == "Shape" else np.prod(sizes, dtype=np.int64), np.int64)


def _sizes(node: Any) -> Sequence[Any] | None:
    """The sizes that a Shape (between its `start` and `end`) or a Size is about."""
    shape = node.inputs[0].shape
    if shape is None or getattr(node.inputs[0], "type", None) not in (None, "tensor_type"):
        return None
    sizes: Sequence[Any] = list(shape)[node.attrs.get("start", 0) : node.attrs.get("end", len(shape))]
    return sizes


def _fold_view(graph: gs.Graph, node: Any) -> bool:
    view = _VIEWS.get(node.op)
    weight, output = node.inputs[0] if node.inputs else None, node.outputs[0]
    if view is None or weight is None or not is_constant(weight):
        return False
    if weight._values.nbytes < LARGE or len(weight.outputs) > 1 or is_output(graph, weight):
        return False
    if is_output(graph, output) or not all(isinstance(d, int) for d in output.shape or [None]):
        return False
    _replace(graph, node, [view(weight.values, node)])
    return True


def _fold_small(graph: gs.Graph) -> int:
    """Fold what depends on small constants alone; the number of nodes folded."""
    known: set[int] = set()
    chosen = []
    for node in graph.nodes:
        if _is_foldable(graph, node) and all(t.is_empty() or id(t) in known or _is_small(t) for t in node.inputs):
            chosen.append(node)
            known.update(id(t) for t in node.outputs)
    if not chosen:
        return 0
    found = _evaluated(graph, chosen)
    if found is None:
        found = {}
        for node in chosen:  # something among them cannot be run: the others still can
            if all(t.is_empty() or _is_small(t) for t in node.inputs):
                found |= _evaluated(graph, [node]) or {}
    count = 0
    for node in chosen:
        values = [found.get(t.name) for t in node.outputs if not t.is_empty()]
        if all(isinstance(v, np.ndarray) and v.nbytes < LARGE and v.dtype.kind in PLAIN for v in values):
            _replace(graph, node, values)
            count += 1
    return count


def _is_foldable(graph: gs.Graph, node: Any) -> bool:
    if (node.domain or "") not in ("", "ai.onnx") or node.op in KEPT or not node.inputs:
        return False
    return not any(is_end(graph, t) for t in node.outputs) and not any(True for _ in node.subgraphs())


def _is_small(tensor: Any) -> bool:
    plain = is_constant(tensor) and isinstance(tensor.dtype, np.dtype) and tensor.dtype.kind in PLAIN
    return plain and tensor._values.nbytes < LARGE


def _evaluated(graph: gs.Graph, nodes: list[Any]) -> dict[str, Any] | None:
    """All values that `nodes` make, by name; None where ONNX Runtime cannot run them."""
    import onnxruntime as ort

    constants = {t.name: t for node in nodes for t in node.inputs if is_constant(t)}
    outputs = [t.name for node in nodes for t in node.outputs if not t.is_empty()]
    proto = onnx.helper.make_graph(
        [OnnxExporter.export_node(node) for node in nodes],
        "folded",
        [],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [onnx.numpy_helper.from_array(np.asarray(t.values), name) for name, t in constants.items()],
    )
    opsets = graph.import_domains or [onnx.helper.make_opsetid("", graph.opset)]
    model = onnx.helper.make_model(proto, opset_imports=opsets, ir_version=10)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
        return dict(zip(outputs, session.run(outputs, {}), strict=True))
    except Exception:  # ONNX Runtime's own exceptions have no common base
        return None
