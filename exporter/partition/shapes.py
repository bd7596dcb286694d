"""The shapes of the values inside a graph, where those of its inputs are given."""

from collections.abc import Mapping

import onnx_ir as ir

from ..onnx_file.ir_graph import infer


def shapes_at(model: ir.Model, inputs: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Value → its shape for inputs of these shapes, as far as ONNX can infer it; `model` stays as it is.

    Whether the graph takes such inputs is for who runs it to say.
    """
    model = model.clone()
    for value in model.graph.inputs:
        if value.name is not None and value.name in inputs:
            value.shape = ir.Shape(inputs[value.name])
    made = [value for node in model.graph for value in node.outputs]
    for value in (*made, *model.graph.outputs):
        value.shape = None
    infer(model, shapes=True)
    found = {}
    for value in (*made, *model.graph.inputs):
        if value.name and value.shape is not None:
            sizes = tuple(n for n in value.shape if isinstance(n, int))
            if len(sizes) == len(value.shape):
                found[value.name] = sizes
    return found
