"""Starting ONNX Runtime on a provider, and running on a GPU's: against a double of an ONNX Runtime that has one."""

import importlib.machinery
import sys
import types
import warnings
from dataclasses import dataclass

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
RTX = "NvTensorRTRTXExecutionProvider"


class GpuRuntime(types.ModuleType):
    """An ONNX Runtime for GPUs whose GPU memory is the host's: the CPU computes, and every binding is written down."""

    def __init__(self, starts=(RTX, TENSORRT, CUDA, CPU)):
        super().__init__("onnxruntime")
        self.__version__ = "1.99"
        self.starts, self.asked, self.log, self.plugged = starts, [], [], False

    def get_available_providers(self):
        return [TENSORRT, CUDA, CPU]

    def set_default_logger_severity(self, severity):
        self.severity = severity

    def register_execution_provider_library(self, name, library):
        self.log.append(("register", name, library))
        if library == "broken":
            raise RuntimeError("[ONNXRuntimeError] : 1 : FAIL : Failed to load library: libcuda.so.1 is not there")
        self.plugged = True

    def get_ep_devices(self):
        return [Gpu1(RTX, {"device_id": number}) for number in ("1", "0")] if self.plugged else [Gpu1(CPU, {})]

    class RunOptions:
        def __init__(self):
            self.entries = {}

        def add_run_config_entry(self, key, value):
            self.entries[key] = value

    class OrtValue:
        @staticmethod
        def ortvalue_from_shape_and_type(shape, dtype, device, number):
            assert device == "cuda"
            value = onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, np.dtype(dtype), "cpu", 0)
            return value

    def preload_dlls(self, directory=None):
        print("Failed to load libcublas")
        self.log.append("preload")

    class SessionOptions(onnxruntime.SessionOptions):
        plugged = None

        def add_provider_for_devices(self, devices, options):
            self.plugged = (devices, options)

    def InferenceSession(self, path, settings, providers, enable_fallback):
        assert enable_fallback == 0 and self.severity == 4
        self.asked = providers if settings.plugged is None else [(settings.plugged[0][0].ep_name, *settings.plugged)]
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

    def run_with_iobinding(self, binding, options=None):
        binding.log.append("run" if options is None else ("run", options.entries["gpu_graph_id"]))
        self.session.run_with_iobinding(binding.binding)


@dataclass(frozen=True)
class Gpu1:
    ep_name: str
    ep_options: dict


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

    def bind_ortvalue_input(self, name, value):
        self.binding.bind_ortvalue_input(name, value)

    def bind_ortvalue_output(self, name, value):
        self.binding.bind_ortvalue_output(name, value)

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
    monkeypatch.setattr(under_test, "find_gpu", lambda number=0: Gpu("NVIDIA A100", "sm80", 40 << 30))


@pytest.fixture
def no_gpu(monkeypatch):
    def none(number=0):
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
    with pytest.raises(EngineError, match=r"here has no cuda provider; .*'onnxruntime-gpu\[cuda,cudnn\]'"):
        start(onnx_file, SessionOptions("cuda"))


