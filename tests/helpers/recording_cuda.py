"""A double of CUDA, of several devices, that keeps to its rules and writes down every call.

Device memory is memory of the host. Nothing that is enqueued runs before something waits for it or asks whether it has
ended; then work runs in any order that streams and events allow, chosen by `seed`. What CUDA leaves undefined or
forbids (memory that is not there any more, a call that a capture does not allow, two pieces of work on the same bytes
of which neither waits for the other) is an AssertionError, which nothing catches.
"""

import ctypes
import itertools
import random
import threading
from dataclasses import dataclass, field

import numpy as np

from plainconv.engines.cuda.device_array import DeviceArray
from plainconv.exporter.errors import EngineError

COPY_MS = 1.0


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
    """What becomes a graph: its work, the last on each of its streams, and who captures."""

    origin: int
    thread: int
    operations: list = field(default_factory=list)
    tails: dict = field(default_factory=dict)
    ended: bool = False


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


class Tensor:
    """A caller's tensor in GPU memory; `late`: what writes it only runs on a stream that waits for it."""

    def __init__(self, cuda, array, *, late=False, **said):
        self.write = lambda: cuda.write(self.address, array)
        self.late, self.address = late, cuda.allocate(array.nbytes)
        cuda.callers.add(self.address)
        facts = {"device": 0, "c_contiguous": True, "writeable": True} | said
        self.view = DeviceArray(self.address + facts.pop("offset", 0), array.shape, array.dtype, owner=self, **facts)
        if not late:
            self.write()

    def __dlpack_device__(self):
        return (2, self.view.device)


