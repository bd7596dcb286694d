"""The TensorRT runner on a GPU: the real engine, the real CUDA, and torch's tensors where torch has CUDA."""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from plainconv import engines
from plainconv.engines.options import BuildOptions
from plainconv.exporter.bundle import Bundle, ShapeRange
from plainconv.exporter.errors import EngineError

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the bundle is built, once. Skips where there is nothing to run it with."""
    try:
        engines.find_gpu()
    except EngineError as error:
        pytest.skip(str(error))
    pytest.importorskip("cuda.bindings", reason="cuda-bindings is not installed")
    pytest.importorskip("cuda.core", reason="cuda-core is not installed")
    return tmp_path_factory.mktemp("gpu")


@pytest.fixture
def pair(folder, make):
    """Runners of one model: of an engine for batches 1 to 4, built on the spot for the GPU here, and ONNX Runtime's."""
    bundle = folder / "small"
    if not bundle.exists():
        make.bundle(bundle, batch="batch")
        profile = {"input": ShapeRange((1, 3, 8, 8), (2, 3, 8, 8), (4, 3, 8, 8))}
        engines.build(bundle, options=BuildOptions(profiles=(profile,)))
    backend = Bundle.open(bundle).engines[0].backend
    with engines.load(bundle, backend) as runner, engines.load(bundle, "onnxruntime") as reference:
        yield runner, reference


def test_engine_on_the_gpu(pair):
    """Given host arrays of several batches, again and again -> what ONNX Runtime gives; the overhead is printed."""
    runner, reference = pair
    for seed in range(20):
        inputs = {"input": np.random.default_rng(seed).normal(size=(1 + seed // 5, 3, 8, 8)).astype(np.float32)}
        np.testing.assert_allclose(runner(inputs)["logits"], reference(inputs)["logits"], rtol=1e-4, atol=1e-4)
    stages = runner.stages(inputs)
    assert set(stages) == {"copy in", "compute", "copy out"} and all(ms >= 0 for ms in stages.values())
    started = time.perf_counter()
    for _ in range(200):
        runner(inputs)
    call = 1000 * (time.perf_counter() - started) / 200
    print(f"one call {call:.4f} ms, on the device {stages}, not captured because: {runner.why_not_captured}")


def test_engine_on_the_gpu_by_threads(pair):
    runner, reference = pair
    calls = [
        {"input": np.random.default_rng(seed).normal(size=(1 + seed % 4, 3, 8, 8)).astype(np.float32)}
        for seed in range(100)
    ]
    with ThreadPoolExecutor(4) as pool:
        for inputs, result in zip(calls, pool.map(runner, calls), strict=True):
            wanted = reference(inputs)["logits"]
            np.testing.assert_allclose(result["logits"], wanted, rtol=1e-4, atol=1e-4)


def test_torch_tensors_on_the_gpu(pair):
    """Given CUDA tensors, on a stream of their own -> results that torch takes without a copy, or its own tensor."""
    import torch

    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    runner, reference = pair
    with torch.cuda.stream(torch.cuda.Stream()):
        for seed in range(8):
            x = torch.full((2, 3, 8, 8), 1.0, device="cuda") * seed  # enqueued, likely not done
            given = torch.empty((2, 4, 8, 8), device="cuda")
            wanted = reference({"input": x.cpu().numpy()})["logits"]
            result = runner({"input": x})["logits"]
            taken = torch.from_dlpack(result)
            assert taken.data_ptr() == result.address
            np.testing.assert_allclose(taken.cpu().numpy(), wanted, rtol=1e-4, atol=1e-4)
            assert torch.as_tensor(result, device="cuda").data_ptr() == result.address
            assert runner({"input": x}, {"logits": given})["logits"] is given
            np.testing.assert_allclose(given.cpu().numpy(), wanted, rtol=1e-4, atol=1e-4)
    with pytest.raises(EngineError, match="not contiguous"):
        runner({"input": torch.zeros((2, 8, 8, 3), device="cuda").permute(0, 3, 1, 2)})
