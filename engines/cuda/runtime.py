"""The calls of the CUDA runtime that a runner needs, each checked. The only file that imports cuda-bindings, late.

Addresses and handles are plain integers, sizes are bytes. What is enqueued must live until its stream is synchronized.
"""

import threading
from typing import Any, Protocol

from plainconv.exporter.errors import EngineError

from .device_array import DeviceArray, borrow

NO_CAPTURE = threading.Lock()  # who waits for a whole device holds it: CUDA forbids that while any stream is captured

_SIZED = ("cudaMalloc", "cudaHostAlloc")
_PATIENCE = 1.0  # seconds for which a capture puts up with someone's wait for a device, which may never end


class Cuda(Protocol):
    """Memory of device and host, streams, copies, events, and graphs of captured work."""

    def device(self) -> int:
        """The device that this thread uses."""

    def use_device(self, device: int) -> None:
        """Have this thread use another."""

    def allocate(self, size: int) -> int:
        """The address of device memory, a multiple of 256."""

    def free(self, address: int) -> None:
        """Give device memory back."""

    def allocate_host(self, size: int) -> int:
        """The address of host memory that is locked in place, so that every device copies it by itself."""

    def free_host(self, address: int) -> None:
        """Give locked host memory back."""

    def borrow(self, array: Any, stream: int) -> DeviceArray:
        """A caller's array in GPU memory; `stream` waits for what is still to write it."""

    def create_stream(self) -> int:
        """A new stream."""

    def destroy_stream(self, stream: int) -> None:
        """Give a stream back."""

    def copy_to_device(self, target: int, source: int, size: int, stream: int) -> None:
        """Enqueue a copy from host to device."""

    def copy_to_host(self, target: int, source: int, size: int, stream: int) -> None:
        """Enqueue a copy from device to host."""

    def can_reach(self, device: int, peer: int) -> bool:
        """Whether one device can access the memory of another."""

    def reach(self, peer: int) -> None:
        """Let the device that this thread uses access the memory of another, if it does not yet."""

    def copy_to_peer(
        self, target: int, target_device: int, source: int, source_device: int, size: int, stream: int
    ) -> None:
        """Enqueue a copy from device to device, which may be one and the same."""

    def synchronize(self, stream: int) -> None:
        """Wait for everything enqueued on a stream."""

    def idle(self, stream: int) -> bool:
        """Whether everything enqueued on a stream has ended. Does not wait."""

    def synchronize_device(self) -> None:
        """Wait for everything enqueued by anyone on any stream of the device."""

    def create_event(self, *, timed: bool = True) -> int:
        """A new event of the device that this thread uses, which keeps the time or only comes to pass."""

    def destroy_event(self, event: int) -> None:
        """Give an event back."""

    def record(self, event: int, stream: int, *, captured: bool) -> None:
        """Enqueue the taking of the time; `captured`: at every launch of the graph that is being captured."""

    def mark(self, event: int, stream: int) -> None:
        """Enqueue the coming to pass of an event, for other streams to wait for; both are of one device."""

    def wait_for(self, event: int, stream: int) -> None:
        """Have what is enqueued from now on wait for the last `mark` of an event so far, on whatever device it is.

        In a capture, a stream that waits for an event of the capture becomes part of it.
        """

    def passed(self, event: int) -> bool:
        """Whether the last `mark` of an event has come to pass. Does not wait."""

    def milliseconds(self, start: int, end: int) -> float:
        """The time between two events that have both come to pass."""

    def begin_capture(self, stream: int) -> None:
        """From now on, what this thread enqueues on a stream becomes a graph, and does not run."""

    def end_capture(self, stream: int) -> int:
        """The graph, ready to launch. The stream and those that joined it are as before, however this ends."""

    def launch(self, graph: int, stream: int) -> None:
        """Enqueue a graph."""

    def destroy_graph(self, graph: int) -> None:
        """Give a graph back."""


