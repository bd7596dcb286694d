"""One stream of work on a TensorRT engine: its buffers, its execution contexts, and how a call runs through them."""

import contextlib
import ctypes
import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

from plainconv.exporter.bundle import ShapeRange, TensorSpec
from plainconv.exporter.errors import EngineError

from ..cuda.blocks import Blocks
from ..cuda.device_array import DeviceArray
from ..cuda.runtime import Cuda
from ..runner import Array, check_outputs, dtype_of
from .contexts import Context, Contexts, Shape
from .replay import Call, Move, Replay, Request

KINDS = (np.ndarray, DeviceArray)
STAGES = ("copy in", "compute", "copy out")

_MOST_REQUESTS = 256


class LostError(EngineError):
    """Work on a GPU that has not ended in time, or a GPU that fails: nothing can be run there any more."""


class AnyLane(Protocol):
    """What a runner asks of a lane, for one thread at a time; `stream` is that on which a request begins and ends."""

    stream: int

    @property
    def why_not_captured(self) -> str | None:
        """Why calls are not replayed as CUDA graphs; None where they are."""

    def run(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any], profile: int) -> dict[str, Any]:
        """Run once on checked `inputs`; raises LostError where the lane cannot be used again."""

    def close(self) -> None:
        """Give everything back."""


@dataclass(frozen=True)
class Shared:
    """What the lanes of a runner share: contexts of the engine, its tensors and profiles, memory for its results."""

    cuda: Cuda
    device: int
    contexts: Contexts
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    profiles: tuple[Mapping[str, ShapeRange], ...]
    blocks: Blocks

    @property
    def tensors(self) -> tuple[TensorSpec, ...]:
        """Inputs, then outputs."""
        return (*self.inputs, *self.outputs)


