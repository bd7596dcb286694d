"""A stand-in for `cuda.bindings.runtime`, of several GPUs, that keeps to CUDA's rules and writes down every call.

Device memory is memory of the host. Nothing that is enqueued runs before something asks whether it has ended; then work
runs in any order that streams and events allow, chosen by `seed`. What CUDA leaves undefined or forbids (memory that is
not there any more, a copy between devices without access, two pieces of work on the same bytes of which neither waits
for the other) is an AssertionError, which nothing catches; what it answers by an error is that error.
"""

import ctypes
import itertools
import random
import threading
from dataclasses import dataclass, field

import numpy as np
from cuda.bindings import runtime as real

from plainconv.engines.cuda.device_array import DEFAULT_STREAM, DeviceArray
from plainconv.engines.cuda.runtime import CudaRuntime

COPY_MS = 1.0
ERROR, MODE = real.cudaError_t, real.cudaStreamCaptureMode
OK, TOLD = ERROR.cudaSuccess, ERROR.cudaErrorUnknown
WORDS = {ERROR.cudaErrorLaunchFailure: "unspecified launch failure", TOLD: "it was told to fail"}


@dataclass(eq=False)
class Operation:
    """Work on a stream: what it does, the (address, size) that it reads and writes, and the work it waits for.

    `before` is all that has ended when this starts, as far as the host does not know of it anyway. `stuck`: it never
    ends.
    """

    run: object
    device: int
    reads: tuple = ()
    writes: tuple = ()
    needs: tuple = ()
    stuck: bool = False
    done: bool = False
    settled: bool = False
    before: frozenset = frozenset()

    @property
    def touches(self):
        return (*self.reads, *self.writes)


@dataclass(eq=False)
class Capture:
    """What becomes a graph: its work, the last on each of its streams, who captures, and how; `broken` by what."""

    origin: int
    thread: int
    mode: object
    operations: list = field(default_factory=list)
    tails: dict = field(default_factory=dict)
    ended: bool = False
    broken: str = ""


@dataclass(eq=False)
class Stream:
    device: int
    queue: list = field(default_factory=list)
    last: Operation | None = None
    captured: Capture | None = None


@dataclass(eq=False)
class Event:
    """The work that it comes to pass with, as of its last mark, and the capture that was made in."""

    device: int
    timed: bool
    time: float | None = None
    marked: Operation | None = None
    capture: Capture | None = None


class RefusedError(Exception):
    """A call answers with an error."""


class Tensor:
    """A caller's tensor in GPU memory; `late`: what writes it only runs on a stream that waits for it."""

    def __init__(self, gpus, array, *, late=False, **said):
        self.write = lambda: gpus.write(self.address, array)
        self.late, self.address = late, gpus.cuda.allocate(array.nbytes)
        gpus.callers.add(self.address)
        facts = {"device": 0, "c_contiguous": True, "writeable": True} | said
        self.view = DeviceArray(self.address + facts.pop("offset", 0), array.shape, array.dtype, owner=self, **facts)
        if not late:
            self.write()

    def __dlpack_device__(self):
        return (2, self.view.device)


class Cuda(CudaRuntime):
    """The product's own calls on the stand-in. Only what cuda-core would do by the driver is replaced."""

    def borrow(self, array, stream):
        gpus = self._runtime
        gpus.note("borrow", stream)
        assert gpus.has_context, "an event is made in a thread without a context (cuEventCreate: error 201)"
        if isinstance(array, DeviceArray):
            return array
        assert array.view.device == gpus.current, "an array of another device is waited for on a stream of this one"
        if array.late:
            gpus.enqueue(stream, array.write, writes=((array.address, array.view.nbytes),))
            array.late = False
        return array.view


def answers(name, *, device=True, stream=None, value=False):
    """A function of the module: it is noted as `name` and may be told to fail, or fails as its device is dead.

    That is the device in use, or that of the argument number `stream`. With a `value` it gives one beside its error.
    """

    def decorate(function):
        def call(self, *arguments):
            try:
                with self.lock:
                    if name:
                        self.note(name, *arguments)
                    if stream is not None:
                        self.alive(self.stream(arguments[stream]).device)
                    elif device:
                        self.alive(self.current)
                    result = function(self, *arguments)
            except RefusedError as refused:
                return (refused.args[0], None) if value else (refused.args[0],)
            return (OK, result) if value else (OK,)

        return call

    return decorate


