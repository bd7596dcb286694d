"""Which runtimes there are, and which one builds."""

import subprocess
import sys

import pytest
from places import ROOT

from plainconv.engines import backend
from plainconv.engines.cuda.gpu import Gpu
from plainconv.exporter.errors import EngineError


def machine(monkeypatch, *installed, gpu=False):
    """A machine with these runtimes, with or without a GPU."""
    monkeypatch.setattr(backend, "_version", lambda module, *_: "9.9" if module in installed else "")

    def find_gpu(number=0):
        if not gpu:
            raise EngineError("no NVIDIA driver on this machine")
        return Gpu("A100", "sm80", 2**30)

    monkeypatch.setattr(backend, "find_gpu", find_gpu)


@pytest.mark.parametrize(
    ("installed", "gpu", "chosen"),
    [
        (("tensorrt", "tensorrt_rtx"), True, "tensorrt"),
        (("tensorrt", "tensorrt_rtx"), False, "tensorrt_rtx"),
        (("tensorrt_rtx",), True, "tensorrt_rtx"),
        (("tensorrt_rtx",), False, "tensorrt_rtx"),
        (("tensorrt",), True, "tensorrt"),
    ],
)
def test_auto(monkeypatch, installed, gpu, chosen):
    """Given what is installed -> TensorRT where it is there with a GPU, else TensorRT-RTX."""
    machine(monkeypatch, *installed, "onnxruntime", gpu=gpu)
    assert backend.choose("auto").name == chosen
    assert [b.name for b in backend.available()] == [*installed, "onnxruntime"]


def test_auto_where_nothing_builds(monkeypatch):
    """Given no TensorRT-RTX -> one line that says what to install, and how to go without."""
    machine(monkeypatch, "onnxruntime")
    with pytest.raises(EngineError, match="pip install tensorrt-rtx, or give --engine none"):
        backend.choose("auto")


@pytest.mark.parametrize(
    ("installed", "gpu", "engine", "message"),
    [
        ((), True, "tensorrt", r"tensorrt cannot build an engine here: it is not installed; pip install .plainconv"),
        (("tensorrt",), False, "tensorrt", "tensorrt cannot build an engine here: no NVIDIA driver"),
        ((), False, "tensorrt_rtx", "it is not installed; pip install tensorrt-rtx"),
        (("onnxruntime",), False, "onnxruntime", "unknown engine 'onnxruntime'; wanted one of auto, tensorrt, tens"),
        ((), False, "TensorRT", "unknown engine 'TensorRT'"),
    ],
)
def test_engine_that_is_not_there(monkeypatch, installed, gpu, engine, message):
    machine(monkeypatch, *installed, gpu=gpu)
    with pytest.raises(EngineError, match=message):
        backend.choose(engine)


def test_none_is_no_engine():
    assert backend.choose("none") is None


def test_versions_are_those_installed():
    """Given this environment -> ONNX Runtime by the version it has itself."""
    import onnxruntime

    assert {b.name: b.version for b in backend.available()}["onnxruntime"] == onnxruntime.__version__


def test_asking_imports_nothing_heavy():
    """Given `import engines` and every question it answers -> no runtime is imported, nor torch, nor onnx."""
    code = """
import sys
from plainconv import engines
from plainconv.engines import backend
engines.available()
backend.choose("tensorrt_rtx")
heavy = {"torch", "onnx", "onnxruntime", "tensorrt", "tensorrt_rtx", "cuda", "rich"} & set(sys.modules)
sys.exit(", ".join(heavy) or 0)
"""
    root = ROOT
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
