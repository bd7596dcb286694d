"""Starting ONNX Runtime on a provider, and running on a GPU's: against a double of an ONNX Runtime that has one."""

import sys
import types
import warnings

import numpy as np
import onnxruntime
import pytest

from plainconv.engines.cuda.device_array import DeviceArray
from plainconv.engines.cuda.gpu import Gpu
from plainconv.engines.onnxruntime import session as under_test
from plainconv.engines.onnxruntime.runner import OnnxRuntimeRunner
from plainconv.engines.onnxruntime.session import SessionOptions, start
from plainconv.exporter.errors import EngineError, PlainconvWarning

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"


class GpuRuntime(types.ModuleType):
    """An ONNX Runtime for GPUs whose GPU memory is the host's: the CPU computes, and every binding is written down."""

    def __init__(self, starts=(TENSORRT, CUDA, CPU)):
        super().__init__("onnxruntime")
        self.__version__, self.SessionOptions = "1.99", onnxruntime.SessionOptions
        self.starts, self.asked, self.log = starts, [], []

    def get_available_providers(self):
        return [TENSORRT, CUDA, CPU]

    def preload_dlls(self, directory=None):
        print("Failed to load libcublas")
        self.log.append("preload")

    def InferenceSession(self, path, settings, providers, enable_fallback):
        assert enable_fallback == 0
        self.asked = providers
        self.spinning = settings.get_session_config_entry("session.intra_op.allow_spinning")
        return GpuSession(self, onnxruntime.InferenceSession(path, settings, providers=[CPU]))


class GpuSession:
    def __init__(self, runtime, session):
        self.runtime, self.session = runtime, session

    def __getattr__(self, name):
        return getattr(self.session, name)

    def get_providers(self):
        names = [p if isinstance(p, str) else p[0] for p in self.runtime.asked]
        return [name for name in names if name in self.runtime.starts]

    def io_binding(self):
        return GpuBinding(self.session.io_binding(), self.runtime.log)

    def run_with_iobinding(self, binding):
        binding.log.append("run")
        self.session.run_with_iobinding(binding.binding)


class GpuBinding:
    def __init__(self, binding, log):
        self.binding, self.log, self.places = binding, log, []

    def bind_input(self, name, device, index, dtype, shape, address):
        self.log.append(("input", name, device, index, address))
        self.binding.bind_input(name, "cpu", 0, dtype, shape, address)

    def bind_output(self, name, device, index=0, dtype=None, shape=None, address=None):
        self.log.append(("output", name, device, index, address))
        self.places.append(device)
        self.binding.bind_output(name, "cpu", 0, dtype, shape, address)

    def synchronize_inputs(self):
        self.log.append("synchronize inputs")

    def synchronize_outputs(self):
        self.log.append("synchronize outputs")

    def get_outputs(self):
        return [GpuValue(v, place) for v, place in zip(self.binding.get_outputs(), self.places, strict=True)]


class GpuValue:
    def __init__(self, value, place):
        self.value, self.place = value, place

    def __getattr__(self, name):
        return getattr(self.value, name)

    def device_name(self):
        return self.place


def on_the_gpu(array, device=0):
    return DeviceArray(array.ctypes.data, array.shape, array.dtype, device, array)


def contents(array):
    """What lies at a DeviceArray's address, which in this double is the host's."""
    import ctypes

    return np.frombuffer(ctypes.string_at(array.address, array.nbytes), array.dtype).reshape(array.shape)


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(under_test, "find_gpu", lambda: Gpu("NVIDIA A100", "sm80", 40 << 30))


@pytest.fixture
def no_gpu(monkeypatch):
    def none():
        raise EngineError("no GPU on this machine; see to it")

    monkeypatch.setattr(under_test, "find_gpu", none)


@pytest.fixture
def runtime(monkeypatch):
    """An ONNX Runtime for GPUs, in the place of the installed one."""
    double = GpuRuntime()
    monkeypatch.setitem(sys.modules, "onnxruntime", double)
    return double


def images():
    return np.random.default_rng(1).normal(size=(1, 3, 8, 8)).astype(np.float32)


