"""A model of fixed shapes as one CUDA graph of ONNX Runtime's."""

import threading
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from plainconv.exporter.bundle import TensorSpec
from plainconv.exporter.errors import EngineError

from ..runner import Array


class GraphRuns:
    """Runs that are captured once and replayed, on GPU arrays of their own; one at a time, from any thread.

    ONNX Runtime replays a graph whatever a run is given, so nothing else may run by its number.
    """

    def __init__(
        self,
        onnxruntime: ModuleType,
        session: Any,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        device: int,
    ) -> None:
        """Make the arrays. Raises EngineError for a shape that is open, or a type that NumPy has not."""
        for spec in (*inputs, *outputs):
            if any(not isinstance(axis, int) for axis in spec.shape) or spec.dtype == "bfloat16":
                raise EngineError(f"{spec} cannot be in a CUDA graph, wanted a fixed shape and a type of NumPy's")
        self._session, self._lock, self._binding = session, threading.Lock(), session.io_binding()
        self._options = by_graph(onnxruntime, 0)

        def array(spec: TensorSpec) -> Any:
            return onnxruntime.OrtValue.ortvalue_from_shape_and_type(list(spec.shape), spec.dtype, "cuda", device)

        self._inputs = {spec.name: array(spec) for spec in inputs}
        self._outputs = {spec.name: array(spec) for spec in outputs}
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        for name, value in self._outputs.items():
            self._binding.bind_ortvalue_output(name, value)

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run on checked arrays of the host, and give new ones."""
        with self._lock:
            for name, value in self._inputs.items():
                value.update_inplace(inputs[name])
            self._session.run_with_iobinding(self._binding, self._options)
            return {name: value.numpy() for name, value in self._outputs.items()}


def by_graph(onnxruntime: ModuleType, number: int) -> Any:
    """The options of a run by the graph of that number; -1: by none, whatever was captured."""
    options = onnxruntime.RunOptions()
    options.add_run_config_entry("gpu_graph_id", str(number))
    return options
