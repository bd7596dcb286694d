"""Runs a split network by ONNX Runtime on the CPU: each place is a thread on cores of its own."""

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from plainconv.exporter.bundle import PartRecord, SplitRecord, TensorSpec
from plainconv.exporter.errors import EngineError

from ..runner import Array, InputCheck, Runner, Span, check_apart, check_outputs, dtype_of
from ..schedule import Place, Schedule, schedule_of
from .cores import Cores, bind, cores_of_places, usable_cores
from .session import Read, SessionOptions, open_it, option_problems, run_options, runtime, start, why_failed
from .workers import Run, Workers

_BFLOAT16 = 16  # ONNX's number of what NumPy has no type of its own for


class OnnxRuntimeSplitRunner(Runner):
    """Runs the parts of a network side by side, one worker thread for each place, bound to its cores.

    The cores that the calling thread may use when it loads are dealt to the devices, those of a device to its places;
    `cores` says which each got, and `why_not_bound` why its threads are not bound to them (None: they are).

    A part begins when what it reads is there: what one makes another reads where it lies. Several threads may call at
    the same time, and a place that has nothing to do for one request takes a part of the next.
    """

    backend = "onnxruntime"
    provider = "cpu"
    tf32 = False

    def __init__(
        self,
        split: SplitRecord,
        files: Mapping[str, Path],
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        *,
        devices: Sequence[int] | None = None,
        threads: int = 1,
        timeout: float = 60.0,
        read: Read = open_it,
    ) -> None:
        """Load the parts of `split` from `files`, by name; `inputs` and `outputs` are those of the whole network.

        Args:
            split: the parts, and what each reads.
            files: part → its ONNX file.
            inputs: the network's.
            outputs: the network's.
            devices: for each device of the split which group of cores it is; 0, 1, 2 … by itself. Devices of the same
                group share its cores.
            threads: of each place, for one op at a time (0: one per core of it).
            timeout: seconds that a call may take, the wait for earlier calls included.
            read: gives the bytes of a part's file.

        Raises:
            EngineError: an option is none of these, a file is missing or no model that ONNX Runtime takes, or is
                another one than its part says.

        """
        groups = _groups(devices, split.devices)
        problems = option_problems(SessionOptions("cpu", threads))
        if not timeout > 0:
            problems.append(f"timeout is {timeout}; wanted a number of seconds above 0")
        missing = [part.name for part in split.parts if part.name not in files]
        if missing:
            problems.append(f"part {missing[0]} has no file, wanted one for each of {len(split.parts)} parts; give it")
        if problems:
            raise EngineError(problems[0])
        self.precision, self.inputs, self.outputs = split.precision, inputs, outputs
        self._runtime, self._timeout = runtime(), timeout
        self._check = InputCheck(inputs)
        self._results = split.results
        schedule = schedule_of(split)
        self.cores = cores_of_places(schedule.places, groups, usable_cores())
        loader = _Loader(schedule, files, self.cores, threads, read)
        self._workers = Workers(schedule, loader.start)
        self.why_not_bound: str | None = next(iter(loader.unbound), None)

    def __call__(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Run once; see `Runner`.

        Raises EngineError also where a part fails, and where the call takes longer than the timeout: both name the
        parts, and the runner goes on. An interrupted call ends what runs of it, too.
        """
        self._check(inputs)
        given: Mapping[str, Array] = {} if outputs is None else outputs
        if outputs is not None:
            check_outputs(outputs, self.outputs, {})
            check_apart(_spans(inputs), _spans(outputs))
        values = {name: _Value(self._ort_value(array), array) for name, array in inputs.items()}
        results = self._workers.run(values, run_options(self._runtime), self._timeout)
        found = {spec.name: self._array(results[spec.name], spec) for spec in self.outputs}
        for name, array in given.items():
            if array.shape != found[name].shape:
                raise EngineError(f"output {name} has shape {list(array.shape)}, wanted {list(found[name].shape)}")
        for name, array in given.items():
            np.copyto(array, found[name])
            found[name] = array
        return found

    def close(self) -> None:
        """Wait for the calls that other threads are in, and end the workers, which hold the sessions.

        Warns of a worker that ONNX Runtime keeps for longer than a call may take.
        """
        self._workers.close(self._timeout)

    def _ort_value(self, array: Array) -> Any:
        """An OrtValue in the memory of `array`."""
        if array.dtype.name == "bfloat16":
            return self._runtime.OrtValue.ortvalue_from_numpy_with_onnx_type(array, _BFLOAT16)
        return self._runtime.OrtValue.ortvalue_from_numpy(array)

    def _array(self, value: "_Value", spec: TensorSpec) -> Array:
        """The array of a result, which nothing else will write or release."""
        if self._results[spec.name] is None:
            assert value.array is not None
            return value.array.copy()
        if value.array is not None:
            return value.array
        if spec.dtype != "bfloat16":
            array: Array = value.tensor.numpy()
            return array
        array = np.empty(value.tensor.shape(), dtype_of(spec.dtype))
        ctypes.memmove(array.ctypes.data, value.tensor.data_ptr(), array.nbytes)
        return array


@dataclass(frozen=True, slots=True)
class _Value:
    """An OrtValue and, where it lies in the memory of one, the array: it is this that owns it."""

    tensor: Any
    array: Array | None = None


@dataclass(frozen=True)
class _Loader:
    """Starts places, each on its own thread. `unbound` takes why a thread could not be bound to its cores."""

    schedule: Schedule
    files: Mapping[str, Path]
    cores: Mapping[Place, Cores]
    threads: int
    read: Read
    unbound: list[str] = field(default_factory=list)

    def start(self, place: Place) -> Run:
        """Bind the calling thread to the cores of `place` and load its parts, so that their weights lie near by.

        Raises EngineError that names the part which ONNX Runtime refuses.
        """
        why_not = bind(self.cores[place])
        if why_not:
            self.unbound.append(why_not)
        threads = self.threads or len(self.cores[place])
        options = SessionOptions("cpu", threads, cores=() if why_not else self.cores[place])
        parts = {
            position: _LoadedPart(step.part, self.files[step.part.name], options, self.read)
            for position, step in enumerate(self.schedule.steps)
            if step.place == place
        }
        return lambda position, inputs, stop: parts[position].run(inputs, stop)


class _LoadedPart:
    """A part as a session."""

    def __init__(self, part: PartRecord, file: Path, options: SessionOptions, read: Read = open_it) -> None:
        self._part = part
        try:
            self._session, _ = start(file, options, read)
        except EngineError as error:
            raise EngineError(f"part {part.name}: {error}") from error
        self._names = [spec.name for spec in part.outputs]
        found = {value.name for value in self._session.get_inputs()}, {v.name for v in self._session.get_outputs()}
        wanted = {spec.name for spec in part.inputs}, set(self._names)
        if found != wanted:
            raise EngineError(
                f"part {part.name}: {file.name} reads {_list(found[0])} and makes {_list(found[1])}, wanted "
                f"{_list(wanted[0])} and {_list(wanted[1])}; split the network again"
            )

    def run(self, inputs: dict[str, _Value], stop: Any) -> list[_Value]:
        """Its outputs, in order. Raises EngineError with its name."""
        binding = self._session.io_binding()  # by `run_with_ort_values` a tiny part takes six times as long
        for name, value in inputs.items():
            binding.bind_ortvalue_input(name, value.tensor)
        for name in self._names:
            binding.bind_output(name)
        try:
            self._session.run_with_iobinding(binding, stop)
        except Exception as error:
            raise EngineError(f"part {self._part.name}: {why_failed(error)}") from error
        tensors = binding.get_outputs()
        binding.clear_binding_inputs()  # an output keeps the binding, and that its inputs
        return [_Value(tensor) for tensor in tensors] if len(tensors) == 1 else [_alone(tensor) for tensor in tensors]


def _alone(tensor: Any) -> _Value:
    """The same value, in the same memory: held, it does not keep the others that were made with it.

    It does where it is bfloat16, which takes a copy to get out of ONNX Runtime.
    """
    if tensor.data_type() == "tensor(bfloat16)":
        return _Value(tensor)
    array = tensor.numpy()
    return _Value(type(tensor).ortvalue_from_numpy(array), array)


def _groups(devices: Sequence[int] | None, wanted: int) -> tuple[int, ...]:
    """The group of cores of each device. Raises EngineError where they are not one each."""
    groups = tuple(range(wanted)) if devices is None else tuple(devices)
    if len(groups) != wanted:
        raise EngineError(f"{len(groups)} devices are given, wanted {wanted}: one for each of the split's")
    if wrong := [group for group in groups if group < 0]:
        raise EngineError(f"device {wrong[0]} is given, wanted groups of cores from 0 on: 0, 1, 2 …")
    return groups


def _spans(arrays: Mapping[str, Array]) -> list[Span]:
    return [(name, "cpu", int(x.ctypes.data), int(x.ctypes.data) + x.nbytes) for name, x in arrays.items()]


def _list(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "none"
