"""Runs an ONNX model by ONNX Runtime: on the CPU, where no engine can run, or by its providers on a GPU."""

import ctypes
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from plainconv.exporter.bundle import TensorSpec
from plainconv.exporter.errors import EngineError

from ..cuda.device_array import DeviceArray, borrow, gpu_of
from ..runner import InputCheck, Runner, Span, check_apart, check_outputs, on_gpu
from .graph_runs import GraphRuns, by_graph
from .session import Read, SessionOptions, is_lost, open_it, runtime, start, why_failed

_DTYPES = {  # by ONNX Runtime's words: NumPy's name, ONNX's number
    "tensor(bool)": ("bool", 9),
    "tensor(int8)": ("int8", 3),
    "tensor(uint8)": ("uint8", 2),
    "tensor(int32)": ("int32", 6),
    "tensor(int64)": ("int64", 7),
    "tensor(float16)": ("float16", 10),
    "tensor(bfloat16)": ("bfloat16", 16),
    "tensor(float)": ("float32", 1),
    "tensor(double)": ("float64", 11),
}
_ONNX_DTYPES = dict(_DTYPES.values())
_MOST_SHAPES = 1024  # that a check remembers
_Place = tuple[str, int, int]
_NO_WAIT = -1  # DLPack's word for a consumer that waits by itself


