"""A backend `onnxruntime` for a Triton core that has none: `model.py` of a backend in Python, which Triton imports."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as triton


class TritonPythonModel:
    """A model of one ONNX file. Requests that Triton gives together share a run where the model batches."""

    @staticmethod
    def auto_complete_config(config: Any) -> Any:
        """Nothing is completed: the file must say all."""
        return config

    def initialize(self, args: dict[str, str]) -> None:
        """Load the file, to run on one thread."""
        config = json.loads(args["model_config"])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        path = Path(args["model_repository"], args["model_version"], config["default_model_filename"] or "model.onnx")
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._names = [value.name for value in self._session.get_inputs()]
        self._batches = config["max_batch_size"] > 0

    def execute(self, requests: list[Any]) -> list[Any]:
        """A response for each request."""
        given = [[triton.get_input_tensor_by_name(each, name).as_numpy() for name in self._names] for each in requests]
        if not self._batches:
            return [self._response(each, self._run(arrays)) for each, arrays in zip(requests, given, strict=True)]
        outputs = self._run([np.concatenate(arrays) for arrays in zip(*given, strict=True)])
        ends = np.cumsum([len(arrays[0]) for arrays in given])[:-1]
        apart = zip(*(np.split(array, ends) for array in outputs), strict=True)
        return [self._response(each, own) for each, own in zip(requests, apart, strict=True)]

    def _run(self, arrays: Any) -> Any:
        return self._session.run(None, dict(zip(self._names, arrays, strict=True)))

    def _response(self, request: Any, outputs: Any) -> Any:
        wanted = request.requested_output_names()
        named = zip((value.name for value in self._session.get_outputs()), outputs, strict=True)
        return triton.InferenceResponse([triton.Tensor(name, array) for name, array in named if name in wanted])
