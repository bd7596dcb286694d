"""The calls of the CUDA runtime that a runner needs, each checked. The only file that imports cuda-bindings, late."""

from typing import Any, Protocol

from exporter.errors import EngineError

from .runner import Array


class Cuda(Protocol):
    """Device memory, streams and copies. Addresses are plain integers, a stream is what the runtime calls one."""

    def allocate(self, size: int) -> int:
        """The address of `size` bytes of device memory."""

    def free(self, address: int) -> None:
        """Give device memory back."""

    def create_stream(self) -> int:
        """The handle of a new stream."""

    def destroy_stream(self, stream: int) -> None:
        """Give a stream back."""

    def copy_to_device(self, address: int, array: Array, stream: int) -> None:
        """Enqueue a copy of `array`, which must live until the stream is synchronized."""

    def copy_to_host(self, array: Array, address: int, stream: int) -> None:
        """Enqueue a copy into `array`, which must live until the stream is synchronized."""

    def synchronize(self, stream: int) -> None:
        """Wait for everything enqueued."""


class CudaRuntime:
    """`Cuda` by way of cuda-bindings."""

    def __init__(self) -> None:
        """Import cuda-bindings. Raises EngineError where it is not installed."""
        try:
            from cuda.bindings import runtime
        except ImportError as error:
            raise EngineError(f"cuda-bindings cannot be imported ({error}); pip install 'plainconv[gpu]'") from None
        self._runtime: Any = runtime

    def allocate(self, size: int) -> int:
        """cudaMalloc."""
        return int(self._checked("cudaMalloc", size))

    def free(self, address: int) -> None:
        """cudaFree."""
        self._checked("cudaFree", address)

    def create_stream(self) -> int:
        """cudaStreamCreateWithFlags, apart from the default stream, which would wait for everyone else's work."""
        return int(self._checked("cudaStreamCreateWithFlags", self._runtime.cudaStreamNonBlocking))

    def destroy_stream(self, stream: int) -> None:
        """cudaStreamDestroy."""
        self._checked("cudaStreamDestroy", stream)

    def copy_to_device(self, address: int, array: Array, stream: int) -> None:
        """cudaMemcpyAsync, host to device."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._checked("cudaMemcpyAsync", address, array.ctypes.data, array.nbytes, kind, stream)

    def copy_to_host(self, array: Array, address: int, stream: int) -> None:
        """cudaMemcpyAsync, device to host."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._checked("cudaMemcpyAsync", array.ctypes.data, address, array.nbytes, kind, stream)

    def synchronize(self, stream: int) -> None:
        """cudaStreamSynchronize."""
        self._checked("cudaStreamSynchronize", stream)

    def _checked(self, call: str, *arguments: Any) -> Any:
        error, *values = getattr(self._runtime, call)(*arguments)
        if error == self._runtime.cudaError_t.cudaErrorMemoryAllocation:
            raise EngineError(f"out of GPU memory ({call} of {arguments[0]} bytes); free some, or run a smaller batch")
        if error != self._runtime.cudaError_t.cudaSuccess:
            words = self._runtime.cudaGetErrorString(error)[1].decode()
            raise EngineError(f"CUDA failed ({call}: {words}); see whether nvidia-smi runs and the driver is recent")
        return values[0] if values else None
