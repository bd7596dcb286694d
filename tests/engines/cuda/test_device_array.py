"""Arrays in GPU memory: a caller's, by DLPack, and a runner's, with the memory that they share."""

import ctypes
import sys
import types

import numpy as np
import pytest
import torch

from plainconv.engines.cuda.device_array import DeviceArray, borrow, gpu_of
from plainconv.engines.tensorrt.lane import KINDS
from plainconv.exporter.errors import EngineError


class OnGpu:
    """An array of the host whose DLPack capsule says that it is in the memory of a GPU; it has the stream it was given.

    A DLTensor begins with the address of its data, after which come the kind and the number of its device.
    """

    def __init__(self, array, device=0):
        self.array, self.device, self.streams = array, device, []

    def __dlpack_device__(self):
        return (2, self.device)

    def __dlpack__(self, *, stream=None, **_):
        self.streams.append(stream)
        capsule = self.array.__dlpack__()
        pointer = ctypes.pythonapi.PyCapsule_GetPointer
        pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
        kind = ctypes.cast(pointer(capsule, b"dltensor") + 8, ctypes.POINTER(ctypes.c_int32))
        kind[0], kind[1] = 2, self.device
        return capsule


class Refuses:
    def __dlpack_device__(self):
        return (2, 0)

    def __dlpack__(self, **_):
        raise BufferError("no,\nas it needs a gradient")


def cuda_core():
    pytest.importorskip("cuda.core", reason="cuda-core is not installed")


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "bool", "uint8"])
def test_borrowed_by_dlpack(dtype):
    """Given a producer of DLPack -> its address, shape, dtype and device, no copy, and it hears of the stream."""
    cuda_core()
    array = np.ones((2, 3, 4), dtype)
    producer = OnGpu(array, device=1)
    borrowed = borrow(producer, stream=1234)
    assert (borrowed.address, borrowed.shape, borrowed.dtype) == (array.ctypes.data, (2, 3, 4), array.dtype)
    assert borrowed.device == 1 and borrowed.flags.c_contiguous and borrowed.flags.writeable
    assert producer.streams == [1234] and type(borrowed) in KINDS


@pytest.mark.parametrize(
    ("array", "contiguous"),
    [
        (np.zeros((2, 3, 4)), True),
        (np.zeros((2, 3, 4)).transpose(0, 2, 1), False),
        (np.zeros((2, 3, 4))[:, :2], False),
        (np.zeros((2, 3, 4))[:1], True),
        (np.zeros((2, 3, 4))[:, :1], False),
        (np.zeros((1, 5)).T, True),
    ],
)
def test_borrowed_strides(array, contiguous):
    """Given any strides -> whether the elements follow one another as NumPy has it."""
    cuda_core()
    assert array.flags.c_contiguous == contiguous
    assert borrow(OnGpu(array), stream=1).c_contiguous == contiguous


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (torch.zeros(2), "a Tensor that is not in GPU memory, wanted a NumPy array or a CUDA tensor; np.asarray it"),
        ([1.0], "a list that is not in GPU memory"),
        (Refuses(), r"a Refuses cannot be taken as a GPU array \(no, as it needs a gradient\); give a plain tensor"),
    ],
)
def test_what_cannot_be_borrowed(array, message):
    if isinstance(array, Refuses):
        cuda_core()
    with pytest.raises(EngineError, match=message) as raised:
        borrow(array, stream=1)
    assert "\n" not in str(raised.value)


def test_without_cuda_core(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda", None)
    monkeypatch.setitem(sys.modules, "cuda.core", None)
    for ask in (lambda: borrow(OnGpu(np.zeros(2)), 1), lambda: an_array().__dlpack__()):
        with pytest.raises(EngineError, match=r"cuda-core cannot be imported .*; pip install 'plainconv\[gpu\]'"):
            ask()


def an_array(owner=None):
    return DeviceArray(4096, (2, 3), np.dtype("float32"), 1, owner)


def test_interfaces_of_a_device_array():
    """Given a runner's array -> where and what it is, by DLPack and the CUDA array interface; it is its own view."""
    array = an_array()
    assert array.__dlpack_device__() == (2, 1) and array.nbytes == 24
    assert array.__cuda_array_interface__ == {
        "version": 3,
        "shape": (2, 3),
        "typestr": "<f4",
        "data": (4096, False),
        "strides": None,
        "stream": None,
    }
    assert borrow(array, stream=1) is array


def test_dlpack_of_a_device_array(monkeypatch):
    """Given a consumer of DLPack -> a capsule of cuda-core's, which holds the array, asked for as the consumer asks."""
    asked = []

    class View:
        @staticmethod
        def from_buffer(buffer, shape, *, dtype):
            asked.append((buffer, shape, dtype))
            return types.SimpleNamespace(__dlpack__=lambda **wanted: ("capsule", wanted))

    core, utils = types.ModuleType("cuda.core"), types.ModuleType("cuda.core.utils")
    core.Buffer = types.SimpleNamespace(from_handle=lambda *arguments, owner: (*arguments, owner))
    core.utils, utils.StridedMemoryView = utils, View
    package = types.ModuleType("cuda")
    package.core = core
    for name, module in (("cuda", package), ("cuda.core", core), ("cuda.core.utils", utils)):
        monkeypatch.setitem(sys.modules, name, module)
    array = an_array()
    assert array.__dlpack__(stream=1, max_version=(1, 0)) == ("capsule", {"stream": 1, "max_version": (1, 0)})
    assert asked == [((4096, 24, array), (2, 3), np.dtype("float32"))]
    lent = DeviceArray(4096, (2, 3), np.dtype("float32"), 1, None, consumers=set())
    for stream in (None, -1, 1, 2, 77, 78, 77):
        lent.__dlpack__(stream=stream)
    assert lent.consumers == {77, 78}  # the default streams are waited for anyway


def test_gpu_that_an_array_says_it_is_on():
    """Given arrays on GPUs -> their numbers, without a stream; None of one that only its memory would tell of."""
    assert gpu_of(OnGpu(np.zeros(2), device=3)) == 3 and gpu_of(an_array()) == 1
    assert gpu_of(types.SimpleNamespace(__cuda_array_interface__={})) is None