def test_auto_takes_cuda(onnx_file, runtime, gpu, capfd):
    """Given a GPU and an ONNX Runtime for it -> CUDA, TF32 off and said so; what its loader prints is kept back."""
    with OnnxRuntimeRunner(onnx_file) as runner:
        assert (runner.provider, runner.tf32) == ("cuda", False)
    cuda = {"device_id": "0", "use_tf32": "0", "cudnn_conv_algo_search": "EXHAUSTIVE"}
    assert runtime.asked == [(CUDA, cuda), CPU]
    assert runtime.spinning == "0"
    assert runtime.log == ["preload"]
    assert capfd.readouterr() == ("", "")


def test_options_of_cuda(onnx_file, runtime, gpu):
    further = {"gpu_mem_limit": "1000000000", "device_id": "0"}
    with OnnxRuntimeRunner(onnx_file, providers="cuda", tf32=True, conv_search="heuristic", options=further) as runner:
        assert runner.tf32
    _, options = runtime.asked[0]
    assert options == {"use_tf32": "1", "cudnn_conv_algo_search": "HEURISTIC", **further}


def test_auto_without_a_gpu(onnx_file, runtime, no_gpu):
    """Given an ONNX Runtime for GPUs and no GPU -> the CPU, without a word and without asking for CUDA."""
    with OnnxRuntimeRunner(onnx_file) as runner:
        assert runner.provider == "cpu"
    assert runtime.asked == [(CPU, {})]
    assert runtime.log == []


def test_cuda_that_does_not_start(onnx_file, runtime, gpu):
    """Given a CUDA provider that ONNX Runtime silently replaces -> an error, or with "auto" a warning and the CPU."""
    runtime.starts = (CPU,)
    with pytest.raises(EngineError, match=r"cuda provider does not start here.*onnxruntime-gpu.*or run on the CPU"):
        OnnxRuntimeRunner(onnx_file, providers="cuda")
    with pytest.warns(PlainconvWarning, match=r"does not start here.*the CPU runs the model; pip install") as warned:
        runner = OnnxRuntimeRunner(onnx_file)
    assert warned[0].filename == __file__
    assert runner.provider == "cpu"
    assert runner({"input": images()})["logits"].shape == (1, 4, 8, 8)


def test_tensorrt(onnx_file, runtime, gpu, monkeypatch):
    """Given the TensorRT provider -> only where TF32 is off or allowed; CUDA runs what it leaves."""
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    with pytest.raises(EngineError, match="NVIDIA_TF32_OVERRIDE=0 before the program starts, or allow tf32"):
        start(onnx_file, SessionOptions("tensorrt"))
    assert start(onnx_file, SessionOptions("tensorrt", tf32=True))[1] == "tensorrt"
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    assert start(onnx_file, SessionOptions("tensorrt", further={"trt_max_workspace_size": "1"}))[1] == "tensorrt"
    (name, options), (second, _), third = runtime.asked
    assert (name, second, third) == (TENSORRT, CUDA, CPU)
    assert options == {"device_id": "0", "trt_max_workspace_size": "1"}


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_provider_without_a_gpu(onnx_file, runtime, no_gpu, provider):
    with pytest.raises(EngineError, match=f"{provider} provider cannot run here: no GPU on this machine"):
        start(onnx_file, SessionOptions(provider))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (SessionOptions("tpu"), "unknown execution provider 'tpu'; wanted one of auto, cpu, cuda, tensorrt"),
        (SessionOptions(threads=-2), "threads is -2; wanted 0"),
        (SessionOptions(conv_search="random"), "unknown search 'random' for convolutions; wanted exhaustive, heur"),
    ],
)
def test_options_that_nothing_has(onnx_file, options, message):
    with pytest.raises(EngineError, match=message):
        start(onnx_file, options)


def test_provider_that_is_not_installed(onnx_file):
    """Given the ONNX Runtime that is installed here, which is the CPU's -> what to install."""
    if CUDA in onnxruntime.get_available_providers():
        pytest.skip("the ONNX Runtime here has CUDA")
    with pytest.raises(EngineError, match=r"here has no cuda provider; .*pip install 'onnxruntime-gpu\[cuda,cudnn\]'"):
        start(onnx_file, SessionOptions("cuda"))


