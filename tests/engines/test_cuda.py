"""Calls of the CUDA runtime, against a stand-in for cuda-bindings."""

import enum
import sys
import types

import numpy as np
import pytest

from engines.cuda import CudaRuntime
from exporter.errors import EngineError


class Error(enum.IntEnum):
    cudaSuccess = 0  # noqa: N815
    cudaErrorMemoryAllocation = 2  # noqa: N815
    cudaErrorInsufficientDriver = 35  # noqa: N815


class Kind(enum.IntEnum):
    cudaMemcpyHostToDevice = 1  # noqa: N815
    cudaMemcpyDeviceToHost = 2  # noqa: N815


class Bindings(types.ModuleType):
    """`cuda.bindings.runtime`, which answers (error, value) to every call and writes them down."""

    cudaError_t, cudaMemcpyKind, cudaStreamNonBlocking = Error, Kind, 1  # noqa: N815

    def __init__(self):
        super().__init__("runtime")
        self.calls, self.error = [], Error.cudaSuccess

    def __getattr__(self, call):
        if not call.startswith("cuda"):
            raise AttributeError(call)

        def answer(*arguments):
            if call == "cudaGetErrorString":
                return Error.cudaSuccess, b"CUDA driver version is insufficient"
            self.calls.append((call, *arguments))
            if self.error:
                return (self.error, None)
            return (Error.cudaSuccess, 4096) if call in ("cudaMalloc", "cudaStreamCreateWithFlags") else (Error(0),)

        return answer


@pytest.fixture
def bindings(monkeypatch):
    fake = Bindings()
    package = types.ModuleType("cuda.bindings")
    package.runtime = fake
    monkeypatch.setitem(sys.modules, "cuda", types.ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.bindings", package)
    return fake


def test_calls(bindings):
    """Given each operation -> the call of the runtime, with its arguments in their order."""
    cuda, array = CudaRuntime(), np.zeros(3, np.float32)
    here = array.ctypes.data

    assert cuda.allocate(12) == 4096 and cuda.create_stream() == 4096
    cuda.copy_to_device(64, array, 7)
    cuda.copy_to_host(array, 64, 7)
    cuda.synchronize(7)
    cuda.free(64)
    cuda.destroy_stream(7)
    assert bindings.calls == [
        ("cudaMalloc", 12),
        ("cudaStreamCreateWithFlags", 1),
        ("cudaMemcpyAsync", 64, here, 12, Kind.cudaMemcpyHostToDevice, 7),
        ("cudaMemcpyAsync", here, 64, 12, Kind.cudaMemcpyDeviceToHost, 7),
        ("cudaStreamSynchronize", 7),
        ("cudaFree", 64),
        ("cudaStreamDestroy", 7),
    ]


def test_errors_are_one_line(bindings):
    cuda = CudaRuntime()
    bindings.error = Error.cudaErrorMemoryAllocation
    with pytest.raises(EngineError, match=r"out of GPU memory \(cudaMalloc of 99 bytes\); free some"):
        cuda.allocate(99)
    bindings.error = Error.cudaErrorInsufficientDriver
    with pytest.raises(
        EngineError, match=r"CUDA failed \(cudaStreamSynchronize: CUDA driver version is insufficient\)"
    ):
        cuda.synchronize(7)


def test_bindings_that_are_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda", None)
    with pytest.raises(EngineError, match=r"cuda-bindings cannot be imported .*; pip install 'plainconv\[gpu\]'"):
        CudaRuntime()
