"""The shapes of the values inside a graph, where those of its inputs are given."""

from collections.abc import Mapping

import onnx_ir as ir

from exporter.errors import PlanError
from exporter.ir_graph import infer


def shapes_at(model: ir.Model, inputs: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Value → its shape for inputs of these shapes, as far as ONNX can infer it; `model` stays as it is.

    Raises PlanError where the graph does not take such inputs.
    """
    model = model.clone()
    for value in model.graph.inputs:
        if value.name is not None and value.name in inputs:
            value.shape = ir.Shape(inputs[value.name])
    made = [value for node in model.graph for value in node.outputs]
    for value in (*made, *model.graph.outputs):
        value.shape = None
    try:
        infer(model, shapes=True)
    except Exception as error:  # of onnx, which raises its own
        raise PlanError(f"the network does not take inputs of shapes {dict(inputs)} ({error}); give others") from error
    found = {}
    for value in (*made, *model.graph.inputs):
        if value.name and value.shape is not None:
            sizes = tuple(n for n in value.shape if isinstance(n, int))
            if len(sizes) == len(value.shape):
                found[value.name] = sizes
    return found