class Device:
    """The `Cuda` protocol. `calls` is everything asked of it and of the contexts that enqueue on it, in order.

    `peers` are the ordered pairs of devices that can reach one another, all where None. `dead` are devices of which
    every call fails. `hold` keeps all work from running; asking whether it has ended is allowed meanwhile. `astray` is
    what went wrong where nothing can be raised.
    """

    def __init__(self, memory=10**8, seed=0, peers=None):
        self.left, self.calls, self.fail, self.random = memory, [], {}, random.Random(seed)
        self.buffers, self.pinned, self.streams, self.graphs, self.events = {}, {}, {}, {}, {}
        self.where, self.peers, self.reached, self.dead, self.hold = {}, peers, set(), set(), False
        self.clock, self.last, self.scratch_of, self.callers, self.lock = 0.0, 100, {}, set(), threading.RLock()
        self.unsettled, self._thread, self.astray = [], threading.local(), []
        self.running = threading.Event()
        self.may_run = threading.Event()
        self.may_run.set()

    @property
    def current(self):
        """The device that this thread uses."""
        return getattr(self._thread, "device", 0)

    @current.setter
    def current(self, device):
        self._thread.device = device

    @property
    def empty(self):
        assert self.astray == []
        return not (self.buffers or self.pinned or self.streams or self.graphs or self.events)

    def note(self, name, *arguments):
        with self.lock:
            self.calls.append((name, *arguments))
            self._fail(name)

    def device(self):
        return self.current

    def use_device(self, device):
        self.note("use_device", device)
        self.alive(device)
        self.current = device

    def allocate(self, size):
        address = self._allocate("allocate", self.buffers, size)
        self.where[address] = self.current
        return address

    def free(self, address):
        self._free("free", self.buffers, address)

    def allocate_host(self, size):
        return self._allocate("allocate_host", self.pinned, size)

    def free_host(self, address):
        self._free("free_host", self.pinned, address)

    def borrow(self, array, stream):
        self.note("borrow", stream)
        if isinstance(array, DeviceArray):
            return array
        if array.late:
            self.enqueue(stream, array.write, writes=((array.address, array.view.nbytes),))
            array.late = False
        return array.view

    def create_stream(self):
        self.note("create_stream")
        self.alive(self.current)
        return self._handle(self.streams, Stream(self.current))

    def destroy_stream(self, stream):
        self.note("destroy_stream", stream)
        state = self.streams[stream]
        self.alive(state.device)
        assert state.captured is None and not state.queue, "a stream is destroyed that has work left"
        del self.streams[stream]

    def copy_to_device(self, target, source, size, stream):
        self.note("to device", target, size, stream)
        assert target in self.buffers and source in self.pinned, "a copy the wrong way"
        self._copy(target, source, size, stream)

    def copy_to_host(self, target, source, size, stream):
        self.note("to host", target, size, stream)
        assert target in self.pinned and source in self.buffers, "a copy the wrong way"
        self._copy(target, source, size, stream)

    def can_reach(self, device, peer):
        self.note("can_reach", device, peer)
        assert device != peer
        return self.peers is None or (device, peer) in self.peers

    def reach(self, peer):
        self.note("reach", self.current, peer)
        assert self.peers is None or (self.current, peer) in self.peers, "a device that cannot reach this one"
        self.reached.add((self.current, peer))

    def copy_to_peer(self, target, target_device, source, source_device, size, stream):
        self.note("to peer", target_device, source_device, size, stream)
        assert (self.where[target], self.where[source]) == (target_device, source_device), "not memory of that device"
        self._copy(target, source, size, stream)

    def synchronize(self, stream):
        self.note("synchronize", stream)
        self.running.set()
        assert self.may_run.wait(30)
        with self.lock:
            state = self.streams[stream]
            self.alive(state.device)
            assert state.captured is None, "a stream is waited for that is being captured"
            self._drain([state])

    def idle(self, stream):
        self._fail("idle")
        self.running.set()
        with self.lock:
            state = self.streams[stream]
            self.alive(state.device)
            assert state.captured is None, "a stream is asked that is being captured"
            for _ in range(self.random.randint(0, 3)):
                self._run_one()
            self.alive(state.device)
            if state.queue:
                return False
            self._settle(state.last)
            return True

    def synchronize_device(self):
        self.note("synchronize_device")
        assert self.may_run.wait(30)
        with self.lock:
            own = [state for state in self.streams.values() if state.device == self.current]
            assert all(state.captured is None for state in self.streams.values()), (
                "the device is waited for while a stream is being captured"
            )
            self._drain(own)

    def create_event(self, *, timed=True):
        self.note("create_event")
        return self._handle(self.events, Event(self.current, timed))

    def destroy_event(self, event):
        self.note("destroy_event", event)
        self.events.pop(event)

    def record(self, event, stream, *, captured):
        self.note("record", event, stream)
        state = self.events[event]
        assert state.timed and captured == (self.streams[stream].captured is not None)
        self.enqueue(stream, lambda: setattr(state, "time", self.clock))

    def mark(self, event, stream):
        self.note("mark", event, stream)
        state = self.events[event]
        assert state.device == self.streams[stream].device, "an event of another device than the stream's"
        state.marked = self.enqueue(stream)
        state.capture = self.streams[stream].captured

    def wait_for(self, event, stream):
        self.note("wait_for", event, stream)
        with self.lock:
            state, event = self.streams[stream], self.events[event]
            assert event.marked is not None, "an event is waited for that nobody marks"
            if event.capture is not None:
                assert not event.capture.ended, "an event of a capture is waited for outside of it"
                state.captured = state.captured or event.capture
            assert state.captured is event.capture, "a capture waits for what is not of it"
            self.enqueue(stream, needs=(event.marked,))

    def passed(self, event):
        self._fail("passed")
        with self.lock:
            state = self.events[event]
            self.alive(state.device)
            assert state.capture is None, "an event is asked that was marked in a capture"
            if state.marked is None or state.marked.done:
                self._settle(state.marked)
                return True
            return False

    def milliseconds(self, start, end):
        return self.events[end].time - self.events[start].time

    def begin_capture(self, stream):
        self.note("begin_capture", stream)
        state = self.streams[stream]
        assert state.captured is None
        state.captured = Capture(stream, threading.get_ident())

    def end_capture(self, stream):
        with self.lock:
            capture = self.streams[stream].captured
            assert capture.thread == threading.get_ident() and capture.origin == stream
            capture.ended = True
            for state in self.streams.values():
                if state.captured is capture:
                    state.captured = None
            self.note("end_capture", stream)
            joined, stack = set(), [capture.tails[stream]] if stream in capture.tails else []
            while stack:
                operation = stack.pop()
                if operation not in joined:
                    joined.add(operation)
                    stack.extend(operation.needs)
            if not joined.issuperset(capture.tails.values()):
                raise EngineError("end_capture failed as a stream did not join again")
            return self._handle(self.graphs, capture.operations)

    def launch(self, graph, stream):
        self.note("launch", graph, stream)
        with self.lock:
            state, operations = self.streams[stream], self.graphs[graph]
            assert state.captured is None
            for device in {state.device, *(operation.device for operation in operations)}:
                self.alive(device)
            first = self.enqueue(stream)
            made = {}
            for each in operations:
                needs = tuple(made[other] for other in each.needs) or (first,)
                made[each] = Operation(each.run, each.device, each.reads, each.writes, needs, each.stuck)
                self._start(made[each], state)
            self.enqueue(stream, needs=tuple(made.values()))

    def destroy_graph(self, graph):
        self.note("destroy_graph", graph)
        self.graphs.pop(graph)

    def enqueue(self, stream, run=None, *, reads=(), writes=(), needs=(), stuck=False):
        """Work on a stream, which also waits for what is in `needs`."""
        with self.lock:
            state = self.streams[stream]
            self.alive(state.device)
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

    def alive(self, device):
        if device in self.dead:
            raise EngineError(f"CUDA failed (device {device}: unspecified launch failure)")

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

    def names(self):
        """The names of the calls so far, which are forgotten."""
        with self.lock:
            names = [name for name, *_ in self.calls]
            self.calls.clear()
        return names

    def _fail(self, name):
        if self.fail.get(name):
            self.fail[name] -= 1
            raise EngineError(f"{name} failed as it was told to")

    def _handle(self, handles, value):
        with self.lock:
            self.last += 1
            handles[self.last] = value
            return self.last

    def _allocate(self, name, buffers, size):
        self.note(name, size)
        with self.lock:
            self.alive(self.current)
            self._no_capture_here()
            if size > self.left:
                raise EngineError(f"out of memory ({name} of {size} bytes)")
            self.left -= size
            memory = ctypes.create_string_buffer(size + 256)
            address = (ctypes.addressof(memory) + 255) // 256 * 256
            buffers[address] = (size, memory)
            return address

    def _free(self, name, buffers, address):
        self.note(name, address)
        with self.lock:
            self._no_capture_here()
            if buffers is self.buffers:
                self.alive(self.where[address])
            never = [state for state in self.streams.values() for each in state.queue if each.stuck or self.hold]
            assert not never, "memory is freed, which waits for work that never ends"
            size, _ = buffers[address]
            held = [graph for graph in self.graphs.values() if self._touches(graph, address, size)]
            queued = [state for state in self.streams.values() if self._touches(state.queue, address, size)]
            assert address in self.callers or not (held or queued), (
                "memory is freed that a graph or a stream still uses"
            )
            self.left += size
            del buffers[address]

    def _touches(self, operations, address, size):
        return any(address <= start < address + size for operation in operations for start, _ in operation.touches)

    def _no_capture_here(self):
        me = threading.get_ident()
        assert all(s.captured is None or s.captured.thread != me for s in self.streams.values()), "in a capture"

    def _copy(self, target, source, size, stream):
        def run():
            self.clock += COPY_MS
            ctypes.memmove(target, source, size)

        self.enqueue(stream, run, reads=((source, size),), writes=((target, size),))

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

    def _drain(self, states):
        while any(state.queue for state in states):
            assert self._run_one(), "a stream is waited for, whose work never ends"
        for state in states:
            self._settle(state.last)

    def _run_one(self):
        """Run something that can, of any stream. False where there is nothing."""
        if self.hold or not self.may_run.is_set():
            return False
        ready = [
            (state, operation)
            for state in self.streams.values()
            for operation in state.queue
            if not operation.stuck and operation.device not in self.dead and all(each.done for each in operation.needs)
        ]
        if not ready:
            return False
        state, operation = self.random.choice(ready)
        for address, size in operation.touches:
            self.inside(address, size)
        if operation.run is not None:
            operation.run()
        operation.done = True
        state.queue.remove(operation)
        return True


def _overlap(one, other):
    return one[0] < other[0] + other[1] and other[0] < one[0] + one[1]