class CudaRuntime:
    """`Cuda` by way of cuda-bindings. Every call raises EngineError, in one line, where CUDA reports an error."""

    def __init__(self) -> None:
        """Import cuda-bindings. Raises EngineError where it is not installed."""
        try:
            from cuda.bindings import runtime
        except ImportError as error:
            raise EngineError(f"cuda-bindings cannot be imported ({error}); pip install 'plainconv[gpu]'") from None
        self._runtime: Any = runtime
        self._success = runtime.cudaError_t.cudaSuccess
        self._not_ready = runtime.cudaError_t.cudaErrorNotReady
        self._to_device = runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._to_host = runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost

    def device(self) -> int:
        """cudaGetDevice."""
        return int(self._checked("cudaGetDevice"))

    def use_device(self, device: int) -> None:
        """cudaSetDevice."""
        self._checked("cudaSetDevice", device)

    def allocate(self, size: int) -> int:
        """cudaMalloc."""
        return int(self._checked("cudaMalloc", size))

    def free(self, address: int) -> None:
        """cudaFree."""
        self._checked("cudaFree", address)

    def allocate_host(self, size: int) -> int:
        """cudaHostAlloc, page-locked for every device and not for one."""
        return int(self._checked("cudaHostAlloc", size, self._runtime.cudaHostAllocPortable))

    def free_host(self, address: int) -> None:
        """cudaFreeHost."""
        self._checked("cudaFreeHost", address)

    def borrow(self, array: Any, stream: int) -> DeviceArray:
        """DLPack or the CUDA array interface, by way of cuda-core."""
        return borrow(array, stream)

    def create_stream(self) -> int:
        """cudaStreamCreateWithFlags, apart from the default stream, which would wait for everyone else's work."""
        return int(self._checked("cudaStreamCreateWithFlags", self._runtime.cudaStreamNonBlocking))

    def destroy_stream(self, stream: int) -> None:
        """cudaStreamDestroy."""
        self._checked("cudaStreamDestroy", stream)

    def copy_to_device(self, target: int, source: int, size: int, stream: int) -> None:
        """cudaMemcpyAsync, host to device."""
        self._checked("cudaMemcpyAsync", target, source, size, self._to_device, stream)

    def copy_to_host(self, target: int, source: int, size: int, stream: int) -> None:
        """cudaMemcpyAsync, device to host."""
        self._checked("cudaMemcpyAsync", target, source, size, self._to_host, stream)

    def can_reach(self, device: int, peer: int) -> bool:
        """cudaDeviceCanAccessPeer."""
        return bool(self._checked("cudaDeviceCanAccessPeer", device, peer))

    def reach(self, peer: int) -> None:
        """cudaDeviceEnablePeerAccess. That someone has enabled it before is no error."""
        (error,) = self._runtime.cudaDeviceEnablePeerAccess(peer, 0)
        if error == self._runtime.cudaError_t.cudaErrorPeerAccessAlreadyEnabled:
            self._runtime.cudaGetLastError()  # forgets it, so that nobody takes it for an error of theirs
        elif error != self._success:
            raise EngineError(self._words("cudaDeviceEnablePeerAccess", (peer, 0), error))

    def copy_to_peer(
        self, target: int, target_device: int, source: int, source_device: int, size: int, stream: int
    ) -> None:
        """cudaMemcpyPeerAsync."""
        self._checked("cudaMemcpyPeerAsync", target, target_device, source, source_device, size, stream)

    def synchronize(self, stream: int) -> None:
        """cudaStreamSynchronize."""
        self._checked("cudaStreamSynchronize", stream)

    def idle(self, stream: int) -> bool:
        """cudaStreamQuery."""
        return self._ended("cudaStreamQuery", stream)

    def synchronize_device(self) -> None:
        """cudaDeviceSynchronize."""
        with NO_CAPTURE:
            self._checked("cudaDeviceSynchronize")

    def create_event(self, *, timed: bool = True) -> int:
        """cudaEventCreateWithFlags. An event that keeps no time costs its stream less."""
        flag = self._runtime.cudaEventDefault if timed else self._runtime.cudaEventDisableTiming
        return int(self._checked("cudaEventCreateWithFlags", flag))

    def destroy_event(self, event: int) -> None:
        """cudaEventDestroy."""
        self._checked("cudaEventDestroy", event)

    def record(self, event: int, stream: int, *, captured: bool) -> None:
        """cudaEventRecordWithFlags. Only an external event of a graph has a time that can be asked for."""
        flag = self._runtime.cudaEventRecordExternal if captured else self._runtime.cudaEventRecordDefault
        self._checked("cudaEventRecordWithFlags", event, stream, flag)

    def mark(self, event: int, stream: int) -> None:
        """cudaEventRecord."""
        self._checked("cudaEventRecord", event, stream)

    def wait_for(self, event: int, stream: int) -> None:
        """cudaStreamWaitEvent."""
        self._checked("cudaStreamWaitEvent", stream, event, self._runtime.cudaEventWaitDefault)

    def passed(self, event: int) -> bool:
        """cudaEventQuery."""
        return self._ended("cudaEventQuery", event)

    def milliseconds(self, start: int, end: int) -> float:
        """cudaEventElapsedTime."""
        return float(self._checked("cudaEventElapsedTime", start, end))

    def begin_capture(self, stream: int) -> None:
        """cudaStreamBeginCapture, which leaves the other threads their freedom."""
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        if not NO_CAPTURE.acquire(timeout=_PATIENCE):
            raise EngineError("nothing is captured while another thread waits for a device; see whether its work ends")
        try:
            self._checked("cudaStreamBeginCapture", stream, mode)
        except BaseException:
            NO_CAPTURE.release()
            raise

    def end_capture(self, stream: int) -> int:
        """cudaStreamEndCapture, cudaGraphInstantiate."""
        try:
            template = self._checked("cudaStreamEndCapture", stream)
        finally:
            NO_CAPTURE.release()
        try:
            return int(self._checked("cudaGraphInstantiate", template, 0))
        finally:
            self._checked("cudaGraphDestroy", template)

    def launch(self, graph: int, stream: int) -> None:
        """cudaGraphLaunch."""
        self._checked("cudaGraphLaunch", graph, stream)

    def destroy_graph(self, graph: int) -> None:
        """cudaGraphExecDestroy."""
        self._checked("cudaGraphExecDestroy", graph)

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
