"""An ONNX file run by ONNX Runtime on the CPU."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from ..errors import ExportError, one_line
from .batches import Run


def run_onnx(path: Path, *, optimized: bool = True) -> Run:
    """`path` as a callable on arrays, one an input in the file's order; all its outputs.

    Threads do not spin between calls, nor does memory outlive one: what runs beside it, or next, has the machine.

    Raises:
        ExportError: ONNX Runtime refuses the file.

    """
    session = _session(path, optimized=optimized)
    names = [tensor.name for tensor in session.get_inputs()]

    def run(*arrays: np.ndarray) -> Sequence[np.ndarray]:
        return [np.asarray(y) for y in session.run(None, dict(zip(names, arrays, strict=True)))]

    return run


def values_of_onnx(path: Path, inputs: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Every value that the graph computes for `inputs`, by name, in the order of the nodes.

    All of them at once: a large network at a large size takes the memory.

    Raises:
        ExportError: ONNX Runtime refuses the file.

    """
    model = onnx.load(path)
    known = {output.name for output in model.graph.output}
    names = [name for node in model.graph.node for name in node.output if name]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    try:
        session = ort.InferenceSession(model.SerializeToString(), _options(optimized=False), ["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own exceptions have no common base
        raise ExportError(f"{path.name}: ONNX Runtime refuses it ({one_line(error)}); run the ONNX checker") from error
    feeds = {tensor.name: x for tensor, x in zip(session.get_inputs(), inputs, strict=True)}
    return dict(zip(names, session.run(names, feeds), strict=True))


def _session(path: Path, *, optimized: bool) -> ort.InferenceSession:
    try:
        return ort.InferenceSession(str(path), _options(optimized=optimized), ["CPUExecutionProvider"])
    except Exception as error:  # as above
        raise ExportError(f"{path.name}: ONNX Runtime refuses it ({one_line(error)}); run the ONNX checker") from error


def _options(*, optimized: bool) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = 4  # an error is raised as well
    options.enable_cpu_mem_arena = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Of its optimizations the last level lays every weight out anew: twice the memory and time for one pass each.
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_EXTENDED if optimized else level.ORT_DISABLE_ALL
    return options
