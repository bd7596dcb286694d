"""The shape of every value of a graph, an open axis taken for one of usual size."""

from math import prod
from typing import Any

import onnx_graphsurgeon as gs

from ..errors import ExportError
from ..onnx_file.file import infer_shapes

MOST_ELEMENTS = 1 << 48
HINT_BATCH, HINT_SIZE = 2, 224  # what an open axis is taken for where costs are compared; legality does not use them


def sizes_of(graph: gs.Graph) -> dict[str, list[int]]:
    """The shape of every value by name; an open axis has the size that follows from the hints for the inputs."""
    tensors = {name: t for name, t in graph.tensors().items() if isinstance(t, gs.Variable)}
    written = {name: t.shape for name, t in tensors.items()}
    found = written
    if not all(_is_static(shape) for shape in written.values()):
        inputs, outputs = {t.name for t in graph.inputs}, list(graph.outputs)
        try:
            for name, tensor in tensors.items():
                shape = tensor.shape if name in inputs else None
                tensor.shape = shape and [n if isinstance(n, int) else _hint(d) for d, n in enumerate(shape)]
            graph.outputs.clear()  # inference leaves the shapes of outputs as they are declared
            infer_shapes(graph, within=False)
            found = {name: t.shape for name, t in tensors.items()}
        except ExportError:  # the network does not take those sizes
            pass
        finally:
            graph.outputs.extend(outputs)
            for name, tensor in tensors.items():
                tensor.shape = written[name]
    return {name: list(shape) for name, shape in found.items() if _is_static(shape) and _is_held(shape)}


def _is_static(shape: Any) -> bool:
    return shape is not None and all(isinstance(n, int) for n in shape)


def _is_held(shape: Any) -> bool:
    """Whether a value of this shape can be: windows of absurd dilations leave a negative size."""
    return min(shape, default=0) >= 0 and prod(shape) < MOST_ELEMENTS


def _hint(axis: int) -> int:
    return HINT_BATCH if axis == 0 else HINT_SIZE
