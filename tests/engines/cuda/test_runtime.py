"""Calls of the CUDA runtime, against a stand-in for cuda-bindings."""

import enum
import importlib
import inspect
import sys
import threading
import types

import pytest

from plainconv.engines.cuda import runtime as cuda_file
from plainconv.engines.cuda.runtime import NO_CAPTURE, Cuda, CudaRuntime
from plainconv.exporter.errors import EngineError

HANDLE = 4096
GIVES_A_VALUE = {
    "cudaGetDevice",
    "cudaMalloc",
    "cudaHostAlloc",
    "cudaStreamCreateWithFlags",
    "cudaStreamEndCapture",
    "cudaEventCreateWithFlags",
    "cudaEventElapsedTime",
    "cudaGraphInstantiate",
    "cudaDeviceCanAccessPeer",
}


class Error(enum.IntEnum):
    cudaSuccess = 0  # noqa: N815
    cudaErrorMemoryAllocation = 2  # noqa: N815
    cudaErrorInsufficientDriver = 35  # noqa: N815
    cudaErrorNotReady = 600  # noqa: N815
    cudaErrorPeerAccessAlreadyEnabled = 704  # noqa: N815


class Kind(enum.IntEnum):
    cudaMemcpyHostToDevice = 1  # noqa: N815
    cudaMemcpyDeviceToHost = 2  # noqa: N815


class Mode(enum.IntEnum):
    cudaStreamCaptureModeThreadLocal = 1  # noqa: N815


class Bindings(types.ModuleType):
    """`cuda.bindings.runtime`, which answers (error, value) to every call and writes them down."""

    cudaError_t, cudaMemcpyKind, cudaStreamCaptureMode = Error, Kind, Mode  # noqa: N815
    cudaStreamNonBlocking, cudaHostAllocPortable, cudaEventDefault = 1, 1, 0  # noqa: N815
    cudaEventDisableTiming, cudaEventWaitDefault = 2, 0  # noqa: N815
    cudaEventRecordDefault, cudaEventRecordExternal = 0, 1  # noqa: N815

    def __init__(self):
        super().__init__("runtime")
        self.calls, self.errors = [], {}

    def __getattr__(self, call):
        if not call.startswith("cuda"):
            raise AttributeError(call)

        def answer(*arguments):
            if call == "cudaGetErrorString":
                return Error.cudaSuccess, b"CUDA driver version is insufficient"
            self.calls.append((call, *arguments))
            error = self.errors.get(call, Error.cudaSuccess)
            return (error, None if error else HANDLE) if call in GIVES_A_VALUE else (error,)

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
    cuda = CudaRuntime()

    assert cuda.device() == cuda.allocate(12) == cuda.allocate_host(12) == cuda.create_stream() == HANDLE
    cuda.use_device(1)
    cuda.copy_to_device(64, 128, 12, 7)
    cuda.copy_to_host(128, 64, 12, 7)
    cuda.synchronize(7)
    cuda.synchronize_device()
    cuda.free(64)
    cuda.free_host(128)
    cuda.destroy_stream(7)
    assert bindings.calls == [
        ("cudaGetDevice",),
        ("cudaMalloc", 12),
        ("cudaHostAlloc", 12, 1),
        ("cudaStreamCreateWithFlags", 1),
        ("cudaSetDevice", 1),
        ("cudaMemcpyAsync", 64, 128, 12, Kind.cudaMemcpyHostToDevice, 7),
        ("cudaMemcpyAsync", 128, 64, 12, Kind.cudaMemcpyDeviceToHost, 7),
        ("cudaStreamSynchronize", 7),
        ("cudaDeviceSynchronize",),
        ("cudaFree", 64),
        ("cudaFreeHost", 128),
        ("cudaStreamDestroy", 7),
    ]


