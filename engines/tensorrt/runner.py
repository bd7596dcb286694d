"""Runs TensorRT or TensorRT-RTX engines, from any number of threads, on arrays of the host or the GPU."""

import contextlib
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from plainconv.exporter.bundle import ShapeRange, TensorSpec
from plainconv.exporter.errors import EngineError, PlainconvWarning

from ..cuda.blocks import Blocks
from ..cuda.device_array import DeviceArray, gpu_of
from ..cuda.runtime import CudaRuntime
from ..runner import InputCheck, Runner, Span, check_apart, check_mapping, on_gpu
from ..schedule import Schedule
from .fit import check_engines
from .lane import Lane, Shared
from .parts import PartEngine
from .program import Layout
from .resources import keep_for_ever
from .waits import LostError

_Result = TypeVar("_Result")
_ALIGNMENT = 256  # bytes, of every address that TensorRT is given
_CLOSED = "the runner is closed; load the bundle again"


class TensorRTRunner(Runner):
    """A network, whole or in parts, an engine each, on the streams of one GPU or of several.

    As many lanes as there are calls at the same time, each with contexts and buffers of its own. A call's parts run
    beside one another as far as what they read allows; calls follow one another on a lane, and overlap where several
    threads make them.

    Inputs are NumPy arrays, or arrays in GPU memory that have DLPack or the CUDA array interface, which are not copied
    on their GPU. Where an input is in GPU memory, so are the outputs: `DeviceArray`s, to be had without a copy by
    torch.from_dlpack and the like. `outputs` may be of either kind. When a call returns, its results are complete.

    What has not ended in time, or a GPU that fails, makes the runner `lost`: each further call raises at once, and
    closing frees nothing that a GPU may still be at.
    """

    def __init__(
        self,
        schedule: Schedule,
        engines: Sequence[PartEngine],
        cuda: CudaRuntime,
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

        `devices` are the CUDA devices that the schedule's stand for, which may be one for several; arrays in GPU memory
        are those of the first. `profiles` are of the network's inputs. `timeout` is how many seconds after a request
        was enqueued it must have ended.

        Raises EngineError where the engines are not those of the schedule, or memory does not suffice.
        """
        parts = tuple(engines)
        check_engines(schedule, parts, devices, profiles)
        self.backend, self.precision, self.inputs, self.outputs = backend, precision, inputs, outputs
        self.profiles = profiles
        self._cuda, self._device, self._timeout = cuda, devices[0], timeout
        self._check = InputCheck(inputs, profiles, (DeviceArray,))
        self._changed = threading.Condition()
        self._over: str | None = None  # why there are no more calls
        self._busy, self._whole = 0, len(parts) == 1
        names = tuple(spec.name for spec in inputs), tuple(spec.name for spec in outputs)
        with self._on_device():
            self._ways = Layout(schedule, tuple(devices), *names).ways()
            reached = frozenset(_reached(cuda, self._ways))
            cuda.use_device(self._device)
            layout = Layout(schedule, tuple(devices), *names, reached)
            self._blocks = Blocks(cuda)
            self._shared = Shared(cuda, layout, parts, inputs, outputs, profiles, self._blocks, timeout)
            self._lanes = [Lane(self._shared)]
        self._idle = [*self._lanes]
        self._held: list[Any] = [self._shared, *parts]
        self._notes = tuple(note for part in parts for note in part.notes) + tuple(
            f"GPU {a} has no access to GPU {b}: values go by way of the host"
            for a, b in self._ways
            if (a, b) not in reached
        )
        del self._shared

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
        """Milliseconds of one call on the device: "copy in", "compute", "copy out"; {} of parts, which overlap."""

        def run(lane: Lane) -> dict[str, float]:
            arrays = self._borrowed("input", inputs, lane)
            return lane.stages(arrays, self._check(arrays))

        return self._on_lane(run) if self._whole else {}

    @property
    def aux_streams(self) -> int:
        """How many streams the engines have beside those that they are given."""
        return sum(getattr(part.engine, "num_aux_streams", 0) for part in self._held[1:])

    @property
    def lost(self) -> bool:
        """Whether a GPU failed or did not end in time."""
        return self._over not in (None, _CLOSED)

    @property
    def notes(self) -> tuple[str, ...]:
        """What its user should know: engines that could be faster, what is not captured as a CUDA graph, and why."""
        why = self.why_not_captured
        lost = (str(self._over),) if self.lost else ()
        return (*lost, *self._notes, *((f"calls are not captured as CUDA graphs: {why}",) if why else ()))

    @property
    def why_not_captured(self) -> str | None:
        """Why a lane does not replay its calls as CUDA graphs; None where all do."""
        with self._changed:
            return next((lane.why_not_captured for lane in self._lanes if lane.why_not_captured), None)

    def close(self) -> None:
        """Wait for the calls that are under way, and release everything. Arrays handed out keep their memory."""
        with self._changed:
            self._over = self._over or _CLOSED
            self._changed.wait_for(lambda: not self._busy)
            lanes, self._lanes, self._idle = self._lanes, [], []
            held, self._held = self._held, []
        if not held:
            return
        try:
            with self._on_device():
                self._release(lanes, held)
        except EngineError:
            if not self.lost:
                raise

    def _release(self, lanes: list[Lane], held: list[Any]) -> None:
        """Close lanes and blocks, then let go of what they need, in order."""
        ended = [lane.ended(0.0 if self.lost else self._timeout) for lane in (*lanes, *held[0].given_up)]
        if not all(ended):
            keep_for_ever((lanes, held, self._blocks))
            found = "a GPU is still at work on a request that was given up, whose memory is not freed"
            warnings.warn(f"{found}; end the process to have it back", PlainconvWarning, stacklevel=4)
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
                if held[0].contexts.cache is not None and not self.lost:
                    held[0].contexts.cache.save()
            finally:
                del held[0]

    def _on_lane(self, run: Callable[[Lane], _Result]) -> _Result:
        """`run` on a lane that no other thread has meanwhile, and on the runner's device."""
        with self._changed:
            if self._over:
                raise EngineError(self._over)
            shared, lane = self._held[0], self._idle.pop() if self._idle else None
            probe = self._lanes[0]
            self._busy += 1
        try:
            with self._on_device():
                if lane is None:
                    lane = Lane(shared)
                    with self._changed:
                        self._lanes.append(lane)
                return run(lane)
        except LostError as error:
            self._lose(error)
            raise
        except EngineError as error:
            try:
                (lane or probe).check_alive()
            except LostError as lost:
                self._lose(lost)
                raise lost from error
            raise
        finally:
            with self._changed:
                self._busy -= 1
                if lane is not None:
                    self._idle.append(lane)
                if self._over:
                    self._changed.notify_all()

    def _lose(self, error: LostError) -> None:
        with self._changed:
            if self._over in (None, _CLOSED):
                self._over = f"the runner is lost: {error}"

    @contextlib.contextmanager
    def _on_device(self) -> Iterator[None]:
        """On the runner's device; then on the one before, on which a runner that is lost does not insist."""
        before = self._cuda.enter(self._device)
        try:
            yield
        finally:
            if before != self._device:
                try:
                    self._cuda.use_device(before)
                except EngineError:
                    if not self.lost:
                        raise

    def _borrowed(self, role: str, arrays: Mapping[str, Any], lane: Lane) -> Mapping[str, Any]:
        """The arrays of `arrays` that are in GPU memory as `DeviceArray`s, the others as they are."""
        check_mapping(role, arrays)
        for array in arrays.values():
            if type(array) is not np.ndarray:
                break
        else:
            return arrays
        return {
            name: self._taken(f"{role} {name}", array, lane) if on_gpu(array) else array
            for name, array in arrays.items()
        }

    def _taken(self, what: str, array: Any, lane: Lane) -> DeviceArray:
        elsewhere = "{what} is on GPU {found}, the engine on GPU {wanted}; copy it there first"
        if gpu_of(array) not in (None, self._device):  # before its producer is asked anything on a stream of ours
            raise EngineError(elsewhere.format(what=what, found=gpu_of(array), wanted=self._device))
        try:
            borrowed = self._cuda.borrow(array, lane.stream)
        except EngineError as error:
            raise EngineError(f"{what}: {error}") from None
        if borrowed.device != self._device:
            raise EngineError(elsewhere.format(what=what, found=borrowed.device, wanted=self._device))
        if borrowed.address % _ALIGNMENT:
            raise EngineError(
                f"{what} begins at an address that is no multiple of {_ALIGNMENT}, as the engine wants; give a clone"
            )
        return borrowed


def _reached(cuda: CudaRuntime, ways: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
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
