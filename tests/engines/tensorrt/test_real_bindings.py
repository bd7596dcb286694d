"""TensorRT-RTX's real Python bindings on a stand-in library: `test_loaded.py` once more, in a process of its own.

The bindings then hold and destroy what they hold and destroy; a breach of the runtime's rules ends the process.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT
from standin_library.build import build, compiler


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    pytest.importorskip("tensorrt_rtx", reason="the bindings of tensorrt-rtx are not installed")
    if sys.platform != "linux" or compiler() is None:
        pytest.skip("no C++ compiler (g++, clang++) to build the stand-in library with")
    return build(tmp_path_factory.mktemp("library"))


def run(library, *command):
    paths = [str(library), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "STANDIN_LIBRARY": str(library), "PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=250
    )


def test_engines_under_the_real_bindings(library):
    """Given engines whole and in parts, on several GPUs, of fixed and open shapes -> all that `test_loaded.py` says."""
    ran = run(library, "-m", "pytest", "tests/engines/tensorrt/test_loaded.py", "-p", "no:xdist", "-s")
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    assert "passed" in ran.stdout.splitlines()[-1] or "..." in ran.stdout


BREACH = """
import sys
from pathlib import Path
sys.path[:0] = ["tests/helpers"]
import standin_cuda, standin_tensorrt, tensorrt_rtx as trt
from standin_library.glue import Library
from pathlib import Path
device = standin_cuda.Device()
library = Library(device, "VALID", 0)
class Log(trt.ILogger):
    def __init__(self):
        trt.ILogger.__init__(self)
    def log(self, severity, text):
        pass
log = Log()
runtime = trt.Runtime(log)
model = standin_tensorrt.make_model(Path(sys.argv[1]) / "m.onnx", batch=1)
engine = runtime.deserialize_cuda_engine(standin_tensorrt.engine_bytes(model))
config = engine.create_runtime_config()
config.set_runtime_cache(config.create_runtime_cache())
context = engine.create_execution_context(config)
"""


def test_cache_that_the_bindings_do_not_keep(library, tmp_path):
    """Given a runtime cache that is handed over and forgotten -> the bindings have destroyed it: the process ends."""
    ran = run(library, "-c", BREACH, str(tmp_path))
    assert ran.returncode == 70 and "the runtime cache is gone" in ran.stderr, ran.stderr


NUMBERS = """
import re, tensorrt_rtx as trt
from pathlib import Path
header = Path("engines/cpp/tests/standin/include/NvInferRuntime.h").read_text()
for name, values in re.findall(r"enum class (\\w+) : std::int32_t {([^}]*)}", header):
    if hasattr(trt, name):
        found = {"k" + each: value.value for each, value in getattr(trt, name).__members__.items()}
        assert list(enumerate(re.findall(r"\\w+", values))) == [(n, each) for each, n in found.items()], (name, found)
        print(name)
"""


def test_numbers_of_the_headers_that_c_plus_plus_is_tested_with(library):
    """Given TensorRT-RTX's real bindings -> each enumeration of our own headers has their names and numbers."""
    ran = run(library, "-c", NUMBERS)
    assert ran.returncode == 0, ran.stderr
    wanted = {"CudaGraphStrategy", "DynamicShapesKernelSpecializationStrategy", "EngineValidity"}
    assert wanted <= set(ran.stdout.split())


def bindings_of_tensorrt():
    """The `tensorrt.so` of each of TensorRT's own bindings at hand: installed, or below the folders named."""
    installed = importlib.util.find_spec("tensorrt_bindings")
    places = [*(installed.submodule_search_locations if installed else ())]
    places += filter(None, os.environ.get("TENSORRT_BINDINGS", "").split(os.pathsep))
    return [file for place in places for file in Path(place).rglob("tensorrt.so")]


def test_tensorrts_own_bindings_have_what_is_called(tmp_path):
    """Given the bindings of TensorRT 10 or 11, which install without their libraries -> every name that we call."""
    found = bindings_of_tensorrt()
    if not found or compiler() is None or shutil.which("readelf") is None:
        pytest.skip("no tensorrt_cu*_bindings installed, or in $TENSORRT_BINDINGS; or no compiler and binutils")
    for at, file in enumerate(found):
        (tmp_path / str(at)).mkdir()
        command = [sys.executable, "tests/helpers/standin_library/names.py", str(file), str(tmp_path / str(at))]
        ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert (ran.returncode, ran.stdout) == (0, ""), f"{file}: {ran.stdout}{ran.stderr}"
