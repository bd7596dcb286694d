"""A typed graph in ONNX Runtime on the CPU, each type's rounding as an engine does it."""

import tempfile
from collections.abc import Iterator, Mapping, Set
from pathlib import Path

import numpy as np
import onnx_ir as ir

from ..onnx_file.ir_graph import save
from ..parity import Run, run_onnx
from .edit import Names
from .emulate import emulated


def run_of(model: ir.Model) -> Run:
    """`model`, which stays as it is, as a callable on arrays; its Q/DQ and Cast nodes are all computed.

    Raises ExportError where ONNX Runtime refuses the graph.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "typed.onnx"
        save(emulated(model), path)
        return run_onnx(path, optimized=False)


def peaks_of(
    model: ir.Model, inputs: Mapping[str, np.ndarray], batch: int, whole: Set[str] = frozenset(), of: str = "Abs"
) -> dict[str, float]:
    """The largest magnitude of each float value of `model`, and of each input, over all of `inputs`.

    Arrays by name, [images, …]; those in `whole` have no batch axis. `of` "Neg": the largest of the values' negatives.
    """
    model = model.clone()
    floats = [v for node in model.graph for v in node.outputs if v.dtype == ir.DataType.FLOAT]
    values = [v for v in floats if v.uses() or v.is_graph_output()]
    names = [v.name for v in values]
    unused = Names(model.graph)
    outputs = [_peak(model.graph, v, unused, of) for v in values]
    model.graph.outputs[:] = outputs
    run = run_of(model)
    names_in = [str(value.name) for value in model.graph.inputs]
    rows = [np.stack(run(*(feed[name] for name in names_in))) for feed in batches(inputs, batch, whole)]
    known = {str(name): float(peak) for name, peak in zip(names, np.max(np.stack(rows), axis=0), strict=True)}
    size = np.abs if of == "Abs" else np.negative
    return known | {name: float(size(x.astype(np.float64)).max()) for name, x in inputs.items() if x.size}


def batches(
    inputs: Mapping[str, np.ndarray], batch: int, whole: Set[str] = frozenset()
) -> Iterator[dict[str, np.ndarray]]:
    """`batch` images at a time, the last ones filled up with the last image; of inputs in `whole` one row."""
    count = min(len(x) for x in inputs.values())
    for start in range(0, count, batch):
        index = np.minimum(np.arange(start, start + batch), count - 1)
        yield {name: np.asarray(x[index[0] if name in whole else index]) for name, x in inputs.items()}


def _peak(graph: ir.Graph, value: ir.Value, names: Names, of: str) -> ir.Value:
    """max of(value), a scalar."""
    size = ir.Value(name=names(f"{value.name}.size"), shape=value.shape, type=ir.TensorType(ir.DataType.FLOAT))
    peak = ir.Value(name=names(f"{value.name}.peak"), shape=ir.Shape([]), type=ir.TensorType(ir.DataType.FLOAT))
    graph.append(ir.node(of, [value], outputs=[size], name=size.name))
    graph.append(ir.node("ReduceMax", [size], {"keepdims": 0}, outputs=[peak], name=peak.name))
    return peak
