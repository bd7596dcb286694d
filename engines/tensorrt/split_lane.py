"""One lane of a network in parts, each a TensorRT engine: its streams, on one GPU or several, and how a call runs.

One thread enqueues all of a request, and waits once, for its end. Between, streams wait for one another by events: a
part runs when what it reads is there, and a value that another GPU needs is copied beside the parts that run meanwhile.
Requests of one lane follow one another, so that none finds a buffer still in use; those of several lanes overlap.
"""

import contextlib
import ctypes
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from plainconv.exporter.bundle import ShapeRange, TensorSpec
from plainconv.exporter.errors import EngineError

from ..cuda.blocks import Blocks
from ..cuda.device_array import DeviceArray
from ..cuda.runtime import Cuda
from ..runner import Array, check_outputs, dtype_of
from .contexts import Context, Contexts, Shape
from .lane import KINDS, LostError, fixed_shape, size_of, view_of
from .replay import Call, Replay
from .split_program import Layout, Program, Slot, Track, Value, Writer

_MOST_REQUESTS = 256
_SPIN, _SHORTEST, _LONGEST = 100e-6, 5e-6, 50e-6  # seconds: of asking without a pause, and of the pauses after that
_LOOK = 0.01  # seconds after which every stream is asked: the end of one may wait for a GPU that is lost


@dataclass(frozen=True)
class PartEngine:
    """One part ready to run: `engine`, an ICudaEngine that was deserialized while CUDA device `device` was in use.

    `profiles` are the engine's optimization profiles, as many as the network has and in the same order, or none where
    the part's shapes are fixed. `outlives` is held for as long as the engine.
    """

    name: str
    engine: Any
    contexts: Contexts
    device: int
    profiles: tuple[Mapping[str, ShapeRange], ...] = ()
    outlives: object = None


