"""Calls of the CUDA runtime, against a stand-in for cuda-bindings."""

import contextlib
import enum
import importlib
import inspect
import re
import sys
import threading
import types

import pytest
from cuda.bindings import runtime as real_runtime

from plainconv.engines.cuda.runtime import CudaRuntime
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
    "cudaThreadExchangeStreamCaptureMode",
    "cudaStreamIsCapturing",
}


class Error(enum.IntEnum):
    cudaSuccess = 0  # noqa: N815
    cudaErrorMemoryAllocation = 2  # noqa: N815
    cudaErrorInsufficientDriver = 35  # noqa: N815
    cudaErrorNotReady = 600  # noqa: N815
    cudaErrorPeerAccessAlreadyEnabled = 704  # noqa: N815
    cudaErrorStreamCaptureImplicit = 906  # noqa: N815


class Kind(enum.IntEnum):
    cudaMemcpyDefault = 4  # noqa: N815


class Mode(enum.IntEnum):
    cudaStreamCaptureModeThreadLocal = 1  # noqa: N815
    cudaStreamCaptureModeRelaxed = 2  # noqa: N815


class Status(enum.IntEnum):
    cudaStreamCaptureStatusNone = 0  # noqa: N815


class Bindings(types.ModuleType):
    """`cuda.bindings.runtime`, which answers (error, value) to every call and writes them down."""

    cudaError_t, cudaMemcpyKind, cudaStreamCaptureMode = Error, Kind, Mode  # noqa: N815
    cudaStreamCaptureStatus = Status  # noqa: N815
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
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", fake)
    return fake


def test_calls(bindings):
    """Given each operation -> the call of the runtime, with its arguments in their order."""
    cuda = CudaRuntime()

    assert cuda.device() == cuda.create_stream() == HANDLE
    cuda.use_device(1)
    cuda.copy(64, 128, 12, 7)
    cuda.destroy_stream(7)
    assert bindings.calls == [
        ("cudaGetDevice",),
        ("cudaStreamCreateWithFlags", 1),
        ("cudaSetDevice", 1),
        ("cudaMemcpyAsync", 64, 128, 12, Kind.cudaMemcpyDefault, 7),
        ("cudaStreamDestroy", 7),
    ]


@pytest.mark.parametrize("fails", [False, True])
def test_memory_is_asked_for_beside_captures(bindings, fails):
    """Given memory that is taken or given back -> in a mode that no other capture forbids, and no longer."""
    cuda = CudaRuntime()
    for call, ask, arguments in (
        ("cudaMalloc", lambda: cuda.allocate(12), (12,)),
        ("cudaHostAlloc", lambda: cuda.allocate_host(12), (12, 1)),
        ("cudaFree", lambda: cuda.free(64), (64,)),
        ("cudaFreeHost", lambda: cuda.free_host(64), (64,)),
    ):
        bindings.calls.clear()
        bindings.errors = {call: Error.cudaErrorInsufficientDriver} if fails else {}
        with pytest.raises(EngineError) if fails else contextlib.nullcontext():
            ask()
        assert bindings.calls == [
            ("cudaThreadExchangeStreamCaptureMode", Mode.cudaStreamCaptureModeRelaxed),
            (call, *arguments),
            ("cudaThreadExchangeStreamCaptureMode", HANDLE),
        ]


def test_a_thread_chooses_its_device_once(bindings):
    """Given a thread on the device that is wanted, by name -> it is set all the same, once: that makes its context."""
    cuda = CudaRuntime()
    assert cuda.enter(HANDLE) == cuda.enter(HANDLE) == HANDLE
    assert bindings.calls == [("cudaGetDevice",), ("cudaSetDevice", HANDLE), ("cudaGetDevice",)]
    thread = threading.Thread(target=cuda.enter, args=(HANDLE,))
    thread.start()
    thread.join()
    assert bindings.calls[3:] == [("cudaGetDevice",), ("cudaSetDevice", HANDLE)]
    assert cuda.enter(1) == HANDLE and bindings.calls[-1] == ("cudaSetDevice", 1)


