"""A double of CUDA that keeps to its rules and writes down every call.

Device memory is memory of the host. Nothing that is enqueued runs before its stream, or the device, is waited for. What
CUDA leaves undefined or forbids (memory that is not there any more, a call that a capture does not allow) is an
AssertionError, which nothing catches.
"""

import ctypes
import threading
from dataclasses import dataclass, field

import numpy as np

from engines.device_array import DeviceArray
from exporter.errors import EngineError

COPY_MS = 1.0


@dataclass
class Operation:
    """Work on a stream: what it does, and the (address, size) that it touches."""

    run: object
    touches: tuple = ()


@dataclass
class Stream:
    queue: list = field(default_factory=list)
    captured: list | None = None
    thread: int = 0


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
    """The `Cuda` protocol. `calls` is everything asked of it and of the contexts that enqueue on it, in order."""

    def __init__(self, memory=10**8):
        self.left, self.calls, self.fail, self.current = memory, [], {}, 0
        self.buffers, self.pinned, self.streams, self.graphs, self.events = {}, {}, {}, {}, {}
        self.clock, self.last, self.scratch_of, self.callers, self.lock = 0.0, 100, {}, set(), threading.RLock()
        self.running = threading.Event()
        self.may_run = threading.Event()
        self.may_run.set()

    @property
    def empty(self):
        return not (self.buffers or self.pinned or self.streams or self.graphs or self.events)

    def note(self, name, *arguments):
        with self.lock:
            self.calls.append((name, *arguments))
            if self.fail.get(name):
                self.fail[name] -= 1
                raise EngineError(f"{name} failed as it was told to")

    def device(self):
        return self.current

    def use_device(self, device):
        self.note("use_device", device)
        self.current = device

    def allocate(self, size):
        return self._allocate("allocate", self.buffers, size)

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
            self.enqueue(stream, array.write, ((array.address, array.view.nbytes),))
            array.late = False
        return array.view

    def create_stream(self):
        self.note("create_stream")
        return self._handle(self.streams, Stream())

    def destroy_stream(self, stream):
        self.note("destroy_stream", stream)
        assert not self.streams.pop(stream).queue, "a stream is destroyed that has work left"

    def copy_to_device(self, target, source, size, stream):
        self._copy("to device", target, self.buffers, source, self.pinned, size, stream)

    def copy_to_host(self, target, source, size, stream):
        self._copy("to host", target, self.pinned, source, self.buffers, size, stream)

    def synchronize(self, stream):
        self.note("synchronize", stream)
        self.running.set()
        assert self.may_run.wait(30)
        with self.lock:
            assert self.streams[stream].captured is None, "a stream is waited for that is being captured"
            self._drain(stream)

    def synchronize_device(self):
        self.note("synchronize_device")
        with self.lock:
            for stream, state in self.streams.items():
                assert state.captured is None, "the device is waited for while a stream is being captured"
                self._drain(stream)

    def create_event(self):
        self.note("create_event")
        return self._handle(self.events, None)

    def destroy_event(self, event):
        self.note("destroy_event", event)
        self.events.pop(event)

    def record(self, event, stream, *, captured):
        self.note("record", event, stream)
        assert captured == (self.streams[stream].captured is not None)
        self.enqueue(stream, lambda: self.events.__setitem__(event, self.clock))

    def milliseconds(self, start, end):
        return self.events[end] - self.events[start]

    def begin_capture(self, stream):
        self.note("begin_capture", stream)
        state = self.streams[stream]
        assert state.captured is None
        state.captured, state.thread = [], threading.get_ident()

    def end_capture(self, stream):
        with self.lock:
            state = self.streams[stream]
            operations, state.captured = state.captured, None
            assert state.thread == threading.get_ident()
            self.note("end_capture", stream)
            return self._handle(self.graphs, operations)

    def launch(self, graph, stream):
        self.note("launch", graph, stream)
        for operation in self.graphs[graph]:
            self.enqueue(stream, operation.run, operation.touches)

    def destroy_graph(self, graph):
        self.note("destroy_graph", graph)
        self.graphs.pop(graph)

    def enqueue(self, stream, run, touches=()):
        with self.lock:
            state = self.streams[stream]
            for address, size in touches:
                self.inside(address, size)
            operation = Operation(run, touches)
            if state.captured is None:
                state.queue.append(operation)
            else:
                assert state.thread == threading.get_ident()
                state.captured.append(operation)

    def inside(self, address, size):
        """Fail where these bytes are not of one allocation."""
        for buffers in (self.buffers, self.pinned):
            for start, (length, _) in buffers.items():
                if start <= address and address + size <= start + length:
                    return
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

    def _handle(self, handles, value):
        with self.lock:
            self.last += 1
            handles[self.last] = value
            return self.last

    def _allocate(self, name, buffers, size):
        self.note(name, size)
        with self.lock:
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
        assert all(state.captured is None or state.thread != me for state in self.streams.values()), "in a capture"

    def _copy(self, name, target, targets, source, sources, size, stream):
        self.note(name, target, size, stream)
        assert target in targets and source in sources, "a copy the wrong way"

        def run():
            self.clock += COPY_MS
            ctypes.memmove(target, source, size)

        self.enqueue(stream, run, ((target, size), (source, size)))

    def _drain(self, stream):
        queue = self.streams[stream].queue
        while queue:
            operation = queue[0]
            for address, size in operation.touches:
                self.inside(address, size)
            operation.run()
            queue.pop(0)
