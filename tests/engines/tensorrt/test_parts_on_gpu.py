"""A split network on GPUs: real engines on the streams of one, and on two where there are two, against the whole."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import split_doubles

from plainconv import engines
from plainconv.engines import schedule
from plainconv.engines.backend import choose
from plainconv.engines.cuda.runtime import CudaRuntime
from plainconv.engines.options import BuildOptions
from plainconv.engines.tensorrt.bindings import import_runtime
from plainconv.engines.tensorrt.build import compile_onnx
from plainconv.engines.tensorrt.builder_progress import interruptible
from plainconv.engines.tensorrt.contexts import contexts_of
from plainconv.engines.tensorrt.kernel_cache import KernelCache
from plainconv.engines.tensorrt.loaded import deserialize
from plainconv.engines.tensorrt.parts import PartEngine
from plainconv.engines.tensorrt.runner import TensorRTRunner
from plainconv.exporter.errors import EngineError

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def gpus():
    """How many there are. Skips where there is nothing to run an engine with."""
    try:
        engines.find_gpu()
    except EngineError as error:
        pytest.skip(str(error))
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")
    pytest.importorskip("cuda.core", reason="cuda-core is not installed")
    return runtime.cudaGetDeviceCount()[1]


@pytest.fixture(scope="module")
def split(gpus, tmp_path_factory):
    """A network in four parts on two devices of two streams; v1 and v4 are its outputs."""
    cut = [([0], 0, 0), ([1], 0, 1), ([2], 1, 0), ([3, 4], 0, 0)]
    return split_doubles.Split(tmp_path_factory.mktemp("gpu") / "split", cut=cut, outputs=("v4", "v1"))


def loaded(split, file, names, device, name=""):
    """The engine of an ONNX file for batches 1 to 4, on a device."""
    backend, cuda, profiles = choose(), CudaRuntime(), (split.profile(1, 4, names),)
    data = bytes(compile_onnx(file, backend, BuildOptions(profiles=profiles, device=device)).data)
    trt = import_runtime(backend)

    def load():
        cuda.use_device(device)
        runtime, engine, _ = deserialize(trt, data, backend.name)
        contexts = contexts_of(trt, engine, fixed=False, cache=KernelCache())
        return PartEngine(name, engine, contexts, device, profiles, runtime)

    return interruptible(load)


@pytest.fixture(params=[(0, 0), (0, 1), (1, 0)], ids=["streams", "two", "swapped"])
def pair(request, split, gpus):
    """Runners of the parts, on devices of this machine, and of the whole, on the first of them."""
    devices = request.param
    if max(devices) >= gpus:
        pytest.skip(f"{gpus} GPU on this machine, wanted {1 + max(devices)}")
    parts = []
    for step, file in zip(split.schedule.steps, split.files, strict=True):
        device = devices[step.place[0]]
        parts.append(loaded(split, file, [spec.name for spec in step.part.inputs], device, step.part.name))
    names = [spec.name for spec in split.inputs]
    facts = {
        "backend": choose().name,
        "precision": "fp32",
        "inputs": split.inputs,
        "outputs": split.outputs,
        "profiles": (split.profile(1, 4, names),),
    }
    alone = [loaded(split, split.whole, names, 0)]
    of_whole = schedule.whole(split.inputs, split.outputs)
    with (
        TensorRTRunner(split.schedule, parts, CudaRuntime(), devices=devices, **facts) as runner,
        TensorRTRunner(of_whole, alone, CudaRuntime(), devices=(0,), **facts) as whole,
    ):
        yield runner, whole


def assert_close(found, wanted):
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-6, atol=1e-6)


def test_parts_on_the_gpu(pair, split):
    """Given host arrays of several batches, again and again -> what the whole engine gives."""
    runner, whole = pair
    for seed in range(24):
        inputs = split.inputs_of(1 + seed // 6, seed)
        assert_close(runner(inputs), whole(inputs))
    print(f"not captured because: {runner.why_not_captured}")


def test_parts_on_the_gpu_by_threads(pair, split):
    runner, whole = pair
    calls = [split.inputs_of(1 + seed % 4, seed) for seed in range(100)]
    with ThreadPoolExecutor(4) as pool:
        for inputs, found in zip(calls, pool.map(runner, calls), strict=True):
            assert_close(found, whole(inputs))


def test_parts_on_torch_tensors(pair, split):
    """Given CUDA tensors on the first device, of a stream of their own -> results that torch takes without a copy."""
    import torch

    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    runner, whole = pair
    device = f"cuda:{runner._device}"
    with torch.cuda.device(device), torch.cuda.stream(torch.cuda.Stream()):
        for seed in range(8):
            inputs = split.inputs_of(2, seed)
            tensors = {name: torch.from_numpy(array).to(device) * 1.0 for name, array in inputs.items()}
            found = {name: torch.from_dlpack(array).cpu().numpy() for name, array in runner(tensors).items()}
            assert_close(found, whole(inputs))