def test_no_onnxruntime(onnx_file, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(
        EngineError, match=r"ONNX Runtime cannot be imported .*; pip install 'plainconv\[cpu\]', or 'plain"
    ):
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


def test_another_gpu(onnx_file, runtime, gpu, monkeypatch):
    """Given device=2 -> every provider hears of it, arrays are taken and given there, and one of GPU 0 is refused."""
    x = images()
    with OnnxRuntimeRunner(onnx_file, device=2) as runner:
        assert runtime.asked[0][1]["device_id"] == "2"
        y = runner({"input": on_the_gpu(x, 2)})["logits"]
        assert y.device == 2 and ("output", "logits", "cuda", 2, None) in runtime.log
        with pytest.raises(EngineError, match="input input is on GPU 0, this runner on GPU 2; move it there"):
            runner({"input": on_the_gpu(x, 0)})
    start(onnx_file, SessionOptions("tensorrt", tf32=True, device=2))
    assert [options["device_id"] for _, options in runtime.asked[:2]] == ["2", "2"]
    with pytest.raises(EngineError, match="device is -1; wanted the number of a GPU, 0 or more"):
        start(onnx_file, SessionOptions(device=-1))

    class OfAnother:
        def __dlpack_device__(self):
            return (2, 0)

        def __dlpack__(self, **_):
            raise AssertionError("it was asked for on another GPU's stream")

    with (
        OnnxRuntimeRunner(onnx_file, device=2) as runner,
        pytest.raises(EngineError, match="input input is on GPU 0, this runner on GPU 2"),
    ):
        runner({"input": OfAnother()})


@pytest.fixture
def plugin(monkeypatch):
    """The plugin's package; its library loads where it is "fine"."""
    package = types.ModuleType("onnxruntime_ep_nv_tensorrt_rtx")
    package.__spec__ = importlib.machinery.ModuleSpec(package.__name__, None)
    package.library = "fine"
    package.get_library_path = lambda: package.library
    monkeypatch.setitem(sys.modules, package.__name__, package)
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    return package


def test_plugin_provider(onnx_file, runtime, gpu, plugin):
    """Given providers="tensorrt_rtx" -> the plugin is registered, once, and runs on the GPU of the number asked for."""
    for device in (0, 1):
        with OnnxRuntimeRunner(onnx_file, providers="tensorrt_rtx", device=device) as runner:
            assert runner.provider == "tensorrt_rtx"
            assert runner({"input": images()})["logits"].shape == (1, 4, 8, 8)
        ((name, devices, options),) = runtime.asked
        assert (name, options, devices[0].ep_options) == (RTX, {}, {"device_id": str(device)})
    assert [call for call in runtime.log if call[0] == "register"] == [("register", RTX, "fine")]
    with pytest.raises(EngineError, match=r"tensorrt_rtx provider has no GPU 5 \(it has 2\)"):
        start(onnx_file, SessionOptions("tensorrt_rtx", device=5))


def test_plugin_that_does_not_start(onnx_file, runtime, gpu, plugin, monkeypatch):
    """Given a library that does not load, TF32 that nobody allowed, or no plugin -> one line with what to do."""
    plugin.library = "broken"
    wanted = r"tensorrt_rtx provider does not start here \(Failed to load library: libcuda.*\); install a recent NVIDIA"
    with pytest.raises(EngineError, match=wanted):
        start(onnx_file, SessionOptions("tensorrt_rtx"))
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE")
    with pytest.raises(EngineError, match="tensorrt_rtx provider computes in TF32"):
        start(onnx_file, SessionOptions("tensorrt_rtx"))
    monkeypatch.delitem(sys.modules, plugin.__name__)
    with pytest.raises(EngineError, match=r"is not installed; pip install 'plainconv\[ort-rtx\]'"):
        start(onnx_file, SessionOptions("tensorrt_rtx", tf32=True))


def test_cuda_graph(onnx_file, runtime, gpu):
    """Given fixed shapes and `cuda_graph` -> calls on host arrays run by graph 0; others by none."""
    x = images()
    with OnnxRuntimeRunner(onnx_file, cuda_graph=True) as runner:
        assert runtime.asked[0][1]["enable_cuda_graph"] == "1"
        for seed in range(3):
            x = np.random.default_rng(seed).normal(size=(1, 3, 8, 8)).astype(np.float32)
            y = runner({"input": x})["logits"]
            with OnnxRuntimeRunner(onnx_file, providers="cpu") as other:
                wanted = other({"input": x})["logits"]
            np.testing.assert_array_equal(y, wanted)
            assert runtime.log[-1] == ("run", "0")
            np.testing.assert_array_equal(contents(runner({"input": on_the_gpu(x)})["logits"]), wanted)
            assert ("run", "-1") in runtime.log[-3:]
            mine = np.zeros_like(wanted)
            runner({"input": x}, {"logits": mine})
            np.testing.assert_array_equal(mine, wanted)
            assert ("run", "-1") in runtime.log[-3:]
    with pytest.raises(EngineError, match="the runner is closed"):
        runner({"input": x})


def test_cuda_graph_of_open_shapes(tmp_path, make, runtime, gpu):
    path = make.onnx(tmp_path / "open.onnx", batch="batch")
    with pytest.raises(EngineError, match=r"input float32\[batch, 3, 8, 8\] cannot be in a CUDA graph, wanted a fixed"):
        OnnxRuntimeRunner(path, cuda_graph=True)


@pytest.mark.parametrize(
    ("said", "lost"),
    [
        ("CUDA failure 700: an illegal memory access was encountered ; GPU=0", True),
        ("CUDNN failure; CUDA error 719: unspecified launch failure", True),
        ("CUDA failure 2: out of memory ; GPU=0", False),
        ("Got invalid dimensions for input: index 0 Got: 700", False),
    ],
)
def test_gpu_that_is_lost(onnx_file, runtime, gpu, said, lost):
    """Given an error of CUDA that stays -> lost: no later call asks ONNX Runtime; given another, the next runs."""
    with OnnxRuntimeRunner(onnx_file) as runner:

        def fails(names, inputs):
            raise RuntimeError(said)

        works, runner._run = runner._run, fails
        with pytest.raises(EngineError) as raised:
            runner({"input": images()})
        assert runner.lost == lost and ("the runner is lost: GPU 0 failed" in str(raised.value)) == lost
        runner._run = works if not lost else runner._run
        if lost:
            for _ in range(2):
                with pytest.raises(EngineError, match=r"the runner is lost: GPU 0 failed .*; load the bundle again"):
                    runner({"input": images()})
            assert runner.notes[0].startswith("the runner is lost")
        else:
            runner({"input": images()})


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
