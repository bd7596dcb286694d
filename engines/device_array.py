"""Arrays in GPU memory: a caller's, taken without a copy, and a runner's, given without one.

The only file that imports cuda-core, and late. It speaks DLPack and the CUDA array interface both ways, in all their
versions, and has producer and consumer wait for one another; its own arrays need a driver even to be made.
"""

import contextlib
import threading
import weakref
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from exporter.errors import EngineError, one_line

from .runner import on_gpu

if TYPE_CHECKING:
    from .cuda import Cuda

_CUDA = 2  # DLPack's device type


@dataclass(frozen=True, eq=False)
class DeviceArray:
    """An array in GPU memory. torch.from_dlpack, cupy.from_dlpack and the like take it without a copy.

    `address` is its first byte, `device` the GPU's number; `owner` is what keeps the memory. Its contents are complete
    when a runner hands it out: no stream need be waited for.
    """

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    device: int
    owner: object
    c_contiguous: bool = True
    writeable: bool = True

    @property
    def flags(self) -> "DeviceArray":
        """What NumPy calls flags: `c_contiguous` and `writeable`."""
        return self

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "version": 3,
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.address, not self.writeable),
            "strides": None,
            "stream": None,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return (_CUDA, self.device)

    def __dlpack__(self, **wanted: Any) -> Any:
        core, utils = _cuda_core()
        buffer = core.Buffer.from_handle(self.address, self.nbytes, owner=self)
        return utils.StridedMemoryView.from_buffer(buffer, self.shape, dtype=self.dtype).__dlpack__(**wanted)


def borrow(array: Any, stream: int) -> DeviceArray:
    """A caller's array, which has DLPack or the CUDA array interface; `stream` waits for what is still to write it.

    Raises EngineError where the array has neither, is not in GPU memory, or its producer refuses.
    """
    if isinstance(array, DeviceArray):
        return array
    kind = type(array).__name__
    if not on_gpu(array):
        raise EngineError(f"a {kind} that is not in GPU memory, wanted a NumPy array or a CUDA tensor; np.asarray it")
    _, utils = _cuda_core()
    try:
        view = utils.StridedMemoryView.from_any_interface(array, stream_ptr=stream)
        shape, dtype = tuple(view.shape), view.dtype
    except Exception as error:  # the producer's own, of any class
        raise EngineError(f"a {kind} cannot be taken as a GPU array ({one_line(error)}); give a plain tensor") from None
    if dtype is None:
        raise EngineError(f"a {kind} of a type that NumPy does not know; cast it to the network's")
    return DeviceArray(
        address=int(view.ptr),
        shape=shape,
        dtype=dtype,
        device=int(view.device_id),
        owner=view,
        c_contiguous=_contiguous(shape, view.strides),
        writeable=not view.readonly,
    )


class Block:
    """Some device memory, the pool's again when nothing refers to this object any more."""

    __slots__ = ("__weakref__", "address")

    def __init__(self, address: int) -> None:
        self.address = address


class Blocks:
    """Device memory for results that callers keep as long as they like, and that is used again after that.

    A caller may drop an array while its own work, still enqueued, reads it. Before memory is used for a second time,
    the whole device is waited for, as cudaFree would do. From any thread.
    """

    def __init__(self, cuda: "Cuda") -> None:
        self._cuda, self._lock, self._closed = cuda, threading.Lock(), False
        self._returned: deque[tuple[int, int]] = deque()  # appended to by the garbage collector, which takes no lock
        self._free: dict[int, list[int]] = {}

    def take(self, size: int) -> Block:
        """At least `size` bytes, a power of two. Raises EngineError where the GPU has not that much."""
        size = 1 << max(8, (size - 1).bit_length())  # few sizes, so that blocks are found again at other batches
        with self._lock:
            free = self._free.setdefault(size, [])
            if not free and self._returned:
                waited_for = len(self._returned)
                self._cuda.synchronize_device()
                for _ in range(waited_for):  # not those that came meanwhile
                    address, length = self._returned.popleft()
                    self._free.setdefault(length, []).append(address)
            block = Block(free.pop() if free else self._cuda.allocate(size))
        weakref.finalize(block, self._give, block.address, size).atexit = False
        return block

    def close(self) -> None:
        """Free what is not in use; what is, is freed when its caller drops it."""
        with self._lock:
            self._closed = True
            free, self._free = [address for some in self._free.values() for address in some], {}
            for address in free:
                self._cuda.free(address)
        self._free_returned()

    def _give(self, address: int, size: int) -> None:
        self._returned.append((address, size))
        if self._closed:
            with contextlib.suppress(EngineError):  # nobody is there to hear it
                self._free_returned()

    def _free_returned(self) -> None:
        while True:
            try:
                address, _ = self._returned.popleft()
            except IndexError:
                return
            self._cuda.free(address)


def _contiguous(shape: tuple[int, ...], strides: tuple[int, ...] | None) -> bool:
    """Whether elements with these strides, counted in elements, lie row after row without a gap; None says so."""
    wanted = 1
    for size, stride in zip(reversed(shape), reversed(strides or ()), strict=False):
        if size != 1 and stride != wanted:
            return False
        wanted *= size
    return True


def _cuda_core() -> tuple[Any, Any]:
    try:
        import cuda.core as core
        import cuda.core.utils as utils
    except ImportError as error:
        raise EngineError(f"cuda-core cannot be imported ({error}); pip install 'plainconv[gpu]'") from None
    return core, utils