def test_no_onnxruntime(onnx_file, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(EngineError, match=r"ONNX Runtime cannot be imported .*; pip install onnxruntime"):
        start(onnx_file, SessionOptions())


def test_host_arrays_on_a_gpu(onnx_file, runtime, gpu):
    """Given NumPy arrays in and nothing out -> the plain run; ONNX Runtime copies."""
    with OnnxRuntimeRunner(onnx_file) as runner:
        y = runner({"input": images()})["logits"]
    with OnnxRuntimeRunner(onnx_file, providers="cpu") as runner:
        np.testing.assert_array_equal(y, runner({"input": images()})["logits"])
    assert "run" not in runtime.log


def test_gpu_arrays(onnx_file, runtime, gpu):
    """Given a GPU array in -> bound at its address after the device was waited for, and a GPU array comes out."""
    x = images()
    with OnnxRuntimeRunner(onnx_file) as runner:
        wanted = runner({"input": x})["logits"]
        y = runner({"input": on_the_gpu(x)})["logits"]
    assert isinstance(y, DeviceArray)
    assert (y.shape, y.dtype, y.device) == ((1, 4, 8, 8), np.float32, 0)
    np.testing.assert_array_equal(contents(y), wanted)  # its owner keeps the memory of a runner that is closed
    assert runtime.log[1:] == [
        ("input", "input", "cuda", 0, x.ctypes.data),
        ("output", "logits", "cuda", 0, None),
        "synchronize inputs",
        "run",
        "synchronize outputs",
    ]


def test_outputs_on_either_side(onnx_file, runtime, gpu):
    """Given inputs and outputs on the host or the GPU, in all pairs -> written where the caller says."""
    x = images()
    with OnnxRuntimeRunner(onnx_file) as runner:
        wanted = runner({"input": x})["logits"]
        for given in (x, on_the_gpu(x)):
            mine, theirs = np.zeros((2, 1, 4, 8, 8), np.float32)
            assert runner({"input": given}, {"logits": mine})["logits"] is mine
            on_gpu = on_the_gpu(theirs)
            assert runner({"input": given}, {"logits": on_gpu})["logits"] is on_gpu
            assert runtime.log[-4] == ("output", "logits", "cuda", 0, theirs.ctypes.data)
            np.testing.assert_array_equal(mine, wanted)
            np.testing.assert_array_equal(theirs, wanted)


def test_gpu_arrays_that_do_not_fit(onnx_file, runtime, gpu):
    x = images()
    with OnnxRuntimeRunner(onnx_file) as runner:
        with pytest.raises(EngineError, match="input input is on GPU 1, this runner on GPU 0; move it there"):
            runner({"input": on_the_gpu(x, device=1)})
        with pytest.raises(EngineError, match=r"input input has shape \[2, 3, 8, 8\]"):
            runner({"input": on_the_gpu(np.concatenate([x, x]))})
        with pytest.raises(EngineError, match="output logits is on GPU 3"):
            runner({"input": x}, {"logits": on_the_gpu(np.zeros((1, 4, 8, 8), np.float32), device=3)})
        with pytest.raises(EngineError, match=r"output logits is dtype.'float64'., wanted float32"):
            runner({"input": x}, {"logits": on_the_gpu(np.zeros((1, 4, 8, 8)))})
        with pytest.raises(EngineError, match="output logits lies in the memory of input input"):
            wide = np.zeros(512, np.float32)
            y = DeviceArray(wide.ctypes.data + 64, (1, 4, 8, 8), wide.dtype, 0, wide)
            runner({"input": on_the_gpu(wide[:192].reshape(1, 3, 8, 8))}, {"logits": y})


@pytest.mark.gpu
@pytest.mark.skipif(CUDA not in onnxruntime.get_available_providers(), reason="the ONNX Runtime here has no CUDA")
def test_cuda(onnx_file):
    """Given a GPU -> its CUDA provider and the CPU's agree to float32's rounding, TF32 being off."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cuda = OnnxRuntimeRunner(onnx_file, providers="cuda")
    with cuda, OnnxRuntimeRunner(onnx_file, providers="cpu") as cpu:
        y = cpu({"input": images()})["logits"]
        np.testing.assert_allclose(cuda({"input": images()})["logits"], y, rtol=1e-5, atol=1e-5)
        mine = np.empty_like(y)
        cuda({"input": images()}, {"logits": mine})
        np.testing.assert_allclose(mine, y, rtol=1e-5, atol=1e-5)
