"""One lane of a network, whole or in parts, on TensorRT engines: its streams and buffers, and how a call runs.

One thread enqueues all of a request, and waits once, for its end. Between, streams wait for one another by events: a
part runs when what it reads is there, and a value that another GPU needs is copied beside the parts that run meanwhile.
Requests of one lane follow one another, so that none finds a buffer still in use; those of several lanes overlap.
"""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from plainconv.exporter.bundle import ShapeRange, TensorSpec
from plainconv.exporter.errors import EngineError

from ..cuda.blocks import Blocks
from ..cuda.device_array import DeviceArray
from ..cuda.runtime import CudaRuntime
from ..runner import Array, check_outputs, dtype_of
from .contexts import Context, Shape
from .parts import PartContexts, PartEngine, fixed_shape
from .placement import Placement, size_of
from .program import Layout, Track, Value
from .replay import Call, Replay
from .resources import Resources, keep_for_ever
from .waits import LostError, Waits

KINDS = (np.ndarray, DeviceArray)
STAGES = ("copy in", "compute", "copy out")
_MOST_REQUESTS = 256


@dataclass(frozen=True)
class Shared:
    """What the lanes of a runner share. What has not ended `timeout` seconds after it was enqueued is given up.

    `given_up` are the lanes that could not be made for that.
    """

    cuda: CudaRuntime
    layout: Layout
    parts: tuple[PartEngine, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    profiles: tuple[Mapping[str, ShapeRange], ...]
    blocks: Blocks
    timeout: float
    given_up: list["Lane"] = field(default_factory=list)


@dataclass(frozen=True)
class Request:
    """What the input shapes of a call decide: its profile, the shapes and bytes of values, the staging that it fills.

    `staged` is for each input of the network, then for each output.
    """

    profile: int
    shapes: Mapping[Value, Shape]
    sizes: Mapping[Value, int]
    outputs: Mapping[str, Shape]
    staged: tuple[Array, ...]


class Lane:
    """Buffers for the largest shapes of every value, allocated once, and the streams. For one thread at a time.

    A context of every part per optimization profile runs whatever comes, and `Replay` what comes again: all of a
    request is then one CUDA graph, whose branches are the streams. Parts of one stream share scratch memory.
    `stream` is that on which a request begins and ends.
    """

    def __init__(self, shared: Shared) -> None:
        """Raises EngineError where memory does not suffice, or an engine refuses the shapes of its own profiles.

        The first device of the layout is in use before and after.
        """
        self._shared, self._cuda, self._layout = shared, shared.cuda, shared.layout
        self._resources = Resources(shared.cuda, self._layout.home)
        self._waits = Waits(shared.cuda, self._resources, shared.parts, shared.timeout)
        self._scratch: dict[Track, tuple[int, int]] = {}
        self._parts = PartContexts(shared.parts, self._layout, self._resources, self._scratch)
        self._placement = Placement(self._layout, self._resources)
        self._requests: dict[tuple[Shape, ...], Request] = {}
        self._contexts: list[list[Context]] = []
        self._specs: dict[Value, TensorSpec] = {(None, spec.name): spec for spec in shared.inputs} | {
            (at, spec.name): spec for at, step in enumerate(self._layout.schedule.steps) for spec in step.part.outputs
        }
        self._kept: tuple[object, ...] = ()  # arrays that a request reads and writes, until it has ended
        with contextlib.ExitStack() as held:
            held.callback(self._resources.go_home)
            try:
                self._acquire(held)
            except LostError:
                keep_for_ever(held.pop_all())
                shared.given_up.append(self)
                raise
            self._held = held.pop_all()
        self._resources.go_home()

    def _acquire(self, held: contextlib.ExitStack) -> None:
        shared, resources = self._shared, self._resources
        held.callback(resources.release)
        self.stream = resources.stream(self._layout.home_track)
        tracks = [self._layout.track(at) for at in range(len(shared.parts))]
        for track in dict.fromkeys(tracks):
            size = max(p.contexts.scratch for p, t in zip(shared.parts, tracks, strict=True) if t == track)
            if size:
                self._scratch[track] = (resources.allocated(held, track.device, size), size)
        held.callback(self._drop_all)
        for profile in range(len(shared.profiles) or 1):
            self._contexts.append(self._new_contexts(profile))
        self._placement.allocate(held, self._largest())
        captures = all(part.contexts.captures for part in shared.parts)
        self._replay: Replay[list[Context], Request] = Replay(
            shared.cuda,
            self.stream,
            fresh=self._bound_contexts,
            sequence=self._sequence,
            drop=self._parts.drop,
            check=self._parts.check_capturable,
            why_not=None if captures else "the runtime makes CUDA graphs of its own, of engines of dynamic shapes",
            repeats=any(part.contexts.create_repeating for part in shared.parts),
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
        arrays, request, _ = self._ran(inputs, outputs, profile)
        results = {}
        count = len(self._shared.inputs)
        for spec, array, staged in zip(self._shared.outputs, arrays[count:], request.staged[count:], strict=True):
            if array is None:
                array = staged.copy()
            elif type(array) is not DeviceArray:
                np.copyto(array, staged)
            results[spec.name] = array
        return results

    def stages(self, inputs: Mapping[str, Any], profile: int) -> dict[str, float]:
        """Milliseconds of each stage of a call by the device's clock, of a network that is whole.

        What is replayed is timed so. Raises as `run` does.
        """
        arrays, _, call = self._ran(inputs, {}, profile, timed=True)
        ends = zip(self._shared.outputs, arrays[len(inputs) :], strict=True)
        outputs = {spec.name: array for spec, array in ends if array is not None}
        while not self._replay.settled(call):
            self._ran(inputs, outputs, profile, timed=True)
        times = (self._cuda.milliseconds(start, end) for start, end in pairwise(map(self._clock, range(4))))
        return dict(zip(STAGES, times, strict=True))

    def check_alive(self) -> None:
        """Raise LostError where a GPU fails. From any thread."""
        self._waits.check_alive()

    def ended(self, seconds: float) -> bool:
        """Whether nothing is under way any more, for which at most that time is waited; on a lost GPU nothing is."""
        return self._waits.ended(seconds)

    def close(self) -> None:
        """Give everything back, in the opposite order. Closing twice does nothing. All must have `ended`."""
        self._resources.at_home()
        self._held.close()

    def _ran(
        self, inputs: Mapping[str, Any], outputs: Mapping[str, Any], profile: int, *, timed: bool = False
    ) -> tuple[list[Any], Request, Call]:
        """One call, ended: the arrays of inputs and outputs, None for an output that is in its staging alone."""
        self._resources.at_home()
        try:
            if self._kept:  # a request was left before it had ended
                self._waits.for_all()
            request = self._request(inputs, profile)
            if outputs:
                check_outputs(outputs, self._shared.outputs, request.outputs, KINDS)
            arrays = self._arrays(inputs, outputs, request)
            self._kept = (inputs, arrays)
            try:
                call = self._enqueue(arrays, request, timed)
            finally:
                self._resources.go_home()
            self._waits.for_end(self.stream)
        except LostError:
            raise
        except BaseException as error:
            self._waits.clear_up(error)
            self._kept = ()
            raise
        self._kept = ()
        return arrays, request, call

    def _request(self, inputs: Mapping[str, Any], profile: int) -> Request:
        shapes = tuple([inputs[spec.name].shape for spec in self._shared.inputs])
        request = self._requests.get(shapes)
        if request is None:
            if len(self._requests) == _MOST_REQUESTS:
                self._requests.clear()
            request = self._requests[shapes] = self._new_request(shapes, profile)
        return request

    def _new_request(self, shapes: tuple[Shape, ...], profile: int) -> Request:
        known = self._known_shapes(profile, shapes)
        results = self._layout.schedule.results
        ends: list[Value] = [(None, spec.name) for spec in self._shared.inputs]
        ends += [(results[spec.name], spec.name) for spec in self._shared.outputs]
        return Request(
            profile,
            known,
            {value: size_of(shape, self._specs[value]) for value, shape in known.items()},
            {spec.name: known[results[spec.name], spec.name] for spec in self._shared.outputs},
            tuple(self._placement.staged(value, known[value], self._specs[value]) for value in ends),
        )

    def _arrays(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any], request: Request) -> list[Any]:
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
                array = self._new_array(spec, request.outputs[spec.name])
            arrays.append(array)
        return arrays

    def _new_array(self, spec: TensorSpec, shape: Shape) -> DeviceArray:
        block = self._shared.blocks.take(size_of(shape, spec), self.stream)
        home, dtype = self._layout.home, dtype_of(spec.dtype)
        return DeviceArray(block.address, shape, dtype, home, owner=block, consumers=block.consumers)

    def _enqueue(self, arrays: Sequence[Any], request: Request, timed: bool) -> Call:
        shapes = tuple([array.shape for array in arrays[: len(self._shared.inputs)]])
        call = Call(shapes, tuple([array.address if type(array) is DeviceArray else 0 for array in arrays]), timed)
        self._waits.enqueued, self._waits.launched = None, False
        if self._replay.enqueue(call, request):
            self._waits.launched = self._waits.enqueued is None
        else:
            contexts = self._contexts[request.profile]
            self._bind(contexts, call, request)
            self._sequence(contexts, call, request, False)
        return call

    def _sequence(self, contexts: Sequence[Context], call: Call, request: Request, captured: bool) -> None:
        """Enqueue the program of a call. A part that refuses is named."""
        cuda, (ready, addresses) = self._cuda, self._placement.placed(call)
        if call.timed:
            cuda.record(self._clock(0), self.stream, captured=captured)
        for at, (work, stream, event) in enumerate(zip(ready.program.works, ready.streams, ready.events, strict=True)):
            for other in work.after:
                cuda.wait_for(ready.events[other], stream)
            if work.step is not None:
                part = self._shared.parts[work.step]
                self._resources.use(part.device)
                if call.timed:
                    cuda.record(self._clock(1), stream, captured=captured)
                try:
                    contexts[work.step].enqueue(stream)
                except EngineError as error:
                    raise part.says(error) from error
                if call.timed:
                    cuda.record(self._clock(2), stream, captured=captured)
            elif work.copy is not None:
                source, target = work.copy
                cuda.copy(
                    addresses[target], addresses[source], request.sizes[ready.program.slots[source].value], stream
                )
            if event:
                cuda.mark(event, stream)
            if not captured:
                self._waits.enqueued = (ready, at + 1)
        if call.timed:
            cuda.record(self._clock(3), self.stream, captured=captured)

    def _clock(self, at: int) -> int:
        """The event before, between and after the three stages."""
        return self._resources.event(self._layout.home_track, -1 - at, timed=True)

    def _bind(self, contexts: Sequence[Context], call: Call, request: Request) -> None:
        ready, addresses = self._placement.placed(call)
        self._parts.bind(contexts, request.shapes, ready.program.bound, addresses)

    def _bound_contexts(self, call: Call, request: Request) -> list[Context]:
        """Contexts for one call alone, which comes again."""
        contexts = self._new_contexts(request.profile, repeats=True)
        try:
            self._bind(contexts, call, request)
        except BaseException:
            self._parts.drop(contexts)
            raise
        return contexts

    def _new_contexts(self, profile: int, *, repeats: bool = False) -> list[Context]:
        """A context of each part, none of which has work under way."""
        made: list[Context] = []
        try:
            try:
                self._parts.new(profile, made, repeats=repeats)
                self._waits.for_all()
            except LostError:
                raise
            except BaseException as error:
                self._waits.clear_up(error)
                self._parts.drop(made)
                raise
        except LostError:
            keep_for_ever(made)
            raise
        return made

    def _drop_all(self) -> None:
        with contextlib.ExitStack() as each:
            while self._contexts:
                each.callback(self._parts.drop, self._contexts.pop())

    def _known_shapes(self, profile: int, shapes: tuple[Shape, ...]) -> dict[Value, Shape]:
        return self._parts.shapes(self._contexts[profile], dict(zip(self._layout.inputs, shapes, strict=True)))

    def _largest(self) -> dict[Value, int]:
        """The most bytes that each value has in any profile."""
        sizes = dict.fromkeys(self._specs, 0)
        for index, profile in enumerate(self._shared.profiles or ({},)):
            largest = [profile[s.name].max if s.name in profile else fixed_shape(s) for s in self._shared.inputs]
            for value, shape in self._known_shapes(index, tuple(largest)).items():
                sizes[value] = max(sizes[value], size_of(shape, self._specs[value]))
        return sizes