@dataclass(frozen=True)
class SplitShared:
    """What the lanes of a runner share. What has not ended `timeout` seconds after it was enqueued is given up.

    `given_up` are the lanes that could not be made for that.
    """

    cuda: Cuda
    layout: Layout
    parts: tuple[PartEngine, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    profiles: tuple[Mapping[str, ShapeRange], ...]
    blocks: Blocks
    timeout: float
    given_up: list["SplitLane"] = field(default_factory=list)


class Ready(NamedTuple):
    """A program on a lane: the stream of each work, its event, 0 where it is not marked, and the memory of each slot.

    That is 0 where it is the caller's.
    """

    program: Program
    streams: tuple[int, ...]
    events: tuple[int, ...]
    addresses: tuple[int, ...]


@dataclass(frozen=True)
class SplitRequest:
    """What the input shapes of a call decide: its profile, the shapes and bytes of values, the staging that it fills.

    `staged` is for each input of the network, then for each output.
    """

    profile: int
    shapes: Mapping[Value, Shape]
    sizes: Mapping[Value, int]
    outputs: Mapping[str, Shape]
    staged: tuple[Array, ...]


class SplitLane:
    """Buffers for the largest shapes of every value, allocated once, and the streams. For one thread at a time.

    A context of every part per optimization profile runs whatever comes, and `Replay` what comes again: all of a
    request is then one CUDA graph, whose branches are the streams. Parts of one stream share scratch memory.
    """

    def __init__(self, shared: SplitShared) -> None:
        """Raises EngineError where memory does not suffice, or an engine refuses the shapes of its own profiles.

        The first device of the layout is in use before and after.
        """
        self._shared, self._cuda, self._layout = shared, shared.cuda, shared.layout
        self._used = self._layout.home
        self._streams: dict[Track, int] = {}
        self._events: dict[tuple[Track, int], int] = {}
        self._memory: dict[Slot, int] = {}
        self._scratch: dict[Track, tuple[int, int]] = {}
        self._ready: dict[tuple[bool, ...], Ready] = {}
        self._requests: dict[tuple[Shape, ...], SplitRequest] = {}
        self._contexts: list[list[Context]] = []
        self._tracks = [self._layout.track(at) for at in range(len(shared.parts))]
        self._specs: dict[Value, TensorSpec] = {(None, spec.name): spec for spec in shared.inputs} | {
            (at, spec.name): spec for at, step in enumerate(self._layout.schedule.steps) for spec in step.part.outputs
        }
        self._kept: tuple[object, ...] = ()  # arrays that a request reads and writes, until it has ended
        self._enqueued: tuple[Ready, int] | None = None  # how much of which program, where it is no graph
        self._launched = False  # a graph
        with contextlib.ExitStack() as held:
            held.callback(self._use, self._layout.home)
            try:
                self._acquire(held)
            except LostError:
                keep_for_ever(held.pop_all())
                shared.given_up.append(self)
                raise
            self._held = held.pop_all()
        self._use(self._layout.home)

    def _acquire(self, held: contextlib.ExitStack) -> None:
        shared, cuda = self._shared, self._cuda
        held.callback(self._release_streams)
        self.stream = self._stream(self._layout.home_track)
        for track in dict.fromkeys(self._tracks):
            size = max(p.contexts.scratch for p, t in zip(shared.parts, self._tracks, strict=True) if t == track)
            if size:
                self._scratch[track] = (self._allocated(held, track.device, size), size)
        held.callback(self._drop_all)
        for profile in range(len(shared.profiles) or 1):
            self._contexts.append(self._new_contexts(profile))
        program = Writer(self._layout, (False,) * (len(shared.inputs) + len(shared.outputs))).program()
        largest = self._largest()
        for slot in program.slots:  # where the caller's arrays are in GPU memory, no others are needed
            self._memory[slot] = self._allocated(held, slot.device, largest[slot.value])
        own = [part.name for part in shared.parts if not part.contexts.captures]
        self._replay: Replay[list[Context], SplitRequest] = Replay(
            cuda,
            self.stream,
            fresh=self._bound_contexts,
            sequence=self._sequence,
            drop=self._drop,
            why_not="the runtime has CUDA graphs of its own" if own else None,
        )
        held.callback(self._requests.clear)
        held.callback(self._replay.close)

    @property
    def why_not_captured(self) -> str | None:
        """Why calls are not replayed as CUDA graphs; None where they are."""
        return self._replay.why_not

    def run(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any], profile: int) -> dict[str, Any]:
        """Run once on checked `inputs`, into `outputs` as far as given, else into new arrays.

        New arrays are in GPU memory where an input is. The first device of the layout is in use before and after.

        Raises EngineError where a part refuses, once nothing is under way any more; LostError where that takes too long
        or a GPU is lost. The lane cannot be used again then, and what was under way may go on.
        """
        self._used = self._layout.home
        try:
            if self._kept:  # a request was left before it had ended
                self._wait(self._streams.values())
            request = self._request(inputs, profile)
            if outputs:
                check_outputs(outputs, self._shared.outputs, request.outputs, KINDS)
            arrays = self._arrays(inputs, outputs, request)
            self._kept = (inputs, arrays)
            try:
                self._enqueue(arrays, request)
            finally:
                self._use(self._layout.home)
            self._wait((self.stream,))
        except LostError:
            raise
        except BaseException as error:
            self._clear_up(error)
            self._kept = ()
            raise
        self._kept = ()
        results = {}
        count = len(self._shared.inputs)
        for spec, array, staged in zip(self._shared.outputs, arrays[count:], request.staged[count:], strict=True):
            if array is None:
                array = staged.copy()
            elif type(array) is not DeviceArray:
                np.copyto(array, staged)
            results[spec.name] = array
        return results

    def ended(self, seconds: float) -> bool:
        """Whether nothing is under way any more, for which at most that time is waited; on a lost GPU nothing is."""
        deadline = time.monotonic() + seconds
        streams = [*self._streams.values()]
        while streams := [stream for stream in streams if self._under_way(stream)]:
            if time.monotonic() > deadline:
                return False
            time.sleep(_LONGEST)
        return True

    def close(self) -> None:
        """Give everything back, in the opposite order. Closing twice does nothing. All must have `ended`."""
        self._used = self._layout.home
        self._held.close()

    def _request(self, inputs: Mapping[str, Any], profile: int) -> SplitRequest:
        shapes = tuple([inputs[spec.name].shape for spec in self._shared.inputs])
        request = self._requests.get(shapes)
        if request is None:
            if len(self._requests) == _MOST_REQUESTS:
                self._requests.clear()
            request = self._requests[shapes] = self._new_request(shapes, profile)
        return request

    def _new_request(self, shapes: tuple[Shape, ...], profile: int) -> SplitRequest:
        known = self._known_shapes(profile, shapes)
        results = self._layout.schedule.results
        ends: list[Value] = [(None, spec.name) for spec in self._shared.inputs]
        ends += [(results[spec.name], spec.name) for spec in self._shared.outputs]
        return SplitRequest(
            profile,
            known,
            {value: size_of(shape, self._specs[value]) for value, shape in known.items()},
            {spec.name: known[results[spec.name], spec.name] for spec in self._shared.outputs},
            tuple(view_of(self._memory[Slot(value, None)], known[value], self._specs[value]) for value in ends),
        )

    def _arrays(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any], request: SplitRequest) -> list[Any]:
        """The array of each input and output, None for new host arrays. Stages the inputs from the host."""
        arrays: list[Any] = []
        for spec, staged in zip(self._shared.inputs, request.staged, strict=False):
            array = inputs[spec.name]
            if type(array) is not DeviceArray:
                np.copyto(staged, array)
            arrays.append(array)
        on_device = any(type(array) is DeviceArray for array in arrays)
        for spec in self._shared.outputs:
            array = outputs.get(spec.name)
            if array is None and on_device:
                shape = request.outputs[spec.name]
                block = self._shared.blocks.take(size_of(shape, spec))
                array = DeviceArray(block.address, shape, dtype_of(spec.dtype), self._layout.home, owner=block)
            arrays.append(array)
        return arrays

    def _enqueue(self, arrays: Sequence[Any], request: SplitRequest) -> None:
        shapes = tuple([array.shape for array in arrays[: len(self._shared.inputs)]])
        call = Call(shapes, tuple([array.address if type(array) is DeviceArray else 0 for array in arrays]))
        self._enqueued, self._launched = None, False
        if self._replay.enqueue(call, request):
            self._launched = self._enqueued is None
        else:
            contexts = self._contexts[request.profile]
            self._bind(contexts, call, request)
            self._sequence(contexts, call, request, False)

    def _sequence(self, contexts: Sequence[Context], call: Call, request: SplitRequest, captured: bool) -> None:
        """Enqueue the program of a call. A part that refuses is named."""
        cuda, (ready, addresses) = self._cuda, self._placed(call)
        for at, (work, stream, event) in enumerate(zip(ready.program.works, ready.streams, ready.events, strict=True)):
            for other in work.after:
                cuda.wait_for(ready.events[other], stream)
            if work.step is not None:
                part = self._shared.parts[work.step]
                self._use(part.device)
                try:
                    contexts[work.step].enqueue(stream)
                except EngineError as error:
                    raise named(part, error) from error
            elif work.copy is not None:
                source, target = work.copy
                slots, size = ready.program.slots, request.sizes[ready.program.slots[source].value]
                self._copy(slots[source], addresses[source], slots[target], addresses[target], size, stream)
            if event:
                cuda.mark(event, stream)
            if not captured:
                self._enqueued = (ready, at + 1)

    def _copy(self, source: Slot, origin: int, target: Slot, address: int, size: int, stream: int) -> None:
        if source.device is None:
            self._cuda.copy_to_device(address, origin, size, stream)
        elif target.device is None:
            self._cuda.copy_to_host(address, origin, size, stream)
        else:
            self._cuda.copy_to_peer(address, target.device, origin, source.device, size, stream)

    def _placed(self, call: Call) -> tuple[Ready, Sequence[int]]:
        """The program of a call, and the address of each of its slots."""
        on_gpu = tuple(map(bool, call.addresses))
        ready = self._ready.get(on_gpu)
        if ready is None:
            ready = self._ready[on_gpu] = self._new_ready(on_gpu)
        if not any(on_gpu):
            return ready, ready.addresses
        addresses = [*ready.addresses]
        for end, address in zip(ready.program.ends, call.addresses, strict=True):
            if address:
                addresses[end] = address
        return ready, addresses

    def _new_ready(self, on_gpu: tuple[bool, ...]) -> Ready:
        program = Writer(self._layout, on_gpu).program()
        counts: dict[Track, int] = {}
        events: list[int] = []
        for at, work in enumerate(program.works):
            if at in program.marked:
                counts[work.track] = counts.get(work.track, 0) + 1
                events.append(self._event(work.track, counts[work.track]))
            else:
                events.append(0)
        streams = tuple(self._stream(work.track) for work in program.works)
        self._use(self._layout.home)
        return Ready(program, streams, tuple(events), tuple(self._memory.get(slot, 0) for slot in program.slots))

    def _bind(self, contexts: Sequence[Context], call: Call, request: SplitRequest) -> None:
        ready, addresses = self._placed(call)
        for at, (step, part) in enumerate(zip(self._layout.schedule.steps, self._shared.parts, strict=True)):
            self._use(part.device)
            try:
                for name, source in step.sources.items():
                    contexts[at].set_shape(name, request.shapes[source, name])
                for name, slot in ready.program.bound[at].items():
                    contexts[at].set_address(name, addresses[slot])
            except EngineError as error:
                raise named(part, error) from error

    def _bound_contexts(self, call: Call, request: SplitRequest) -> list[Context]:
        contexts = self._new_contexts(request.profile)
        try:
            self._bind(contexts, call, request)
        except BaseException:
            self._drop(contexts)
            raise
        return contexts

    def _new_contexts(self, profile: int) -> list[Context]:
        """A context of each part, none of which has work under way."""
        made: list[Context] = []
        try:
            try:
                for part, track in zip(self._shared.parts, self._tracks, strict=True):
                    self._use(part.device)
                    try:
                        made.append(Context(part.contexts.create()))
                        if part.profiles:
                            made[-1].use_profile(profile, self._stream(track))
                        if part.contexts.scratch:
                            made[-1].use_scratch(*self._scratch[track])
                    except EngineError as error:
                        raise named(part, error) from error
                self._wait(self._streams.values())
            except LostError:
                raise
            except BaseException as error:
                self._clear_up(error)
                self._drop(made)
                raise
        except LostError:
            keep_for_ever(made)
            raise
        return made

    def _drop(self, contexts: list[Context]) -> None:
        """Give contexts back, each while its device is in use."""
        with contextlib.ExitStack() as each:
            each.callback(self._use, self._layout.home)
            for part, context in zip(self._shared.parts, contexts, strict=False):
                each.callback(self._on, part.device, context.let_go)
        contexts.clear()

    def _drop_all(self) -> None:
        with contextlib.ExitStack() as each:
            while self._contexts:
                each.callback(self._drop, self._contexts.pop())

    def _known_shapes(self, profile: int, shapes: tuple[Shape, ...]) -> dict[Value, Shape]:
        """The shape of every value, from those of the network's inputs: parts say those of what they make, in order."""
        known: dict[Value, Shape] = {
            (None, spec.name): shape for spec, shape in zip(self._shared.inputs, shapes, strict=True)
        }
        try:
            for at, (step, part) in enumerate(zip(self._layout.schedule.steps, self._shared.parts, strict=True)):
                context = self._contexts[profile][at]
                self._use(part.device)
                try:
                    for name, source in step.sources.items():
                        context.set_shape(name, known[source, name])
                    known |= {(at, spec.name): context.shape_of(spec.name) for spec in step.part.outputs}
                except EngineError as error:
                    raise named(part, error) from error
        finally:
            self._use(self._layout.home)
        return known

    def _largest(self) -> dict[Value, int]:
        """The most bytes that each value has in any profile."""
        sizes = dict.fromkeys(self._specs, 0)
        for index, profile in enumerate(self._shared.profiles or ({},)):
            largest = [profile[s.name].max if s.name in profile else fixed_shape(s) for s in self._shared.inputs]
            for value, shape in self._known_shapes(index, tuple(largest)).items():
                sizes[value] = max(sizes[value], size_of(shape, self._specs[value]))
        return sizes

    def _wait(self, streams: Iterable[int]) -> None:
        """Wait until streams have nothing left. Raises LostError where that takes too long, and where CUDA fails."""
        begun = time.monotonic()
        pause, look = _SHORTEST, begun + _LOOK
        try:
            for stream in streams:
                while not self._cuda.idle(stream):
                    now = time.monotonic()
                    if now > begun + self._shared.timeout:
                        raise LostError(self._overdue())
                    if now > look:
                        for other in self._streams.values():
                            self._cuda.idle(other)
                        look = now + _LOOK
                    if now > begun + _SPIN:
                        time.sleep(pause)
                        pause = min(2 * pause, _LONGEST)
        except LostError:
            raise
        except EngineError as error:
            raise LostError(self._failed(error)) from error

    def _clear_up(self, error: BaseException) -> None:
        """Wait for what was enqueued before an error, as the lane is to be used again."""
        try:
            self._wait(self._streams.values())
        except LostError as lost:
            raise LostError(f"{str(error) or type(error).__name__}; after that, {lost}") from error

    def _overdue(self) -> str:
        """Which parts have not ended in time, as far as their events say."""
        if self._launched:
            names = ", ".join(part.name for part in self._shared.parts)
            what = f"no end of one of {names}, a CUDA graph, which does not say of which"
        elif self._enqueued is not None:
            late = [f"{part.name} on GPU {part.device}" for part in self._late(*self._enqueued)]
            what = f"no end of {', '.join(late)}" if late else "its parts have ended, a copy has not"
        else:
            what = "what it waits for has not ended, and no part has begun"
        return (
            f"the request did not end within {self._shared.timeout:g} s: {what}; "
            "load the bundle again, in a new process if the GPU still hangs"
        )

    def _late(self, ready: Ready, count: int) -> list[PartEngine]:
        """The parts of the first `count` pieces of work that are not known to have ended."""
        ended: set[Track] = set()
        late: list[PartEngine] = []
        for work, event in zip(ready.program.works[count - 1 :: -1], ready.events[count - 1 :: -1], strict=True):
            if event and work.track not in ended:
                with contextlib.suppress(EngineError):
                    if self._cuda.passed(event):
                        ended.add(work.track)
            if work.step is not None and work.track not in ended:
                late.append(self._shared.parts[work.step])
        return late[::-1]

    def _failed(self, error: EngineError) -> str:
        """Which GPUs fail, and what runs there."""
        lost: set[int] = set()
        for track, stream in self._streams.items():
            try:
                self._cuda.idle(stream)
            except EngineError:
                lost.add(track.device)
        names = ", ".join(part.name for part in self._shared.parts if part.device in lost or not lost)
        where = f"GPU {' and '.join(map(str, sorted(lost)))} failed" if lost else "a GPU failed"
        return f"{where} while parts {names or 'none'} ran there ({error}); load the bundle again, in a new process"

    def _under_way(self, stream: int) -> bool:
        try:
            return not self._cuda.idle(stream)
        except EngineError:
            return False

    def _use(self, device: int) -> None:
        """Have this thread use a device."""
        if device != self._used:
            self._cuda.use_device(device)
            self._used = device

    def _on(self, device: int, call: Callable[..., object], *arguments: object) -> None:
        """Call while a device is in use, if it still can be."""
        try:
            self._use(device)
        finally:
            call(*arguments)

    def _allocated(self, held: contextlib.ExitStack, device: int | None, size: int) -> int:
        """Memory of a device, or of the host, for as long as the lane lives."""
        if device is None:
            address = self._cuda.allocate_host(size)
            held.callback(self._cuda.free_host, address)
        else:
            self._use(device)
            address = self._cuda.allocate(size)
            held.callback(self._on, device, self._cuda.free, address)
        return address

    def _stream(self, track: Track) -> int:
        if track not in self._streams:
            self._use(track.device)
            self._streams[track] = self._cuda.create_stream()
        return self._streams[track]

    def _event(self, track: Track, count: int) -> int:
        if (track, count) not in self._events:
            self._use(track.device)
            self._events[track, count] = self._cuda.create_event(timed=False)
        return self._events[track, count]

    def _release_streams(self) -> None:
        with contextlib.ExitStack() as each:
            for track, stream in self._streams.items():
                each.callback(self._on, track.device, self._cuda.destroy_stream, stream)
            for (track, _), event in self._events.items():
                each.callback(self._on, track.device, self._cuda.destroy_event, event)
        self._streams.clear()
        self._events.clear()


def named(part: PartEngine, error: EngineError) -> EngineError:
    """An error of a part, which says so."""
    return EngineError(f"part {part.name} on GPU {part.device}: {error}")


def keep_for_ever(thing: object) -> None:
    """Never give back what a GPU that hangs may still use: to free it would wait for that GPU."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
