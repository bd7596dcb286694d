"""Arrays in GPU memory: a caller's, taken without a copy, and a runner's, given without one.

The only file that imports cuda-core, and late. It speaks DLPack and the CUDA array interface both ways, in all their
versions, and has producer and consumer wait for one another; its own arrays need a driver even to be made.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from plainconv.exporter.errors import EngineError, one_line

from ..runner import on_gpu

DEFAULT_STREAM = 1  # CUDA's handle of the one that waits for the work of all others but those that do not block
_CUDA = 2  # DLPack's device type
_PER_THREAD = 2  # CUDA's handle of each thread's default stream, which the default stream waits for


@dataclass(frozen=True, eq=False)
class DeviceArray:
    """An array in GPU memory. torch.from_dlpack, cupy.from_dlpack and the like take it without a copy.

    `address` is its first byte, `device` the GPU's number; `owner` is what keeps the memory. Its contents are complete
    when a runner hands it out: no stream need be waited for.

    A runner writes the memory again once it is dropped and what was enqueued till then has ended: on the default
    stream, and on those by which DLPack took it (`consumers`). Work on other streams must have ended before.
    """

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    device: int
    owner: object
    c_contiguous: bool = True
    writeable: bool = True
    consumers: set[int] | None = None

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

    def __dlpack__(self, *, stream: int | None = None, **wanted: Any) -> Any:
        core, utils = _cuda_core()
        if self.consumers is not None and stream is not None and stream not in (-1, DEFAULT_STREAM, _PER_THREAD):
            self.consumers.add(int(stream))
        buffer = core.Buffer.from_handle(self.address, self.nbytes, owner=self)
        view = utils.StridedMemoryView.from_buffer(buffer, self.shape, dtype=self.dtype)
        return view.__dlpack__(stream=stream, **wanted)


def gpu_of(array: Any) -> int | None:
    """The number of the GPU that an array says it is on; None where only a look at its memory would tell."""
    if isinstance(array, DeviceArray):
        return array.device
    device = getattr(array, "__dlpack_device__", None)
    return int(device()[1]) if device else None


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