class Device:
    """The module. `calls` is everything asked of it and of the contexts that enqueue on it, in order; `cuda` its user.

    `peers` are the ordered pairs of devices that can reach one another, all where None. `dead` are devices of which
    every call fails; `dies` has how many calls from now on a device still answers. `hold` keeps all work from running.
    `astray` is what went wrong where nothing can be raised.
    """

    def __init__(self, memory=10**8, seed=0, peers=None):
        self.left, self.calls, self.fail, self.random = memory, [], {}, random.Random(seed)
        self.buffers, self.pinned, self.streams, self.graphs, self.events = {}, {}, {}, {}, {}
        self.where, self.peers, self.reached, self.dead, self.hold = {}, peers, set(), set(), False
        self.clock, self.last, self.scratch_of, self.callers, self.lock = 0.0, 100, {}, set(), threading.RLock()
        self.unsettled, self._thread, self.astray, self.dies, self._defaults = [], threading.local(), [], {}, {}
        self.running, self.may_run = threading.Event(), threading.Event()
        self.may_run.set()
        self.words, self.cuda = dict(WORDS), Cuda(self)

    def __getattr__(self, name):
        """Constants and enumerations are the real module's."""
        value = getattr(real, name)
        if callable(value) and not isinstance(value, type):
            raise AttributeError(f"the stand-in has no {name}")
        return value

    # ------------------------------------------------------------------ for tests

    @property
    def current(self):
        """The device that this thread uses."""
        return getattr(self._thread, "device", 0)

    @current.setter
    def current(self, device):
        self._thread.device = device

    @property
    def has_context(self):
        """Whether this thread has chosen a device."""
        return getattr(self._thread, "chosen", False)

    @property
    def empty(self):
        assert self.astray == []
        return not (self.buffers or self.pinned or self.streams or self.graphs or self.events)

    def note(self, name, *arguments):
        self.calls.append((name, *arguments))
        for device in [device for device, left in self.dies.items() if left <= 0]:
            self.dead.add(device)
            del self.dies[device]
        self.dies = {device: left - 1 for device, left in self.dies.items()}
        if self.fail.get(name):
            self.fail[name] -= 1
            self.words[TOLD] = f"{name} failed as it was told to"
            raise RefusedError(TOLD)

    def names(self):
        """The names of the calls so far, which are forgotten."""
        with self.lock:
            names = [name for name, *_ in self.calls]
            self.calls.clear()
        return names

    def stream(self, handle):
        """The state of a stream: of the default one, that of the device in use."""
        if handle == DEFAULT_STREAM:
            return self._defaults.setdefault(self.current, Stream(self.current))
        if handle not in self.streams:
            raise RefusedError(ERROR.cudaErrorInvalidResourceHandle)
        return self.streams[handle]

    def alive(self, device):
        if device in self.dead:
            raise RefusedError(ERROR.cudaErrorLaunchFailure)

    def inside(self, address, size):
        """The device where these bytes are of one allocation, None for the host. Fails where they are not."""
        for buffers in (self.buffers, self.pinned):
            for start, (length, _) in list(buffers.items()):
                if start <= address and address + size <= start + length:
                    return self.where[start] if buffers is self.buffers else None
        raise AssertionError(f"{size} bytes at {address} are not, or no longer, allocated")

    def write(self, address, array):
        self.inside(address, array.nbytes)
        ctypes.memmove(address, np.ascontiguousarray(array).ctypes.data, array.nbytes)

    def read(self, address, shape, dtype):
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self.inside(address, size)
        return np.frombuffer(ctypes.string_at(address, size), dtype).reshape(shape)

    def contents(self, array):
        """What a `DeviceArray` or a `Tensor` holds now."""
        view = array if isinstance(array, DeviceArray) else array.view
        return self.read(view.address, view.shape, view.dtype)

    def enqueue(self, stream, run=None, *, reads=(), writes=(), needs=(), stuck=False):
        """Work on a stream, which also waits for what is in `needs`."""
        with self.lock:
            state = self.stream(stream)
            for address, size in (*reads, *writes):
                self.inside(address, size)
            capture = state.captured
            last = capture.tails.get(stream) if capture else state.last
            needs = (*needs, last) if last else tuple(needs)
            operation = Operation(run, state.device, reads, writes, needs, stuck)
            if capture is None:
                self._start(operation, state)
                state.last = operation
            else:
                assert capture.thread == threading.get_ident()
                capture.operations.append(operation)
                capture.tails[stream] = operation
            return operation

    # ------------------------------------------------------------------ the module's functions

    def cudaGetErrorString(self, error):
        return OK, self.words.get(error, error.name).encode()

    def cudaGetLastError(self):
        return (OK,)

    @answers("", device=False, value=True)
    def cudaGetDevice(self):
        return self.current

    def cudaSetDevice(self, device):
        try:
            with self.lock:
                self.calls.append(("use_device", device))
                self.alive(device)
        except RefusedError as refused:
            return (refused.args[0],)
        self.current, self._thread.chosen = device, True
        return (OK,)

    @answers("", device=False, value=True)
    def cudaThreadExchangeStreamCaptureMode(self, mode):
        before, self._thread.mode = self._mode, mode
        return before

    @answers("", value=True)
    def cudaMalloc(self, size):
        address = self._allocate("allocate", self.buffers, size)
        self.where[address] = self.current
        return address

    @answers("", device=False)
    def cudaFree(self, address):
        self._free("free", self.buffers, address)

    @answers("", value=True)
    def cudaHostAlloc(self, size, flags):
        assert flags == real.cudaHostAllocPortable
        return self._allocate("allocate_host", self.pinned, size)

    @answers("", device=False)
    def cudaFreeHost(self, address):
        self._free("free_host", self.pinned, address)

    @answers("create_stream", value=True)
    def cudaStreamCreateWithFlags(self, flags):
        assert flags == real.cudaStreamNonBlocking
        return self._handle(self.streams, Stream(self.current))

    @answers("destroy_stream", stream=0)
    def cudaStreamDestroy(self, stream):
        state = self.streams[stream]
        assert state.captured is None and not state.queue, "a stream is destroyed that has work left"
        del self.streams[stream]

    @answers("", stream=4)
    def cudaMemcpyAsync(self, target, source, size, kind, stream):
        assert kind == real.cudaMemcpyKind.cudaMemcpyDefault
        places = self.inside(target, size), self.inside(source, size)
        name = "to host" if places[0] is None else "to device" if places[1] is None else "to peer"
        assert places != (None, None), "a copy within the host"
        if name == "to peer":
            self.note(name, *places, size, stream)
            assert places[0] == places[1] or places[::-1] in self.reached, "a copy to a device without access to it"
        else:
            self.note(name, target, size, stream)

        def run():
            self.clock += COPY_MS
            ctypes.memmove(target, source, size)

        self.enqueue(stream, run, reads=((source, size),), writes=((target, size),))

    @answers("to peer", stream=5)
    def cudaMemcpyPeerAsync(self, target, target_device, source, source_device, size, stream):
        if self.stream(stream).captured is not None:
            self.stream(stream).captured.broken = "a peer copy"
            raise RefusedError(ERROR.cudaErrorStreamCaptureUnsupported)
        self.enqueue(stream, lambda: ctypes.memmove(target, source, size))

    @answers("", device=False, value=True)
    def cudaDeviceCanAccessPeer(self, device, peer):
        self.note("can_reach", device, peer)
        assert device != peer
        return int(self.peers is None or (device, peer) in self.peers)

    @answers("reach")
    def cudaDeviceEnablePeerAccess(self, peer, flags):
        self.calls[-1] = ("reach", self.current, peer)
        assert self.peers is None or (self.current, peer) in self.peers, "a device that cannot reach this one"
        if (self.current, peer) in self.reached:
            raise RefusedError(ERROR.cudaErrorPeerAccessAlreadyEnabled)
        self.reached.add((self.current, peer))

    def cudaDeviceSynchronize(self):
        raise AssertionError("a whole device is waited for")

    @answers("", stream=0)
    def cudaStreamQuery(self, stream):
        self.running.set()
        self._told("idle")
        state = self.stream(stream)
        assert state.captured is None, "a stream is asked that is being captured"
        for _ in range(self.random.randint(0, 3)):
            self._run_one()
        self.alive(state.device)
        if state.queue:
            raise RefusedError(ERROR.cudaErrorNotReady)
        self._settle(state.last)

    @answers("", stream=0, value=True)
    def cudaStreamIsCapturing(self, stream):
        status = real.cudaStreamCaptureStatus
        captured = self.stream(stream).captured is not None
        return status.cudaStreamCaptureStatusActive if captured else status.cudaStreamCaptureStatusNone

    @answers("create_event", value=True)
    def cudaEventCreateWithFlags(self, flags):
        return self._handle(self.events, Event(self.current, flags == real.cudaEventDefault))

    @answers("destroy_event", device=False)
    def cudaEventDestroy(self, event):
        self.alive(self.events.pop(event).device)

    @answers("record", stream=1)
    def cudaEventRecordWithFlags(self, event, stream, flags):
        state = self.events[event]
        external = flags == real.cudaEventRecordExternal
        assert state.timed and external == (self.streams[stream].captured is not None)
        self.enqueue(stream, lambda: setattr(state, "time", self.clock))

    @answers("mark", stream=1)
    def cudaEventRecord(self, event, stream):
        state = self.events[event]
        assert state.device == self.stream(stream).device, "an event of another device than the stream's"
        state.marked = self.enqueue(stream)
        state.capture = self.stream(stream).captured

    @answers("wait_for", stream=0)
    def cudaStreamWaitEvent(self, stream, event, flags):
        state, event = self.streams[stream], self.events[event]
        assert event.marked is not None, "an event is waited for that nobody marks"
        if event.capture is not None:
            assert not event.capture.ended, "an event of a capture is waited for outside of it"
            state.captured = state.captured or event.capture
        assert state.captured is event.capture, "a capture waits for what is not of it"
        self.enqueue(stream, needs=(event.marked,))

    @answers("", device=False)
    def cudaEventQuery(self, event):
        self._told("passed")
        state = self.events[event]
        self.alive(state.device)
        assert state.capture is None, "an event is asked that was marked in a capture"
        if state.marked is not None and not state.marked.done:
            raise RefusedError(ERROR.cudaErrorNotReady)
        self._settle(state.marked)

    @answers("", device=False, value=True)
    def cudaEventElapsedTime(self, start, end):
        return self.events[end].time - self.events[start].time

    @answers("begin_capture", stream=0)
    def cudaStreamBeginCapture(self, stream, mode):
        state = self.streams[stream]
        assert state.captured is None
        state.captured = Capture(stream, threading.get_ident(), mode)

    @answers("", device=False, value=True)
    def cudaStreamEndCapture(self, stream):
        capture = self.streams[stream].captured
        assert capture.thread == threading.get_ident() and capture.origin == stream
        capture.ended = True
        for state in self.streams.values():
            if state.captured is capture:
                state.captured = None
        self.note("end_capture", stream)
        if capture.broken:
            self.words[ERROR.cudaErrorStreamCaptureInvalidated] = f"the capture was broken by {capture.broken}"
            raise RefusedError(ERROR.cudaErrorStreamCaptureInvalidated)
        joined, stack = set(), [capture.tails[stream]] if stream in capture.tails else []
        while stack:
            operation = stack.pop()
            if operation not in joined:
                joined.add(operation)
                stack.extend(operation.needs)
        if not joined.issuperset(capture.tails.values()):
            self.words[ERROR.cudaErrorStreamCaptureUnjoined] = "a stream did not join again"
            raise RefusedError(ERROR.cudaErrorStreamCaptureUnjoined)
        return tuple(capture.operations)

    @answers("", value=True)
    def cudaGraphInstantiate(self, template, flags):
        self.note("instantiate")
        return self._handle(self.graphs, template)

    @answers("", device=False)
    def cudaGraphDestroy(self, template):
        assert isinstance(template, tuple)

    @answers("launch", stream=1)
    def cudaGraphLaunch(self, graph, stream):
        state, operations = self.streams[stream], self.graphs[graph]
        assert state.captured is None
        for device in {operation.device for operation in operations}:
            self.alive(device)
        first = self.enqueue(stream)
        made = {}
        for each in operations:
            needs = tuple(made[other] for other in each.needs) or (first,)
            made[each] = Operation(each.run, each.device, each.reads, each.writes, needs, each.stuck)
            self._start(made[each], state)
        self.enqueue(stream, needs=tuple(made.values()))

    @answers("destroy_graph", device=False)
    def cudaGraphExecDestroy(self, graph):
        self.graphs.pop(graph)

    # ------------------------------------------------------------------ how it works

    @property
    def _mode(self):
        return getattr(self._thread, "mode", MODE.cudaStreamCaptureModeGlobal)

    def _told(self, name):
        """As `note`, of a call that is not written down."""
        self.note(name)
        self.calls.pop()

    def _handle(self, handles, value):
        self.last += 1
        handles[self.last] = value
        return self.last

    def _allocate(self, name, buffers, size):
        self.note(name, size)
        self._unsafe(name)
        if size > self.left:
            raise RefusedError(ERROR.cudaErrorMemoryAllocation)
        self.left -= size
        memory = ctypes.create_string_buffer(size + 256)
        address = (ctypes.addressof(memory) + 255) // 256 * 256
        buffers[address] = (size, memory)
        return address

    def _free(self, name, buffers, address):
        self.note(name, address)
        self._unsafe(name)
        if buffers is self.buffers:
            self.alive(self.where[address])
        states = [*self.streams.values(), *self._defaults.values()]
        never = [state for state in states for each in state.queue if each.stuck or self.hold]
        assert not never, "memory is freed, which waits for work that never ends"
        size, _ = buffers[address]
        held = [graph for graph in self.graphs.values() if self._touches(graph, address, size)]
        queued = [state for state in states if self._touches(state.queue, address, size)]
        assert address in self.callers or not (held or queued), "memory is freed that a graph or a stream still uses"
        self.left += size
        del buffers[address]

    def _touches(self, operations, address, size):
        return any(address <= start < address + size for operation in operations for start, _ in operation.touches)

    def _unsafe(self, name):
        """What a capture may forbid this thread: its own, one in global mode of anyone's unless it is relaxed."""
        me = threading.get_ident()
        for capture in {state.captured for state in self.streams.values()} - {None}:
            assert capture.thread != me, f"{name} in a capture of this very thread"
            if capture.mode == self._mode == MODE.cudaStreamCaptureModeGlobal:
                capture.broken = name
                raise RefusedError(ERROR.cudaErrorStreamCaptureUnsupported)

    def _start(self, operation, state):
        """Queue work that is in no capture, after a look at whether it may run beside what is under way."""
        known = {need for need in operation.needs if not need.settled}
        known = known.union(*(need.before for need in known))
        operation.before = frozenset(each for each in known if not each.settled)
        for other in self.unsettled:
            if other not in operation.before:
                for one, others in ((operation.writes, other.touches), (operation.reads, other.writes)):
                    assert not any(_overlap(a, b) for a, b in itertools.product(one, others)), (
                        "two pieces of work on the same memory, of which neither waits for the other"
                    )
        self.unsettled.append(operation)
        state.queue.append(operation)

    def _settle(self, operation):
        """The host knows that this has ended, and all that it waited for."""
        if operation is not None and not operation.settled:
            for each in (operation, *operation.before):
                assert each.done
                each.settled, each.needs = True, ()
            self.unsettled = [each for each in self.unsettled if not each.settled]
            operation.before = frozenset()

    def _run_one(self):
        """Run something that can, of any stream."""
        if self.hold or not self.may_run.is_set():
            return
        ready = [
            (state, operation)
            for state in (*self.streams.values(), *self._defaults.values())
            for operation in state.queue
            if not operation.stuck and operation.device not in self.dead and all(each.done for each in operation.needs)
        ]
        if not ready:
            return
        state, operation = self.random.choice(ready)
        for address, size in operation.touches:
            self.inside(address, size)
        if operation.run is not None:
            operation.run()
        operation.done = True
        state.queue.remove(operation)


def _overlap(one, other):
    return one[0] < other[0] + other[1] and other[0] < one[0] + one[1]