def test_whether_a_stream_is_captured(bindings):
    """Given a stream that is captured, or one that no event may be put on as another is -> True; any other error."""
    cuda = CudaRuntime()
    assert cuda.captured(7)  # HANDLE is not the status of none
    bindings.errors["cudaStreamIsCapturing"] = Error.cudaErrorStreamCaptureImplicit
    assert cuda.captured(1) and bindings.calls[-1] == ("cudaGetLastError",)
    bindings.errors["cudaStreamIsCapturing"] = Error.cudaErrorInsufficientDriver
    with pytest.raises(EngineError, match=r"CUDA failed \(cudaStreamIsCapturing: "):
        cuda.captured(7)


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
    assert cuda.idle(7) and cuda.passed(5)
    assert bindings.calls == [
        ("cudaEventCreateWithFlags", 2),
        ("cudaEventRecord", 5, 7),
        ("cudaStreamWaitEvent", 8, 5, 0),
        ("cudaDeviceCanAccessPeer", 0, 1),
        ("cudaDeviceEnablePeerAccess", 1, 0),
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
    """Given a capture that fails at any step -> one line, and no template stays."""
    cuda = CudaRuntime()
    bindings.errors[fails] = Error.cudaErrorInsufficientDriver
    with pytest.raises(EngineError, match=rf"CUDA failed \({fails}: "):
        cuda.begin_capture(7)
        cuda.end_capture(7)
    assert (("cudaGraphDestroy", HANDLE) in bindings.calls) == (fails == "cudaGraphInstantiate")


def test_errors_are_one_line(bindings):
    cuda = CudaRuntime()
    bindings.errors = dict.fromkeys(("cudaMalloc", "cudaHostAlloc", "cudaGraphLaunch"), Error.cudaErrorMemoryAllocation)
    with pytest.raises(EngineError, match=r"out of GPU memory \(cudaMalloc of 99 bytes\); free some"):
        cuda.allocate(99)
    with pytest.raises(EngineError, match=r"out of page-locked host memory \(cudaHostAlloc of 99 bytes\); free some"):
        cuda.allocate_host(99)
    with pytest.raises(EngineError, match=r"out of GPU memory \(cudaGraphLaunch\); free some"):
        cuda.launch(1, 7)
    bindings.errors["cudaEventRecord"] = Error.cudaErrorInsufficientDriver
    with pytest.raises(EngineError, match=r"CUDA failed \(cudaEventRecord: CUDA driver version is insufficient\)"):
        cuda.mark(5, 7)


def test_bindings_that_are_not_installed(monkeypatch):
    for name in ("cuda", "cuda.bindings", "cuda.bindings.runtime"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(EngineError, match=r"cuda-bindings cannot be imported .*; pip install 'plainconv\[gpu\]'"):
        CudaRuntime()


def methods(kind):
    return {name: inspect.signature(member) for name, member in vars(kind).items() if not name.startswith("_")}


def test_the_stand_in_answers_what_is_called(standin_cuda):
    """Given the tests' stand-in for cuda-bindings -> it has each function that the runtime calls."""
    source = inspect.getsource(CudaRuntime)
    called = set(re.findall(r"\bcuda(?:Get|Set|Malloc|Free|Host|Stream|Memcpy|Device|Event|Graph|Thread)\w*", source))
    functions = {name for name in called if inspect.isroutine(getattr(real_runtime, name, None))}
    assert len(functions) > 20 and functions <= set(vars(standin_cuda.Device))


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
    for name, signature in methods(CudaRuntime).items():
        if name in ("borrow", "end_capture"):
            continue
        arguments = {key: 7 for key in list(signature.parameters)[1:]}
        with pytest.raises(EngineError, match="CUDA failed"):
            getattr(cuda, name)(**arguments)
    with pytest.raises(EngineError, match="CUDA failed"):
        cuda.create_event(timed=False)
    assert hasattr(real, "cudaStreamEndCapture") and hasattr(real, "cudaGraphInstantiate")
    assert hasattr(real, "cudaGetLastError") and hasattr(real.cudaError_t, "cudaErrorPeerAccessAlreadyEnabled")