def test_events_and_graphs(bindings):
    """Given a capture with a timed event in it -> a graph of this thread's calls, whose template is given back."""
    cuda = CudaRuntime()

    assert cuda.create_event() == HANDLE
    cuda.begin_capture(7)
    cuda.record(5, 7, captured=True)
    assert cuda.end_capture(7) == HANDLE
    cuda.record(5, 7, captured=False)
    cuda.launch(9, 7)
    assert cuda.milliseconds(5, 6) == HANDLE
    cuda.destroy_graph(9)
    cuda.destroy_event(5)
    assert bindings.calls == [
        ("cudaEventCreateWithFlags", 0),
        ("cudaStreamBeginCapture", 7, Mode.cudaStreamCaptureModeThreadLocal),
        ("cudaEventRecordWithFlags", 5, 7, 1),
        ("cudaStreamEndCapture", 7),
        ("cudaGraphInstantiate", HANDLE, 0),
        ("cudaGraphDestroy", HANDLE),
        ("cudaEventRecordWithFlags", 5, 7, 0),
        ("cudaGraphLaunch", 9, 7),
        ("cudaEventElapsedTime", 5, 6),
        ("cudaGraphExecDestroy", 9),
        ("cudaEventDestroy", 5),
    ]


def test_several_devices(bindings):
    """Given what streams of several devices need of one another -> the call of the runtime, arguments in its order."""
    cuda = CudaRuntime()

    assert cuda.create_event(timed=False) == HANDLE
    cuda.mark(5, 7)
    cuda.wait_for(5, 8)
    assert cuda.can_reach(0, 1)
    cuda.reach(1)
    cuda.copy_to_peer(64, 1, 128, 0, 12, 7)
    assert cuda.idle(7) and cuda.passed(5)
    assert bindings.calls == [
        ("cudaEventCreateWithFlags", 2),
        ("cudaEventRecord", 5, 7),
        ("cudaStreamWaitEvent", 8, 5, 0),
        ("cudaDeviceCanAccessPeer", 0, 1),
        ("cudaDeviceEnablePeerAccess", 1, 0),
        ("cudaMemcpyPeerAsync", 64, 1, 128, 0, 12, 7),
        ("cudaStreamQuery", 7),
        ("cudaEventQuery", 5),
    ]


@pytest.mark.parametrize("call", ["cudaStreamQuery", "cudaEventQuery"])
def test_what_is_not_ready_is_no_error(bindings, call):
    """Given work that has not ended -> False, and CUDA is made to forget that it said so; any other answer raises."""
    cuda = CudaRuntime()
    ask = cuda.idle if call == "cudaStreamQuery" else cuda.passed
    bindings.errors[call] = Error.cudaErrorNotReady
    assert ask(7) is False
    assert bindings.calls == [(call, 7), ("cudaGetLastError",)]
    bindings.errors[call] = Error.cudaErrorInsufficientDriver
    with pytest.raises(EngineError, match=rf"CUDA failed \({call}: "):
        ask(7)


def test_peer_access_that_is_enabled_already(bindings):
    """Given access that someone has enabled before -> no error, and CUDA is made to forget it; any other raises."""
    cuda = CudaRuntime()
    bindings.errors["cudaDeviceEnablePeerAccess"] = Error.cudaErrorPeerAccessAlreadyEnabled
    cuda.reach(1)
    assert bindings.calls[-1] == ("cudaGetLastError",)
    bindings.errors["cudaDeviceEnablePeerAccess"] = Error.cudaErrorInsufficientDriver
    with pytest.raises(EngineError, match=r"CUDA failed \(cudaDeviceEnablePeerAccess: "):
        cuda.reach(1)


@pytest.mark.parametrize("fails", ["cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiate"])
def test_capture_that_fails(bindings, fails):
    """Given a capture that fails at any step -> one line; others may wait for the device again; no template stays."""
    cuda = CudaRuntime()
    bindings.errors[fails] = Error.cudaErrorInsufficientDriver
    with pytest.raises(EngineError, match=rf"CUDA failed \({fails}: "):
        cuda.begin_capture(7)
        cuda.end_capture(7)
    assert not NO_CAPTURE.locked()
    assert (("cudaGraphDestroy", HANDLE) in bindings.calls) == (fails == "cudaGraphInstantiate")


