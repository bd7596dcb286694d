"""The calls of the CUDA runtime that a runner needs, each checked. The only file that imports cuda-bindings, late.

Addresses and handles are plain integers, sizes are bytes. What is enqueued must live until its stream is synchronized.
"""

import contextlib
import importlib
import threading
from collections.abc import Iterator
from typing import Any

from plainconv.exporter.errors import EngineError

from .device_array import DeviceArray, borrow

_SIZED = ("cudaMalloc", "cudaHostAlloc")


class CudaRuntime:
    """Memory of device and host, streams, copies, events, and graphs of captured work.

    Every call raises EngineError, in one line, where CUDA reports an error.
    """

    def __init__(self, runtime: Any = None) -> None:
        """`runtime` is the module of that name of cuda-bindings. Raises EngineError where it is not installed."""
        if runtime is None:
            try:
                runtime = importlib.import_module("cuda.bindings.runtime")
            except ImportError as error:
                raise EngineError(f"cuda-bindings cannot be imported ({error}); pip install 'plainconv[gpu]'") from None
        self._runtime: Any = runtime
        self._success = runtime.cudaError_t.cudaSuccess
        self._not_ready = runtime.cudaError_t.cudaErrorNotReady
        self._any_way = runtime.cudaMemcpyKind.cudaMemcpyDefault
        self._relaxed_mode = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeRelaxed
        self._thread = threading.local()

    def device(self) -> int:
        """The device that this thread uses: cudaGetDevice."""
        return int(self._checked("cudaGetDevice"))

    def use_device(self, device: int) -> None:
        """Have this thread use another: cudaSetDevice. Only that makes the device's context the thread's own."""
        self._checked("cudaSetDevice", device)
        self._thread.has_context = True

    def enter(self, device: int) -> int:
        """Have this thread use a device, with its context; the one that it used before.

        A thread that never chose a device is on device 0 by name, and has no context: cuda-core's calls fail there.
        """
        before = self.device()
        if before != device or not getattr(self._thread, "has_context", False):
            self.use_device(device)
        return before

    def allocate(self, size: int) -> int:
        """The address of device memory, a multiple of 256: cudaMalloc."""
        with self._beside_captures():
            return int(self._checked("cudaMalloc", size))

    def free(self, address: int) -> None:
        """Give device memory back: cudaFree."""
        with self._beside_captures():
            self._checked("cudaFree", address)

    def allocate_host(self, size: int) -> int:
        """The address of host memory locked in place, which every device copies by itself: cudaHostAlloc, portable."""
        with self._beside_captures():
            return int(self._checked("cudaHostAlloc", size, self._runtime.cudaHostAllocPortable))

    def free_host(self, address: int) -> None:
        """Give locked host memory back: cudaFreeHost."""
        with self._beside_captures():
            self._checked("cudaFreeHost", address)

    def borrow(self, array: Any, stream: int) -> DeviceArray:
        """A caller's array in GPU memory, by way of cuda-core; `stream` waits for what is still to write it."""
        return borrow(array, stream)

    def create_stream(self) -> int:
        """A new stream, apart from the default one, which would wait for everyone else's work."""
        return int(self._checked("cudaStreamCreateWithFlags", self._runtime.cudaStreamNonBlocking))

    def destroy_stream(self, stream: int) -> None:
        """Give a stream back: cudaStreamDestroy."""
        self._checked("cudaStreamDestroy", stream)

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        """Enqueue a copy: cudaMemcpyAsync, which knows by the addresses where they are.

        From device to device the one must have access to the other (`reach`). cudaMemcpyPeerAsync would not need that,
        but cannot be captured.
        """
        self._checked("cudaMemcpyAsync", target, source, size, self._any_way, stream)

    def can_reach(self, device: int, peer: int) -> bool:
        """Whether one device can access the memory of another: cudaDeviceCanAccessPeer."""
        return bool(self._checked("cudaDeviceCanAccessPeer", device, peer))

    def reach(self, peer: int) -> None:
        """Let the device that this thread uses access the memory of another: cudaDeviceEnablePeerAccess.

        That someone has enabled it before is no error.
        """
        (error,) = self._runtime.cudaDeviceEnablePeerAccess(peer, 0)
        if error == self._runtime.cudaError_t.cudaErrorPeerAccessAlreadyEnabled:
            self._runtime.cudaGetLastError()  # forgets it, so that nobody takes it for an error of theirs
        elif error != self._success:
            raise EngineError(self._words("cudaDeviceEnablePeerAccess", (peer, 0), error))

    def idle(self, stream: int) -> bool:
        """Whether everything enqueued on a stream has ended: cudaStreamQuery. Does not wait."""
        return self._ended("cudaStreamQuery", stream)

    def captured(self, stream: int) -> bool:
        """Whether someone is capturing a stream, or what an event of it would disturb: cudaStreamIsCapturing."""
        error, status = self._runtime.cudaStreamIsCapturing(stream)
        if error == self._runtime.cudaError_t.cudaErrorStreamCaptureImplicit:
            self._runtime.cudaGetLastError()  # forgets it
            return True
        if error != self._success:
            raise EngineError(self._words("cudaStreamIsCapturing", (stream,), error))
        return bool(status != self._runtime.cudaStreamCaptureStatus.cudaStreamCaptureStatusNone)

    def create_event(self, *, timed: bool = True) -> int:
        """A new event of the device that this thread uses. One that keeps no time costs its stream less."""
        flag = self._runtime.cudaEventDefault if timed else self._runtime.cudaEventDisableTiming
        return int(self._checked("cudaEventCreateWithFlags", flag))

    def destroy_event(self, event: int) -> None:
        """Give an event back: cudaEventDestroy."""
        self._checked("cudaEventDestroy", event)

    def record(self, event: int, stream: int, *, captured: bool) -> None:
        """Enqueue the taking of the time; `captured`: at every launch of the graph that is being captured.

        Only an external event of a graph has a time that can be asked for.
        """
        flag = self._runtime.cudaEventRecordExternal if captured else self._runtime.cudaEventRecordDefault
        self._checked("cudaEventRecordWithFlags", event, stream, flag)

    def mark(self, event: int, stream: int) -> None:
        """Enqueue the coming to pass of an event, for other streams to wait for; both are of one device."""
        self._checked("cudaEventRecord", event, stream)

    def wait_for(self, event: int, stream: int) -> None:
        """Have what is enqueued from now on wait for the last `mark` of an event so far, on whatever device it is.

        In a capture, a stream that waits for an event of the capture becomes part of it.
        """
        self._checked("cudaStreamWaitEvent", stream, event, self._runtime.cudaEventWaitDefault)

    def passed(self, event: int) -> bool:
        """Whether the last `mark` of an event has come to pass: cudaEventQuery. Does not wait."""
        return self._ended("cudaEventQuery", event)

    def milliseconds(self, start: int, end: int) -> float:
        """The time between two events that have both come to pass."""
        return float(self._checked("cudaEventElapsedTime", start, end))

    def begin_capture(self, stream: int) -> None:
        """From now on, what this thread enqueues on a stream becomes a graph, and does not run.

        The other threads keep their freedom.
        """
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._checked("cudaStreamBeginCapture", stream, mode)

    def end_capture(self, stream: int) -> int:
        """The graph, ready to launch. The stream and those that joined it are as before, however this ends."""
        template = self._checked("cudaStreamEndCapture", stream)
        try:
            return int(self._checked("cudaGraphInstantiate", template, 0))
        finally:
            self._checked("cudaGraphDestroy", template)

    def launch(self, graph: int, stream: int) -> None:
        """Enqueue a graph: cudaGraphLaunch."""
        self._checked("cudaGraphLaunch", graph, stream)

    def destroy_graph(self, graph: int) -> None:
        """Give a graph back: cudaGraphExecDestroy."""
        self._checked("cudaGraphExecDestroy", graph)

    @contextlib.contextmanager
    def _beside_captures(self) -> Iterator[None]:
        """Calls that someone's capture in another thread forbids, by default, and would not survive."""
        before = self._checked("cudaThreadExchangeStreamCaptureMode", self._relaxed_mode)
        try:
            yield
        finally:
            self._checked("cudaThreadExchangeStreamCaptureMode", before)

    def _checked(self, call: str, *arguments: Any) -> Any:
        answer = getattr(self._runtime, call)(*arguments)
        if answer[0] != self._success:
            raise EngineError(self._words(call, arguments, answer[0]))
        return answer[1] if len(answer) > 1 else None

    def _ended(self, call: str, handle: int) -> bool:
        (error,) = getattr(self._runtime, call)(handle)
        if error == self._success:
            return True
        if error != self._not_ready:
            raise EngineError(self._words(call, (handle,), error))
        self._runtime.cudaGetLastError()  # forgets it, so that nobody takes it for an error of theirs
        return False

    def _words(self, call: str, arguments: tuple[Any, ...], error: Any) -> str:
        if error == self._runtime.cudaError_t.cudaErrorMemoryAllocation:
            what = f"{call} of {arguments[0]} bytes" if call in _SIZED else call
            memory = "page-locked host memory" if call == "cudaHostAlloc" else "GPU memory"
            return f"out of {memory} ({what}); free some, or run a smaller batch"
        words = self._runtime.cudaGetErrorString(error)[1].decode()
        return f"CUDA failed ({call}: {words}); see whether nvidia-smi runs and the driver is recent"
