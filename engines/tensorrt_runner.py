"""Runs a TensorRT or TensorRT-RTX engine, from any number of threads, on arrays of the host or the GPU."""

import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np

from exporter.bundle import ShapeRange, TensorSpec
from exporter.errors import EngineError

from .contexts import Contexts
from .cuda import Cuda
from .device_array import Blocks, DeviceArray
from .lane import Lane, Shared
from .runner import InputCheck, Runner, Span, check_apart, check_mapping, on_gpu

_Result = TypeVar("_Result")
_ALIGNMENT = 256  # bytes, of every address that TensorRT is given


class TensorRTRunner(Runner):
    """One engine. As many lanes as there are calls at the same time, each with contexts and buffers of its own.

    Inputs are NumPy arrays, or arrays in GPU memory that have DLPack or the CUDA array interface, which are not copied.
    Where an input is in GPU memory, so are the outputs: `DeviceArray`s, to be had without a copy by
    torch.from_dlpack and the like. `outputs` may be of either kind. When a call returns, its results are complete.
    """

    def __init__(
        self,
        engine: Any,
        cuda: Cuda,
        *,
        backend: str,
        precision: str,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        profiles: tuple[Mapping[str, ShapeRange], ...] = (),
        contexts: Contexts | None = None,
        outlives: object = None,
    ) -> None:
        """Make a lane for `engine` (an ICudaEngine), on the GPU that this thread uses.

        `profiles` are the engine's optimization profiles, none where its shapes are fixed; `contexts` where its
        execution contexts come from, if not simply from it; `outlives` is held for as long as the engine.

        Raises EngineError where the engine is not of these inputs and outputs, or memory does not suffice.
        """
        self.backend, self.precision, self.inputs, self.outputs = backend, precision, inputs, outputs
        self.profiles = profiles
        names = {engine.get_tensor_name(i) for i in range(engine.num_io_tensors)}
        wanted = {spec.name for spec in (*inputs, *outputs)}
        if names != wanted:
            raise EngineError(
                f"the engine has tensors {sorted(names)}, its bundle says {sorted(wanted)}; build it again"
            )
        self._cuda, self._engine, self._outlives = cuda, engine, outlives
        self._device, self._blocks = cuda.device(), Blocks(cuda)
        self._shared: Shared | None = Shared(
            cuda,
            self._device,
            contexts or Contexts(engine.create_execution_context, captures=True, scratch=0),
            inputs,
            outputs,
            profiles,
            self._blocks,
        )
        self._check = InputCheck(inputs, profiles, (DeviceArray,))
        self._changed = threading.Condition()
        self._closed, self._busy = False, 0
        self._idle = [Lane(self._shared)]

    def __call__(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Run once; see `Runner`. Outputs that are not given are new arrays, where the inputs are."""

        def run(lane: Lane) -> dict[str, Any]:
            arrays = self._borrowed("input", inputs, lane)
            profile = self._check(arrays)
            if not outputs:
                return lane.run(arrays, {}, profile)
            taken = self._borrowed("output", outputs, lane)
            check_apart(_spans(arrays), _spans(taken))
            results = lane.run(arrays, taken, profile)
            return {name: outputs.get(name, result) for name, result in results.items()}

        return self._on_lane(run)

    def stages(self, inputs: Mapping[str, Any]) -> dict[str, float]:
        """Milliseconds of one call on the device: "copy in", "compute", "copy out"."""

        def run(lane: Lane) -> dict[str, float]:
            arrays = self._borrowed("input", inputs, lane)
            return lane.stages(arrays, self._check(arrays))

        return self._on_lane(run)

    @property
    def why_not_captured(self) -> str | None:
        """Why an idle lane does not replay its calls as CUDA graphs; None where all do."""
        with self._changed:
            return next((lane.why_not_captured for lane in self._idle if lane.why_not_captured), None)

    def close(self) -> None:
        """Wait for the calls that are under way, and release everything. Arrays handed out keep their memory."""
        with self._changed:
            self._closed = True
            self._changed.wait_for(lambda: not self._busy)
            lanes, self._idle = self._idle, []
        try:
            while lanes:
                lanes.pop().close()
            self._blocks.close()
        finally:
            self._shared = self._engine = self._outlives = None  # in this order: each needs the next

    def _on_lane(self, run: Callable[[Lane], _Result]) -> _Result:
        """`run` on a lane that no other thread has meanwhile, and on the runner's device."""
        with self._changed:
            shared = self._shared
            if self._closed or shared is None:
                raise EngineError("the runner is closed; load the bundle again")
            self._busy += 1
            lane = self._idle.pop() if self._idle else None
        elsewhere = None
        try:
            device = self._cuda.device()
            if device != self._device:
                self._cuda.use_device(self._device)
                elsewhere = device
            lane = lane or Lane(shared)
            return run(lane)
        finally:
            if elsewhere is not None:
                self._cuda.use_device(elsewhere)
            with self._changed:
                self._busy -= 1
                if lane is not None:
                    self._idle.append(lane)
                if self._closed:
                    self._changed.notify_all()

    def _borrowed(self, role: str, arrays: Mapping[str, Any], lane: Lane) -> Mapping[str, Any]:
        """The arrays of `arrays` that are in GPU memory as `DeviceArray`s, the others as they are."""
        check_mapping(role, arrays)
        for array in arrays.values():
            if type(array) is not np.ndarray:
                break
        else:
            return arrays
        return {
            name: self._on_device(f"{role} {name}", array, lane) if on_gpu(array) else array
            for name, array in arrays.items()
        }

    def _on_device(self, what: str, array: Any, lane: Lane) -> DeviceArray:
        try:
            borrowed = self._cuda.borrow(array, lane.stream)
        except EngineError as error:
            raise EngineError(f"{what}: {error}") from None
        if borrowed.device != self._device:
            raise EngineError(
                f"{what} is on GPU {borrowed.device}, the engine on GPU {self._device}; copy it there first"
            )
        if borrowed.address % _ALIGNMENT:
            raise EngineError(
                f"{what} begins at an address that is no multiple of {_ALIGNMENT}, as the engine wants; give a clone"
            )
        return borrowed


def _spans(arrays: Mapping[str, Any]) -> list[Span]:
    """Where the arrays in GPU memory lie, which the engine reads and writes in place."""
    return [
        (name, "cuda", array.address, array.address + array.nbytes)
        for name, array in arrays.items()
        if isinstance(array, DeviceArray)
    ]
