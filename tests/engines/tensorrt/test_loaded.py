"""Engines of bundles on the GPU that was asked for, and what is said where the runtime objects."""

import gc
import os
from pathlib import Path

import numpy as np
import pytest
import split_doubles
import standin_bundles

from plainconv import engines
from plainconv.engines import BuildOptions
from plainconv.engines.backend import backends
from plainconv.engines.tensorrt.build import compile_onnx
from plainconv.engines.tensorrt.builder_progress import interruptible
from plainconv.engines.tensorrt.loaded import deserialize, loaded
from plainconv.engines.tensorrt.runner import TensorRTRunner
from plainconv.exporter.bundle import Bundle
from plainconv.exporter.errors import EngineError


@pytest.fixture(scope="session")
def diamond(tmp_path_factory):
    """A network in parts for three devices."""
    cut = [([0], 0, 0), ([1], 1, 0), ([2], 2, 0), ([3, 4], 0, 0)]
    return split_doubles.Split(tmp_path_factory.mktemp("diamond") / "diamond", cut=cut)


def test_whole_engine_on_the_gpu_asked_for(tmp_path, on_stand_ins, device, standin_tensorrt, reference):
    """Given device=2 -> the engine is looked at, loaded and run there, from whatever thread; this one's stays 0."""
    trt = on_stand_ins()
    bundle = standin_bundles.whole_bundle(tmp_path / "b")
    for choose in ({"device": 2}, {"devices": [2]}):
        device.calls.clear()
        with engines.load(bundle, **choose) as runner:
            assert [call for call in device.calls if call[0] in ("validity", "deserialize")] == [
                ("validity", 2),
                ("deserialize", 2),
            ]
            assert trt.loaded[-1].number == 2 and device.current == 0
            inputs = standin_tensorrt.inputs_of(3)
            np.testing.assert_array_equal(runner(inputs)["logits"], reference(inputs)["logits"])
            assert set(device.where.values()) == {2}
        device.where.clear()
        trt.loaded.clear()
        gc.collect()
        assert device.empty


def test_parts_each_on_its_own_gpu(tmp_path, on_stand_ins, device, diamond):
    """Given a split over three GPUs -> each part's engine is loaded on its own, and what is computed is right."""
    trt = on_stand_ins()
    bundle = standin_bundles.split_bundle(tmp_path / "b", diamond)
    with engines.load(bundle, devices=[2, 0, 1]) as runner:
        assert [call[1] for call in device.calls if call[0] == "deserialize"] == [2, 0, 1, 2]
        for seed in range(5):
            inputs = diamond.inputs_of(2, seed)
            np.testing.assert_array_equal(runner(inputs)["v4"], diamond.reference(inputs)["v4"])
    trt.loaded.clear()
    gc.collect()
    assert device.empty and device.current == 0


@pytest.mark.parametrize("fixed", [False, True])
def test_rtx_engine_runs_as_its_runtime_wants(
    tmp_path, on_stand_ins, device, standin_tensorrt, fixed, double_model, reference
):
    """Given engines of fixed shapes -> our graphs; of dynamic ones -> one capture of RTX's for each repeating call.

    The stand-in fails where the runtime's cache is gone, or where one capture is within another.
    """
    trt = on_stand_ins()
    how = {"batch": 2, "profiles": ()} if fixed else {}
    with engines.load(standin_bundles.whole_bundle(tmp_path / "b", **how)) as runner:
        for _ in range(6):
            for batch in (2,) if fixed else (1, 2, 3):
                inputs = standin_tensorrt.inputs_of(batch)
                np.testing.assert_array_equal(runner(inputs)["logits"], reference(inputs)["logits"])
        names = device.names()
        assert names.count("own capture") == (0 if fixed else 3)
        assert ("launch" in names) == fixed and ("capturable" in names) == fixed
        assert (runner.notes == ()) == fixed
        if not fixed:
            assert runner.notes[0].startswith("calls are not captured as CUDA graphs: the runtime makes CUDA graphs")
    trt.loaded.clear()
    gc.collect()
    assert device.empty
    (file,) = (tmp_path / "kernels").iterdir()
    assert b"(2, 3, 8, 8)" in file.read_bytes()


def test_rtx_engine_that_cannot_be_captured(tmp_path, on_stand_ins, device, standin_tensorrt):
    """Given a runtime that says so before -> no capture begins, calls run, and a note says why."""
    on_stand_ins()
    bundle = standin_bundles.whole_bundle(tmp_path / "b", {"refuses": ["capturable"]}, batch=2, profiles=())
    with engines.load(bundle) as runner:
        for _ in range(8):
            runner(standin_tensorrt.inputs_of(2))
        assert "begin_capture" not in device.names()
        assert "cannot be captured as a CUDA graph, says the runtime" in runner.notes[0]