def test_nobody_waits_for_the_device_during_a_capture(bindings):
    """Given a capture in this thread -> another thread's wait for the whole device comes after it."""
    cuda = CudaRuntime()
    cuda.begin_capture(7)
    thread = threading.Thread(target=cuda.synchronize_device)
    thread.start()
    thread.join(0.05)
    assert thread.is_alive() and ("cudaDeviceSynchronize",) not in bindings.calls
    cuda.end_capture(7)
    thread.join()
    assert bindings.calls[-1] == ("cudaDeviceSynchronize",)


def test_a_wait_for_the_device_that_never_ends_stops_no_capture(bindings, monkeypatch):
    """Given a thread that waits for the whole device and goes on waiting -> a capture gives up, in one line."""
    monkeypatch.setattr(cuda_file, "_PATIENCE", 0.01)
    cuda = CudaRuntime()
    with NO_CAPTURE, pytest.raises(EngineError, match="nothing is captured while another thread waits for a device"):
        cuda.begin_capture(7)
    assert bindings.calls == []
    cuda.begin_capture(7)
    cuda.end_capture(7)


def test_errors_are_one_line(bindings):
    cuda = CudaRuntime()
    bindings.errors = dict.fromkeys(("cudaMalloc", "cudaHostAlloc", "cudaGraphLaunch"), Error.cudaErrorMemoryAllocation)
    with pytest.raises(EngineError, match=r"out of GPU memory \(cudaMalloc of 99 bytes\); free some"):
        cuda.allocate(99)
    with pytest.raises(EngineError, match=r"out of page-locked host memory \(cudaHostAlloc of 99 bytes\); free some"):
        cuda.allocate_host(99)
    with pytest.raises(EngineError, match=r"out of GPU memory \(cudaGraphLaunch\); free some"):
        cuda.launch(1, 7)
    bindings.errors["cudaStreamSynchronize"] = Error.cudaErrorInsufficientDriver
    with pytest.raises(
        EngineError, match=r"CUDA failed \(cudaStreamSynchronize: CUDA driver version is insufficient\)"
    ):
        cuda.synchronize(7)


def test_bindings_that_are_not_installed(monkeypatch):
    for name in ("cuda", "cuda.bindings"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(EngineError, match=r"cuda-bindings cannot be imported .*; pip install 'plainconv\[gpu\]'"):
        CudaRuntime()


def methods(kind):
    return {name: inspect.signature(member) for name, member in vars(kind).items() if not name.startswith("_")}


def test_protocol(standin_cuda):
    """Given the protocol, the runtime and the tests' double -> the same methods with the same parameters."""
    wanted = {name: list(signature.parameters) for name, signature in methods(Cuda).items()}
    for kind in (CudaRuntime, standin_cuda.Device):
        found = {name: list(inspect.signature(getattr(kind, name)).parameters) for name in wanted}
        assert found == wanted


def test_the_real_bindings_have_what_is_called(bindings, monkeypatch):
    """Given cuda-bindings, where they are installed -> every call gets as far as the driver that is missing."""
    for name in [name for name in sys.modules if name == "cuda" or name.startswith("cuda.")]:
        monkeypatch.delitem(sys.modules, name)
    try:
        real = importlib.import_module("cuda.bindings.runtime")
    except ImportError:
        pytest.skip("cuda-bindings is not installed")
    if real.cudaGetDevice()[0] == real.cudaError_t.cudaSuccess:
        pytest.skip("there is a GPU, on which these made-up handles must not be used")
    cuda = CudaRuntime()
    for name, signature in methods(Cuda).items():
        if name in ("borrow", "end_capture"):
            continue
        arguments = {key: 7 for key in list(signature.parameters)[1:]}
        with pytest.raises(EngineError, match="CUDA failed"):
            getattr(cuda, name)(**arguments)
    assert not NO_CAPTURE.locked()
    with pytest.raises(EngineError, match="CUDA failed"):
        cuda.create_event(timed=False)
    assert hasattr(real, "cudaStreamEndCapture") and hasattr(real, "cudaGraphInstantiate")
    assert hasattr(real, "cudaGetLastError") and hasattr(real.cudaError_t, "cudaErrorPeerAccessAlreadyEnabled")