class Lane:
    """Buffers and page-locked staging for the largest shapes, allocated once, and one stream. For one thread at a time.

    One context per optimization profile runs whatever comes, and `Replay` what comes again. All share the scratch
    memory of the lane, as its stream never runs two at a time.
    """

    def __init__(self, shared: Shared) -> None:
        """Raises EngineError where memory does not suffice, or the engine refuses the shapes of its own profiles."""
        self._shared, self._cuda = shared, shared.cuda
        self._requests: dict[tuple[Shape, ...], Request] = {}
        self._contexts: list[Context] = []
        self._buffers: dict[str, int] = {}
        self._staging: dict[str, int] = {}
        self._events: list[int] = []
        with contextlib.ExitStack() as held:
            self.stream = self._cuda.create_stream()
            held.callback(self._cuda.destroy_stream, self.stream)
            if shared.contexts.scratch:
                self._scratch = self._cuda.allocate(shared.contexts.scratch)
                held.callback(self._cuda.free, self._scratch)
            held.callback(self._contexts.clear)
            for profile in range(len(shared.profiles) or 1):
                self._contexts.append(self._new_context(profile))
            for name, size in self._largest().items():
                self._buffers[name] = self._cuda.allocate(size)
                held.callback(self._cuda.free, self._buffers[name])
                self._staging[name] = self._cuda.allocate_host(size)
                held.callback(self._cuda.free_host, self._staging[name])
            self._replay: Replay[Context, Request] = Replay(
                self._cuda,
                self.stream,
                fresh=self._bound_context,
                sequence=self._sequence,
                why_not=None if shared.contexts.captures else "the runtime has CUDA graphs of its own",
            )
            held.callback(self._release_events)
            held.callback(self._requests.clear)
            held.callback(self._replay.close)
            self._held = held.pop_all()

    @property
    def why_not_captured(self) -> str | None:
        """Why calls are not replayed as CUDA graphs; None where they are."""
        return self._replay.why_not

    def run(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any], profile: int) -> dict[str, Any]:
        """Run once on checked `inputs`, into `outputs` as far as given, else into new arrays.

        New arrays are in GPU memory where an input is. Nothing is under way any more when this returns or raises.
        """
        request = self._request(inputs, profile)
        if outputs:
            check_outputs(outputs, self._shared.outputs, request.shapes, KINDS)
        arrays = self._arrays(inputs, outputs, request)
        try:
            self._enqueue(self._call(arrays, request), request)
        finally:
            self._cuda.synchronize(self.stream)
        results = {}
        for spec in self._shared.outputs:
            array = arrays.get(spec.name)
            if array is None:
                array = request.staged[spec.name].copy()
            elif type(array) is not DeviceArray:
                np.copyto(array, request.staged[spec.name])
            results[spec.name] = array
        return results

    def stages(self, inputs: Mapping[str, Any], profile: int) -> dict[str, float]:
        """Milliseconds of each stage of a call by the device's clock; see `Runner`. What is replayed is timed so."""
        while len(self._events) <= len(STAGES):
            self._events.append(self._cuda.create_event())
        request = self._request(inputs, profile)
        arrays = self._arrays(inputs, {}, request)
        call = self._call(arrays, request)._replace(timed=True)
        try:
            self._enqueue(call, request)
            while not self._replay.settled(call):
                self._enqueue(call, request)
        finally:
            self._cuda.synchronize(self.stream)
        times = (self._cuda.milliseconds(start, end) for start, end in pairwise(self._events))
        return dict(zip(STAGES, times, strict=True))

    def close(self) -> None:
        """Give everything back, in the opposite order. Closing twice does nothing."""
        self._held.close()

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
        staged = {spec.name: view_of(self._staging[spec.name], known[spec.name], spec) for spec in self._shared.tensors}
        moves = tuple(
            Move(i, self._buffers[spec.name], self._staging[spec.name], staged[spec.name].nbytes)
            for i, spec in enumerate(self._shared.tensors)
        )
        count = len(self._shared.inputs)
        call = Call(shapes, tuple(self._buffers.values()))
        return Request(profile, call, known, staged, moves[:count], moves[count:])

    def _arrays(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any], request: Request) -> dict[str, Any]:
        """The array of each tensor, but for outputs that are to be new host arrays. Stages the inputs from the host."""
        arrays = {**inputs, **outputs}
        on_device = False
        for name, array in inputs.items():
            if type(array) is DeviceArray:
                on_device = True
            else:
                np.copyto(request.staged[name], array)
        if on_device:
            for spec in self._shared.outputs:
                if spec.name not in arrays:
                    arrays[spec.name] = self._new_array(spec, request.shapes[spec.name])
        return arrays

    def _new_array(self, spec: TensorSpec, shape: Shape) -> DeviceArray:
        block = self._shared.blocks.take(size_of(shape, spec))
        return DeviceArray(block.address, shape, dtype_of(spec.dtype), self._shared.device, owner=block)

    def _call(self, arrays: Mapping[str, Any], request: Request) -> Call:
        addresses = None
        for index, name in enumerate(self._buffers):
            array = arrays.get(name)
            if type(array) is DeviceArray:
                addresses = addresses or [*request.call.addresses]
                addresses[index] = array.address
        return Call(request.call.shapes, tuple(addresses)) if addresses else request.call

    def _enqueue(self, call: Call, request: Request) -> None:
        if not self._replay.enqueue(call, request):
            context = self._contexts[request.profile]
            self._bind(context, call)
            self._sequence(context, call, request, False)

    def _sequence(self, context: Context, call: Call, request: Request, captured: bool) -> None:
        """Copies in, the engine, copies out, of what is in the lane's buffers and not in a caller's."""
        if call.timed:
            self._cuda.record(self._events[0], self.stream, captured=captured)
        for move in request.moves_in:
            if call.addresses[move.tensor] == move.buffer:
                self._cuda.copy_to_device(move.buffer, move.staging, move.size, self.stream)
        if call.timed:
            self._cuda.record(self._events[1], self.stream, captured=captured)
        context.enqueue(self.stream)
        if call.timed:
            self._cuda.record(self._events[2], self.stream, captured=captured)
        for move in request.moves_out:
            if call.addresses[move.tensor] == move.buffer:
                self._cuda.copy_to_host(move.staging, move.buffer, move.size, self.stream)
        if call.timed:
            self._cuda.record(self._events[3], self.stream, captured=captured)

    def _new_context(self, profile: int) -> Context:
        context = Context(self._shared.contexts.create())
        if self._shared.profiles:
            context.use_profile(profile, self.stream)
            self._cuda.synchronize(self.stream)
        if self._shared.contexts.scratch:
            context.use_scratch(self._scratch, self._shared.contexts.scratch)
        return context

    def _bound_context(self, call: Call, request: Request) -> Context:
        context = self._new_context(request.profile)
        self._bind(context, call)
        return context

    def _bind(self, context: Context, call: Call) -> None:
        for spec, shape in zip(self._shared.inputs, call.shapes, strict=True):
            context.set_shape(spec.name, shape)
        for name, address in zip(self._buffers, call.addresses, strict=True):
            context.set_address(name, address)

    def _known_shapes(self, profile: int, shapes: tuple[Shape, ...]) -> dict[str, Shape]:
        """The shape of every tensor, from those of the inputs."""
        context = self._contexts[profile]
        known = {spec.name: shape for spec, shape in zip(self._shared.inputs, shapes, strict=True)}
        for name, shape in known.items():
            context.set_shape(name, shape)
        return known | {spec.name: context.shape_of(spec.name) for spec in self._shared.outputs}

    def _largest(self) -> dict[str, int]:
        """The most bytes that each tensor has in any profile, inputs first."""
        sizes = {spec.name: 0 for spec in self._shared.tensors}
        for index, profile in enumerate(self._shared.profiles or ({},)):
            largest = [
                profile[spec.name].max if spec.name in profile else fixed_shape(spec) for spec in self._shared.inputs
            ]
            shapes = self._known_shapes(index, tuple(largest))
            for spec in self._shared.tensors:
                sizes[spec.name] = max(sizes[spec.name], size_of(shapes[spec.name], spec))
        return sizes

    def _release_events(self) -> None:
        while self._events:
            self._cuda.destroy_event(self._events.pop())


def view_of(address: int, shape: Shape, spec: TensorSpec) -> Array:
    """Host memory at `address` as an array."""
    memory = memoryview((ctypes.c_ubyte * size_of(shape, spec)).from_address(address))
    return np.frombuffer(memory, dtype_of(spec.dtype)).reshape(shape)


def size_of(shape: Shape, spec: TensorSpec) -> int:
    """The bytes of a tensor of this shape."""
    return math.prod(shape) * dtype_of(spec.dtype).itemsize


def fixed_shape(spec: TensorSpec) -> Shape:
    """The shape of a tensor without free axes. Raises EngineError where it has one."""
    sizes = tuple(axis for axis in spec.shape if isinstance(axis, int))
    if len(sizes) != len(spec.shape):
        raise EngineError(f"{spec} has a free axis and the engine no optimization profile for it; build it again")
    return sizes