class OnnxRuntimeRunner(Runner):
    """Runs an ONNX file on the CPU, or on a GPU by one of ONNX Runtime's execution providers for it.

    Several threads may call it at the same time: a session keeps nothing of one run that another could see, and
    nothing here does either.

    `provider` is what it runs on, one of `PROVIDERS`. `tf32` says whether a GPU may round the factors of
    float32 products to 10 bits. `graph` is the name of the file.

    A runner on a GPU takes GPU arrays without a copy, and gives GPU arrays where an input is one.
    """

    backend = "onnxruntime"

    def __init__(
        self,
        onnx: Path,
        *,
        providers: str = "auto",
        threads: int = 0,
        precision: str = "fp32",
        tf32: bool = False,
        conv_search: str = "exhaustive",
        options: Mapping[str, str] | None = None,
        device: int = 0,
        cuda_graph: bool = False,
        read: Read = open_it,
    ) -> None:
        """Load the ONNX file at `onnx`; `precision` names what its graph computes in, `SessionOptions` has the rest.

        `cuda_graph`: calls on arrays of the host are replayed as one CUDA graph, which takes fixed shapes, nodes that
        CUDA has all, and one call at a time.

        Raises EngineError where `start` does, and where an input or output is no tensor that NumPy has.
        """
        settings = SessionOptions(
            providers, threads, tf32, conv_search, options or {}, device=device, cuda_graph=cuda_graph
        )
        session, self.provider = start(onnx, settings, read)
        self.precision, self.tf32, self.graph = precision, tf32, onnx.name
        self.inputs = tuple(_spec(value) for value in session.get_inputs())
        self.outputs = tuple(_spec(value) for value in session.get_outputs())
        binds = any(spec.dtype == "bfloat16" for spec in (*self.inputs, *self.outputs))  # which `run` does not know
        self._session, self._device, self._over = session, device, ""
        self._graph: GraphRuns | None = None
        self._unless_captured: tuple[Any, ...] = ()
        if cuda_graph and self.provider == "cuda":
            self._graph = GraphRuns(runtime(), session, self.inputs, self.outputs, device)
            self._unless_captured = (by_graph(runtime(), -1),)
        self._run: Any = None if binds else session.run
        self._names = [spec.name for spec in self.outputs]
        self._types = {spec.name: _ONNX_DTYPES[spec.dtype] for spec in (*self.inputs, *self.outputs)}
        self._fit: set[tuple[Any, ...]] = set()
        self._kinds = (np.ndarray,) if self.provider == "cpu" else (np.ndarray, DeviceArray)
        self._check = InputCheck(self.inputs, kinds=self._kinds[1:])
        self._only = self.inputs[0].name if len(self.inputs) == 1 and not binds else ""
        self._dtype = np.dtype(self.inputs[0].dtype) if self._only else None
        self._shape: tuple[int, ...] | None = None

    def __call__(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Run once; see `Runner`."""
        run = self._run
        binds = outputs is not None or run is None
        # What every call pays for: a single array like the last one that passed needs no closer look.
        try:
            array = inputs.get(self._only)
        except AttributeError:
            kind = type(inputs).__name__
            raise EngineError(f"inputs are a {kind}, wanted arrays by name; give {{name: array}}") from None
        if (
            type(array) is not np.ndarray
            or array.dtype is not self._dtype
            or array.shape != self._shape
            or not array.flags.c_contiguous
            or len(inputs) != 1
        ):
            inputs = self._looked(inputs)
            binds = binds or any(isinstance(array, DeviceArray) for array in inputs.values())
        try:
            if self._graph is not None and not binds:
                return self._graph(inputs)
            if binds:
                return self._run_bound(inputs, {} if outputs is None else outputs)
            values = run(self._names, inputs if type(inputs) is dict else dict(inputs))
            if len(values) == 1:
                return {self._names[0]: values[0]}
            return dict(zip(self._names, values, strict=True))
        except EngineError:
            raise
        except Exception as error:
            why = why_failed(error)
            if self.provider != "cpu" and is_lost(error):
                self._over = (
                    f"the runner is lost: GPU {self._device} failed ({why}); load the bundle again, in a new process"
                )
                self._run, self._graph = None, None
                raise EngineError(self._over) from error
            raise EngineError(why) from error

    @property
    def lost(self) -> bool:
        """Whether the GPU failed."""
        return bool(self._over)

    @property
    def notes(self) -> tuple[str, ...]:
        """Why it is lost."""
        return (self._over,) if self._over else ()

    def close(self) -> None:
        """Release the session, once the calls that other threads are in have ended."""
        self._session = self._run = self._graph = None

    def _looked(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """`inputs` with GPU arrays borrowed. Raises EngineError where they are not what the network takes."""
        taken = inputs if self.provider == "cpu" else _borrowed("input", inputs, self._device)
        self._check(taken)
        if self._only:
            self._shape = taken[self._only].shape
        return taken

    def _run_bound(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> dict[str, Any]:
        """Run by IO binding: `outputs` are written where they lie, the others are new arrays."""
        session = self._session
        if self._over:
            raise EngineError(self._over)
        if session is None:
            raise EngineError("the runner is closed; load the bundle again")
        if not isinstance(outputs, Mapping):
            raise EngineError(f"outputs are a {type(outputs).__name__}, wanted arrays by name; give {{name: array}}")
        taken = outputs if self.provider == "cpu" else _borrowed("output", outputs, self._device)
        self._look_at_outputs(inputs, taken)
        sources = {name: _place(array) for name, array in inputs.items()}
        targets = {name: _place(array) for name, array in taken.items()}
        check_apart(_spans(inputs, sources), _spans(taken, targets))
        on_device = any(device != "cpu" for device, _, _ in sources.values())
        binding = session.io_binding()
        for name, (device, index, address) in sources.items():
            binding.bind_input(name, device, index, self._types[name], inputs[name].shape, address)
        for name in self._names:
            if name in targets:
                device, index, address = targets[name]
                binding.bind_output(name, device, index, self._types[name], taken[name].shape, address)
            else:
                binding.bind_output(name, *(("cuda", self._device) if on_device else ("cpu",)))
        if self.provider != "cpu":
            binding.synchronize_inputs()  # the whole device: whatever stream the inputs are still written on
        session.run_with_iobinding(binding, *self._unless_captured)
        if self.provider != "cpu":
            binding.synchronize_outputs()
        if len(targets) == len(self._names):
            return {name: outputs[name] for name in self._names}
        values, owner = binding.get_outputs(), (binding, session)
        return {
            spec.name: outputs[spec.name] if spec.name in targets else _array_of(value, spec, self._device, owner)
            for spec, value in zip(self.outputs, values, strict=True)
        }

    def _look_at_outputs(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        """Raise EngineError where `outputs` cannot take the results; what has passed once passes quickly."""
        key: Any = [inputs[spec.name].shape for spec in self.inputs]
        for name, array in outputs.items():
            if type(array) not in self._kinds or not (array.flags.c_contiguous and array.flags.writeable):
                key = None
                break
            key += (name, array.shape, array.dtype)
        if key is None or (key := tuple(key)) not in self._fit:
            check_outputs(outputs, self.outputs, _known_shapes(inputs, self.inputs, self.outputs), self._kinds)
            if key is not None and len(self._fit) < _MOST_SHAPES:
                self._fit.add(key)


def _borrowed(role: str, arrays: Mapping[str, Any], device: int) -> dict[str, Any]:
    """The arrays, those on the GPU as DeviceArrays. Raises EngineError for one on another GPU."""
    for name, array in arrays.items():
        if on_gpu(array) and gpu_of(array) not in (None, device):
            raise EngineError(f"{role} {name} is on GPU {gpu_of(array)}, this runner on GPU {device}; move it there")
    taken = {name: borrow(array, _NO_WAIT) if on_gpu(array) else array for name, array in arrays.items()}
    for name, array in taken.items():
        if isinstance(array, DeviceArray) and array.device != device:
            raise EngineError(f"{role} {name} is on GPU {array.device}, this runner on GPU {device}; move it there")
    return taken


def _place(array: Any) -> tuple[str, int, int]:
    """Where an array lies, as an IO binding takes it: device, its index, address."""
    if isinstance(array, DeviceArray):
        return "cuda", array.device, array.address
    return "cpu", 0, int(array.ctypes.data)


def _array_of(value: Any, spec: TensorSpec, device: int, owner: object) -> Any:
    """The array that an OrtValue holds; one on the GPU, and its memory's `owner`, live as long as the array does."""
    dtype: Any = spec.dtype
    if dtype == "bfloat16":
        import ml_dtypes

        dtype = ml_dtypes.bfloat16
    if value.device_name() != "cpu":
        return DeviceArray(value.data_ptr(), tuple(value.shape()), np.dtype(dtype), device, (value, owner))
    if spec.dtype != "bfloat16":
        return value.numpy()
    array = np.empty(value.shape(), dtype)
    ctypes.memmove(array.ctypes.data, value.data_ptr(), array.nbytes)
    return array


def _known_shapes(
    inputs: Mapping[str, Any], specs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
) -> dict[str, tuple[int, ...]]:
    """The shapes of those outputs of a call whose every axis is fixed or named like one of an input."""
    sizes = {axis: size for spec in specs for axis, size in zip(spec.shape, inputs[spec.name].shape, strict=True)}
    shapes = {spec.name: tuple(sizes.get(a, a) if isinstance(a, str) else a for a in spec.shape) for spec in outputs}
    return {name: shape for name, shape in shapes.items() if all(isinstance(axis, int) for axis in shape)}


def _spans(arrays: Mapping[str, Any], places: Mapping[str, _Place]) -> list[Span]:
    return [(name, device, at, at + arrays[name].nbytes) for name, (device, _, at) in places.items()]


def _spec(value: Any) -> TensorSpec:
    if value.type not in _DTYPES:
        raise EngineError(f"{value.name} is a {value.type}, wanted a tensor of {', '.join(_ONNX_DTYPES)}")
    # an axis without a name is like no other: it gets one of its own
    shape = tuple(axis if axis is not None else f"{value.name}.{i}" for i, axis in enumerate(value.shape))
    return TensorSpec(value.name, _DTYPES[value.type][0], shape)
