"""Which NVIDIA GPUs this machine has, asked of the driver itself: no CUDA package need be installed to know."""

import ctypes
import sys
from dataclasses import dataclass

from plainconv.exporter.errors import EngineError

_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR


@dataclass(frozen=True)
class Gpu:
    """A visible GPU: its name, its compute capability as a target ("sm86"), its memory in bytes."""

    name: str
    target: str
    memory: int


def find_gpu(number: int = 0) -> Gpu:
    """The GPU of that number, in the order of CUDA_VISIBLE_DEVICES; engines run on the first, if not told otherwise.

    Raises EngineError where the machine has no NVIDIA driver, or the driver no such GPU.
    """
    cuda = _driver()
    count = _count(cuda)
    if not 0 <= number < count:
        raise EngineError(f"no GPU {number} on this machine, which has {count}; see to CUDA_VISIBLE_DEVICES")
    device, name = ctypes.c_int(), ctypes.create_string_buffer(256)
    major, minor, memory = ctypes.c_int(), ctypes.c_int(), ctypes.c_size_t()
    _check(cuda, "cuDeviceGet", ctypes.byref(device), number)
    _check(cuda, "cuDeviceGetName", name, len(name), device)
    _check(cuda, "cuDeviceGetAttribute", ctypes.byref(major), _MAJOR, device)
    _check(cuda, "cuDeviceGetAttribute", ctypes.byref(minor), _MINOR, device)
    _check(cuda, "cuDeviceTotalMem_v2", ctypes.byref(memory), device)
    return Gpu(name.value.decode(), f"sm{major.value}{minor.value}", memory.value)


def gpu_count() -> int:
    """How many GPUs are visible, at least one. Raises EngineError where the machine has no NVIDIA driver or no GPU."""
    return _count(_driver())


def _count(cuda: ctypes.CDLL) -> int:
    count = ctypes.c_int()
    _check(cuda, "cuDeviceGetCount", ctypes.byref(count))
    return count.value


def _driver() -> ctypes.CDLL:
    try:
        cuda = ctypes.CDLL(_LIBRARY)
    except OSError:
        raise EngineError(
            f"no NVIDIA driver on this machine ({_LIBRARY} not found); install one, or use ONNX Runtime"
        ) from None
    _check(cuda, "cuInit", 0)
    return cuda


def _check(cuda: ctypes.CDLL, call: str, *arguments: object) -> None:
    code = getattr(cuda, call)(*arguments)
    if code == _NO_DEVICE:
        raise EngineError("no GPU on this machine (the NVIDIA driver sees none); see to CUDA_VISIBLE_DEVICES")
    if code:
        raise EngineError(f"the NVIDIA driver does not answer ({call}: error {code}); see whether nvidia-smi runs")
