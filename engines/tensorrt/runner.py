"""Runs TensorRT or TensorRT-RTX engines, from any number of threads, on arrays of the host or the GPU."""

import abc
import contextlib
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Generic, TypeVar, cast

import numpy as np

from plainconv.exporter.bundle import ShapeRange, TensorSpec
from plainconv.exporter.errors import EngineError, PlainconvWarning

from ..cuda.blocks import Blocks
from ..cuda.device_array import DeviceArray
from ..cuda.runtime import Cuda
from ..runner import InputCheck, Runner, Span, check_apart, check_mapping, on_gpu
from ..schedule import Schedule
from .contexts import Contexts
from .lane import AnyLane, Lane, LostError, Shared
from .split_lane import PartEngine, SplitLane, SplitShared, keep_for_ever
from .split_program import Layout

_Result = TypeVar("_Result")
_Lane = TypeVar("_Lane", bound=AnyLane)
_ALIGNMENT = 256  # bytes, of every address that TensorRT is given
_CLOSED = "the runner is closed; load the bundle again"


class LaneRunner(Runner, Generic[_Lane]):
    """As many lanes as there are calls at the same time, each with contexts and buffers of its own.

    Inputs are NumPy arrays, or arrays in GPU memory that have DLPack or the CUDA array interface, which are not copied
    on their GPU. Where an input is in GPU memory, so are the outputs: `DeviceArray`s, to be had without a copy by
    torch.from_dlpack and the like. `outputs` may be of either kind. When a call returns, its results are complete.
    """

    def __init__(
        self,
        cuda: Cuda,
        new_lane: Callable[[], _Lane],
        held: Sequence[object],
        blocks: Blocks,
        *,
        backend: str,
        precision: str,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        profiles: tuple[Mapping[str, ShapeRange], ...],
    ) -> None:
        """Make a lane, on the GPU that this thread uses; `held` is what lanes need, each before what it needs itself.

        Raises EngineError where that fails.
        """
        self.backend, self.precision, self.inputs, self.outputs = backend, precision, inputs, outputs
        self.profiles = profiles
        self._cuda, self._device, self._blocks = cuda, cuda.device(), blocks
        self._new_lane: Callable[[], _Lane] | None = new_lane
        self._check = InputCheck(inputs, profiles, (DeviceArray,))
        self._changed = threading.Condition()
        self._over: str | None = None  # why there are no more calls
        self._busy = 0
        self._idle = [new_lane()]
        self._held = [*held]

    def __call__(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Run once; see `Runner`. Outputs that are not given are new arrays, where the inputs are."""

        def run(lane: _Lane) -> dict[str, Any]:
            arrays = self._borrowed("input", inputs, lane)
            profile = self._check(arrays)
            if not outputs:
                return lane.run(arrays, {}, profile)
            taken = self._borrowed("output", outputs, lane)
            check_apart(_spans(arrays), _spans(taken))
            results = lane.run(arrays, taken, profile)
            return {name: outputs.get(name, result) for name, result in results.items()}

        return self._on_lane(run)

    @property
    def why_not_captured(self) -> str | None:
        """Why an idle lane does not replay its calls as CUDA graphs; None where all do."""
        with self._changed:
            return next((lane.why_not_captured for lane in self._idle if lane.why_not_captured), None)

    def close(self) -> None:
        """Wait for the calls that are under way, and release everything. Arrays handed out keep their memory."""
        with self._changed:
            lost, self._over = self._over is not None and self._over != _CLOSED, self._over or _CLOSED
            self._changed.wait_for(lambda: not self._busy)
            lanes, self._idle = self._idle, []
            held, self._held = self._held, []
            self._new_lane = None
        if not held:
            return
        elsewhere = self._cuda.device()
        try:
            if elsewhere != self._device:
                self._cuda.use_device(self._device)
            self._release(lanes, held)
        except EngineError:
            if not lost:
                raise
        finally:
            self._back_to(elsewhere)

    @abc.abstractmethod
    def _release(self, lanes: list[_Lane], held: list[Any]) -> None:
        """Close lanes and blocks, then let go of what they need, in order."""

    def _on_lane(self, run: Callable[[_Lane], _Result]) -> _Result:
        """`run` on a lane that no other thread has meanwhile, and on the runner's device."""
        with self._changed:
            new_lane = self._new_lane
            if self._over or new_lane is None:
                raise EngineError(self._over or _CLOSED)
            self._busy += 1
            lane = self._idle.pop() if self._idle else None
        elsewhere = None
        try:
            try:
                device = self._cuda.device()
                if device != self._device:
                    self._cuda.use_device(self._device)
                    elsewhere = device
                lane = lane or new_lane()
                return run(lane)
            except LostError as error:
                self._over = self._over or f"the runner is lost: {error}"
                raise
            finally:
                if elsewhere is not None:
                    self._back_to(elsewhere)
        finally:
            with self._changed:
                self._busy -= 1
                if lane is not None:
                    self._idle.append(lane)
                if self._over:
                    self._changed.notify_all()

    def _back_to(self, device: int) -> None:
        """Have this thread use its own device again, on which a runner that is lost does not insist."""
        try:
            self._cuda.use_device(device)
        except EngineError:
            if self._over is None or self._over == _CLOSED:
                raise

    def _borrowed(self, role: str, arrays: Mapping[str, Any], lane: _Lane) -> Mapping[str, Any]:
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

    def _on_device(self, what: str, array: Any, lane: _Lane) -> DeviceArray:
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


class TensorRTRunner(LaneRunner[Lane]):
    """One engine."""

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
        _check_names("the engine", engine, (*inputs, *outputs))
        contexts = contexts or Contexts(engine.create_execution_context, captures=True, scratch=0)
        blocks = Blocks(cuda)
        shared = Shared(cuda, cuda.device(), contexts, inputs, outputs, profiles, blocks)
        super().__init__(
            cuda,
            partial(Lane, shared),
            (shared, engine, outlives),
            blocks,
            backend=backend,
            precision=precision,
            inputs=inputs,
            outputs=outputs,
            profiles=profiles,
        )

    def stages(self, inputs: Mapping[str, Any]) -> dict[str, float]:
        """Milliseconds of one call on the device: "copy in", "compute", "copy out"."""

        def run(lane: Lane) -> dict[str, float]:
            arrays = self._borrowed("input", inputs, lane)
            return lane.stages(arrays, self._check(arrays))

        return self._on_lane(run)

    def _release(self, lanes: list[Lane], held: list[Any]) -> None:
        try:
            while lanes:
                lanes.pop().close()
            self._blocks.close()
        finally:
            while held:
                del held[0]


class TensorRTSplitRunner(LaneRunner[SplitLane]):
    """A network in parts, an engine each, on the streams of one GPU or of several.

    A call's parts run beside one another as far as what they read allows; calls follow one another on a lane, and
    overlap where several threads make them. What has not ended in time, or a GPU that fails, makes the runner lost:
    each further call raises at once, and closing frees nothing that a GPU may still be at. Its stages overlap, so
    that `stages` has none to give.
    """

    def __init__(
        self,
        schedule: Schedule,
        engines: Sequence[PartEngine],
        cuda: Cuda,
        *,
        devices: Sequence[int],
        backend: str,
        precision: str,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        profiles: tuple[Mapping[str, ShapeRange], ...] = (),
        timeout: float = 60.0,
    ) -> None:
        """Make a lane for the parts of `schedule`, whose engines are `engines`, in its order.

        `devices` are the CUDA devices that the plan's stand for, which may be one for several; arrays in GPU memory
        are those of the first. `profiles` are of the network's inputs. `timeout` is how many seconds after a request
        was enqueued it must have ended.

        Raises EngineError where the engines are not those of the schedule, or memory does not suffice.
        """
        parts = tuple(engines)
        problems = _split_problems(schedule, parts, devices, profiles)
        if problems:
            raise EngineError(f"the engines are not those of the parts: {'; '.join(problems)}; build them again")
        for step, part in zip(schedule.steps, parts, strict=True):
            _check_names(f"the engine of part {part.name}", part.engine, (*step.part.inputs, *step.part.outputs))
        names = tuple(spec.name for spec in inputs), tuple(spec.name for spec in outputs)
        layout = Layout(schedule, tuple(devices), *names)
        self._timeout = timeout
        elsewhere = cuda.device()
        try:
            layout = Layout(schedule, tuple(devices), *names, frozenset(_reached(cuda, layout.ways())))
            cuda.use_device(layout.home)
            self._bounded = _Bounded(cuda, layout.home, timeout)
            blocks = Blocks(cast(Cuda, self._bounded))
            shared = SplitShared(cuda, layout, parts, inputs, outputs, profiles, blocks, timeout)
            self._given_up = shared.given_up
            super().__init__(
                cuda,
                partial(SplitLane, shared),
                (shared, *parts),
                blocks,
                backend=backend,
                precision=precision,
                inputs=inputs,
                outputs=outputs,
                profiles=profiles,
            )
        finally:
            cuda.use_device(elsewhere)

    def _release(self, lanes: list[SplitLane], held: list[Any]) -> None:
        lost = self._over != _CLOSED
        ended = [lane.ended(0.0 if lost else self._timeout) for lane in (*lanes, *self._given_up)]
        if not (all(ended) and self._bounded.ended):
            keep_for_ever((lanes, held, self._blocks))
            found = "a GPU is still at work on a request that was given up, whose memory is not freed"
            warnings.warn(f"{found}; end the process to have it back", PlainconvWarning, stacklevel=3)
            return
        with contextlib.ExitStack() as each:
            each.callback(self._let_go, held)
            each.callback(self._blocks.close)
            while lanes:
                each.callback(lanes.pop().close)

    def _let_go(self, held: list[Any]) -> None:
        """Of what the parts have in common, then of each part while its device is in use."""
        del held[0]
        while held:
            try:
                self._cuda.use_device(held[0].device)
            finally:
                del held[0]


class _Bounded:
    """What `Blocks` asks of CUDA, but its wait for a device ends in time."""

    def __init__(self, cuda: Cuda, device: int, timeout: float) -> None:
        self.allocate, self.free = cuda.allocate, cuda.free
        self._cuda, self._device, self._timeout = cuda, device, timeout
        self._given_up: list[threading.Thread] = []

    @property
    def ended(self) -> bool:
        """Whether no wait for the device goes on that was given up."""
        return not any(thread.is_alive() for thread in self._given_up)

    def synchronize_device(self) -> None:
        failed: list[EngineError] = []

        def wait() -> None:
            try:
                self._cuda.use_device(self._device)
                self._cuda.synchronize_device()
            except EngineError as error:
                failed.append(error)

        thread = threading.Thread(target=wait, daemon=True)  # CUDA knows no wait for a device that gives up
        thread.start()
        thread.join(self._timeout)
        remedy = "load the bundle again, in a new process if the GPU still hangs"
        if thread.is_alive():
            self._given_up.append(thread)
            raise LostError(f"GPU {self._device} has not ended its work within {self._timeout:g} s; {remedy}")
        if failed:
            raise LostError(f"GPU {self._device} failed ({failed[0]}); {remedy}") from failed[0]


def _split_problems(
    schedule: Schedule,
    parts: Sequence[PartEngine],
    devices: Sequence[int],
    profiles: Sequence[Mapping[str, ShapeRange]],
) -> list[str]:
    names, wanted = [part.name for part in parts], [step.part.name for step in schedule.steps]
    if names != wanted:
        return [f"they are {', '.join(names) or 'none'}, wanted {', '.join(wanted)}"]
    used = 1 + max(step.place[0] for step in schedule.steps)
    if len(devices) < used:
        return [f"the plan uses {used} devices, {len(devices)} are given"]
    problems = []
    for step, part in zip(schedule.steps, parts, strict=True):
        if part.device != devices[step.place[0]]:
            problems.append(f"{part.name} is on GPU {part.device}, wanted GPU {devices[step.place[0]]}")
        if part.profiles and len(part.profiles) != len(profiles):
            problems.append(f"{part.name} has {len(part.profiles)} optimization profiles, the network {len(profiles)}")
    return problems


def _check_names(what: str, engine: Any, specs: Sequence[TensorSpec]) -> None:
    """Raise EngineError where an engine's tensors are not these."""
    names = {engine.get_tensor_name(i) for i in range(engine.num_io_tensors)}
    wanted = {spec.name for spec in specs}
    if names != wanted:
        raise EngineError(f"{what} has tensors {sorted(names)}, its bundle says {sorted(wanted)}; build it again")


def _reached(cuda: Cuda, ways: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The ordered pairs of devices of which the first has access to the second; the others copy by way of the host."""
    found = []
    for device, peer in ways:
        if cuda.can_reach(device, peer):
            cuda.use_device(device)
            with contextlib.suppress(EngineError):  # a GPU has so many peers and no more
                cuda.reach(peer)
                found.append((device, peer))
    return found


def _spans(arrays: Mapping[str, Any]) -> list[Span]:
    """Where the arrays in GPU memory lie, which the engine reads and writes in place."""
    return [
        (name, "cuda", array.address, array.address + array.nbytes)
        for name, array in arrays.items()
        if isinstance(array, DeviceArray)
    ]
