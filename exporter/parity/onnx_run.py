"""An ONNX file run by ONNX Runtime on the CPU."""

import ctypes
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
from onnx import TensorProto

from ..errors import ExportError, one_line
from ..onnx_file.type_names import dtype_of
from .batches import Run


def run_onnx(path: Path, *, optimized: bool = True) -> Run:
    """`path` as a callable on arrays, one an input in the file's order; all its outputs.

    Threads do not spin between calls, nor does memory outlive one: what runs beside it, or next, has the machine.

    Raises:
        ExportError: ONNX Runtime refuses the file.

    """
    session = _session(path, optimized=optimized)
    names = [tensor.name for tensor in session.get_inputs()]
    ends = (*session.get_inputs(), *session.get_outputs())
    by_values = any(tensor.type == "tensor(bfloat16)" for tensor in ends)  # which `run` does not know

    def run(*arrays: np.ndarray) -> Sequence[np.ndarray]:
        if by_values:
            feeds = {name: _value(x) for name, x in zip(names, arrays, strict=True)}
            return [_array(y) for y in session.run_with_ort_values(None, feeds)]
        return [np.asarray(y) for y in session.run(None, dict(zip(names, arrays, strict=True)))]

    return run


def _value(x: np.ndarray) -> ort.OrtValue:
    if x.dtype.name == "bfloat16":
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(np.ascontiguousarray(x), TensorProto.BFLOAT16)
    return ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(x))


def _array(y: ort.OrtValue) -> np.ndarray:
    """Of bfloat16, as float32."""
    if y.data_type() != "tensor(bfloat16)":
        return np.asarray(y.numpy())
    found = np.empty(y.shape(), dtype_of("bfloat16"))
    ctypes.memmove(found.ctypes.data, y.data_ptr(), found.nbytes)
    return found.astype(np.float32)


def _session(path: Path, *, optimized: bool) -> ort.InferenceSession:
    try:
        return ort.InferenceSession(str(path), session_options(optimized=optimized), ["CPUExecutionProvider"])
    except Exception as error:  # as above
        raise ExportError(f"{path.name}: ONNX Runtime refuses it ({one_line(error)}); run the ONNX checker") from error


def session_options(*, optimized: bool) -> ort.SessionOptions:
    """One thread's worth of manners: no spinning, no arena that outlives a call, errors alone in the log."""
    options = ort.SessionOptions()
    options.log_severity_level = 4  # an error is raised as well
    options.enable_cpu_mem_arena = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Of its optimizations the last level lays every weight out anew: twice the memory and time for one pass each.
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_EXTENDED if optimized else level.ORT_DISABLE_ALL
    return options
