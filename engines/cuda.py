"""The calls of the CUDA runtime that a runner needs, each checked. The only file that imports cuda-bindings, late.

Addresses and handles are plain integers, sizes are bytes. What is enqueued must live until its stream is synchronized.
"""

import threading
from typing import Any, Protocol

from exporter.errors import EngineError

from .device_array import DeviceArray, borrow

NO_CAPTURE = threading.Lock()  # who waits for a whole device holds it: CUDA forbids that while any stream is captured

_SIZED = ("cudaMalloc", "cudaHostAlloc")


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
        """The address of host memory that is locked in place, so that the device copies it by itself."""

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

    def synchronize(self, stream: int) -> None:
        """Wait for everything enqueued on a stream."""

    def synchronize_device(self) -> None:
        """Wait for everything enqueued by anyone on any stream of the device."""

    def create_event(self) -> int:
        """A new event that keeps the time."""

    def destroy_event(self, event: int) -> None:
        """Give an event back."""

    def record(self, event: int, stream: int, *, captured: bool) -> None:
        """Enqueue the taking of the time; `captured`: at every launch of the graph that is being captured."""

    def milliseconds(self, start: int, end: int) -> float:
        """The time between two events that have both come to pass."""

    def begin_capture(self, stream: int) -> None:
        """From now on, what this thread enqueues on a stream becomes a graph, and does not run."""

    def end_capture(self, stream: int) -> int:
        """The graph, ready to launch. The stream is its old self again, however this ends."""

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
        """cudaHostAlloc."""
        return int(self._checked("cudaHostAlloc", size, self._runtime.cudaHostAllocDefault))

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

    def synchronize(self, stream: int) -> None:
        """cudaStreamSynchronize."""
        self._checked("cudaStreamSynchronize", stream)

    def synchronize_device(self) -> None:
        """cudaDeviceSynchronize."""
        with NO_CAPTURE:
            self._checked("cudaDeviceSynchronize")

    def create_event(self) -> int:
        """cudaEventCreateWithFlags."""
        return int(self._checked("cudaEventCreateWithFlags", self._runtime.cudaEventDefault))

    def destroy_event(self, event: int) -> None:
        """cudaEventDestroy."""
        self._checked("cudaEventDestroy", event)

    def record(self, event: int, stream: int, *, captured: bool) -> None:
        """cudaEventRecordWithFlags. Only an external event of a graph has a time that can be asked for."""
        flag = self._runtime.cudaEventRecordExternal if captured else self._runtime.cudaEventRecordDefault
        self._checked("cudaEventRecordWithFlags", event, stream, flag)

    def milliseconds(self, start: int, end: int) -> float:
        """cudaEventElapsedTime."""
        return float(self._checked("cudaEventElapsedTime", start, end))

    def begin_capture(self, stream: int) -> None:
        """cudaStreamBeginCapture, which leaves the other threads their freedom."""
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        NO_CAPTURE.acquire()
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

    def _words(self, call: str, arguments: tuple[Any, ...], error: Any) -> str:
        if error == self._runtime.cudaError_t.cudaErrorMemoryAllocation:
            what = f"{call} of {arguments[0]} bytes" if call in _SIZED else call
            memory = "page-locked host memory" if call == "cudaHostAlloc" else "GPU memory"
            return f"out of {memory} ({what}); free some, or run a smaller batch"
        words = self._runtime.cudaGetErrorString(error)[1].decode()
        return f"CUDA failed ({call}: {words}); see whether nvidia-smi runs and the driver is recent"
