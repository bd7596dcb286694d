"""ONNX Runtime: runs a bundle's ONNX model where no engine can. The only file here that imports it, and late."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from exporter.bundle import TensorSpec
from exporter.errors import EngineError, one_line

from .runner import Array, Runner, check_inputs

_DTYPES = {
    "tensor(bool)": "bool",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(float16)": "float16",
    "tensor(bfloat16)": "bfloat16",
    "tensor(float)": "float32",
    "tensor(double)": "float64",
}


class OnnxRuntimeRunner(Runner):
    """Runs an ONNX file on the CPU."""

    backend = "onnxruntime"

    def __init__(self, onnx: Path, *, threads: int = 0) -> None:
        """Load the ONNX file at `onnx` to run on `threads` threads (0: one per core).

        Raises EngineError where ONNX Runtime is not installed or cannot load the file.
        """
        try:
            import onnxruntime
        except ImportError as error:
            raise EngineError(f"ONNX Runtime cannot be imported ({error}); pip install onnxruntime") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # what it warns of, the caller cannot mend
        # Threads that spin between two runs slow down everything else on the machine, other sessions above all.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session: Any = onnxruntime.InferenceSession(str(onnx), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # it raises a dozen classes of its own without a common base
            raise EngineError(
                f"{onnx.name}: ONNX Runtime cannot load it ({one_line(error)}); export it again"
            ) from error
        self.inputs = tuple(_spec(value) for value in self._session.get_inputs())
        self.outputs = tuple(_spec(value) for value in self._session.get_outputs())

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run once; see `Runner`."""
        if self._session is None:
            raise EngineError("the runner is closed; load the bundle again")
        check_inputs(inputs, self.inputs)
        try:
            outputs = self._session.run(None, dict(inputs))
        except Exception as error:
            raise EngineError(f"ONNX Runtime cannot run the model ({one_line(error)})") from error
        return {spec.name: array for spec, array in zip(self.outputs, outputs, strict=True)}

    def close(self) -> None:
        """Release the session."""
        self._session = None


def _spec(value: Any) -> TensorSpec:
    if value.type not in _DTYPES:
        raise EngineError(f"{value.name} is a {value.type}, wanted a tensor of {', '.join(_DTYPES.values())}")
    # an axis without a name is like no other: it gets one of its own
    shape = tuple(axis if axis is not None else f"{value.name}.{i}" for i, axis in enumerate(value.shape))
    return TensorSpec(value.name, _DTYPES[value.type], shape)