@pytest.mark.parametrize(
    ("verdict", "diagnostics", "message"),
    [
        ("INVALID", 1, r"finds it invalid \(version mismatch\); build it again with `exporter build`"),
        ("INVALID", 2, r"finds it invalid \(unsupported cc\); build it again with `exporter build`"),
        ("INVALID", 6, r"finds it invalid \(unsupported cc, old cuda driver\); update the NVIDIA driver"),
    ],
)
def test_engine_that_is_invalid_here(tmp_path, on_stand_ins, verdict, diagnostics, message):
    """Given a verdict of the runtime -> one line with its causes, and the remedy that helps."""
    trt = on_stand_ins(validity=verdict, diagnostics=diagnostics)
    bundle = standin_bundles.whole_bundle(tmp_path / "b")
    with pytest.raises(EngineError, match=rf"\.engine cannot run here: tensorrt_rtx {trt.__version__} {message}$"):
        engines.load(bundle, "tensorrt_rtx")


def test_engine_that_is_suboptimal_here(tmp_path, on_stand_ins, standin_tensorrt):
    """Given an engine that runs, but slower than it could -> it runs, and a note says why and what to do."""
    trt = on_stand_ins(validity="SUBOPTIMAL", diagnostics=4)
    with engines.load(standin_bundles.whole_bundle(tmp_path / "b")) as runner:
        assert isinstance(runner, TensorRTRunner)
        assert runner.notes[0] == (
            f"engines/net-tensorrt_rtx-fp32.engine: tensorrt_rtx {trt.__version__} finds it suboptimal (old cuda "
            "driver), it runs slower; update the NVIDIA driver"
        )


def test_runtime_that_does_not_start(tmp_path, on_stand_ins):
    """Given bindings that raise where the runtime gives nothing -> one line."""
    trt = on_stand_ins()
    trt.refuses = ("runtime",)
    wanted = r"cannot run here: tensorrt_rtx .* does not start \(pybind11::init.*nullptr\); see whether nvidia-smi runs"
    with pytest.raises(EngineError, match=wanted):
        engines.load(standin_bundles.whole_bundle(tmp_path / "b"), "tensorrt_rtx")


@pytest.mark.parametrize("eager", [False, True])
def test_kernels_before_the_first_call_or_beside_it(tmp_path, on_stand_ins, standin_tensorrt, eager):
    """Given `eager_kernels` -> the runtime is asked to compile before it runs."""
    trt = on_stand_ins()
    with engines.load(standin_bundles.whole_bundle(tmp_path / "b"), eager_kernels=eager):
        wanted = standin_tensorrt.Kernels.EAGER if eager else standin_tensorrt.Kernels.LAZY
        assert {config.dynamic_shapes_kernel_specialization_strategy for config in trt.loaded[0].made} == {wanted}


# --- the real TensorRT-RTX, on a machine without a GPU --------------------------------------------------------------


@pytest.fixture
def rtx(monkeypatch):
    if "STANDIN_LIBRARY" in os.environ:
        pytest.skip("the bindings here have the stand-in library")
    trt = pytest.importorskip("tensorrt_rtx")
    if Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has a GPU")
    return trt


def deserialized(trt, data):
    return interruptible(lambda: deserialize(trt, data, "tensorrt_rtx"))


def test_no_driver(tmp_path, rtx):
    """Given an engine on a machine without a driver -> one line, before any runtime is imported."""
    bundle = Bundle.open(standin_bundles.whole_bundle(tmp_path / "b"))
    with pytest.raises(EngineError, match=r"^no NVIDIA driver on this machine"):
        loaded(bundle, bundle.engines[0], 0, None)


def test_bytes_that_are_no_engine(rtx):
    with pytest.raises(EngineError, match=r"finds it invalid \(malformed engine\); build it again") as raised:
        deserialized(rtx, b"junk" * 99)
    assert "\n" not in str(raised.value)


def test_validity_of_an_engine_that_cannot_run_here(onnx_file, rtx):
    """Given a sound engine on a machine without a driver -> that is why."""
    backend = next(backend for backend in backends() if backend.name == "tensorrt_rtx")
    data = bytes(compile_onnx(onnx_file, backend, BuildOptions(targets=("sm86",))).data)
    with pytest.raises(EngineError, match="CUDA driver version is insufficient"):
        deserialized(rtx, data)
