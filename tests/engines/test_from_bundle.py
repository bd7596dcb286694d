"""Engines in a bundle: built into it, verified with it, and run where a machine can."""

import importlib.util
from dataclasses import replace

import numpy as np
import pytest

import engines
from engines import from_bundle
from engines.backend import backends
from engines.gpu import Gpu
from engines.tensorrt_runner import TensorRTRunner
from exporter.bundle import Bundle, update_bundle, write_bundle
from exporter.errors import BundleError, EngineError, PlainconvWarning

pytestmark = pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="needs tensorrt-rtx")

NAME = "engines/tensorrt_rtx-fp32-sm86_sm89"


@pytest.fixture
def bundle(tmp_path, make):
    return make.bundle(tmp_path / "bundle")


@pytest.fixture
def no_gpu(monkeypatch):
    def find_gpu():
        raise EngineError("no NVIDIA driver on this machine (libcuda.so.1 not found)")

    monkeypatch.setattr(from_bundle, "find_gpu", find_gpu)


@pytest.fixture
def rtx_3090(monkeypatch):
    monkeypatch.setattr(from_bundle, "find_gpu", lambda: Gpu("NVIDIA GeForce RTX 3090", "sm86", 24 * 2**30))


def test_build(bundle):
    """Given a bundle -> the same bundle with an engine, its log, its record and its link, verified."""
    record = engines.build(bundle, targets=("sm86", "sm89"))
    opened = Bundle.open(bundle)

    assert opened.engines == (record,)
    assert (record.file, record.log) == (f"{NAME}.engine", f"{NAME}.log")
    assert record.onnx_sha256 == opened.onnx_sha256
    assert opened.manifest.chain[-1].parent == opened.onnx_sha256
    assert record.size == opened.file(record.file).stat().st_size > 10_000
    log = opened.file(record.log).read_text()
    assert "[INFO]" in log and ".tmp-" not in log


def test_rebuild_gives_the_same_engine_in_the_same_place(bundle):
    """Given the same options again -> one engine, byte for byte; other options -> one more."""
    first = engines.build(bundle, targets=("sm86", "sm89"))
    again = engines.build(bundle, targets=("sm89", "sm86"))
    other = engines.build(bundle, targets=("sm120",))

    assert again.sha256 == first.sha256
    assert Bundle.open(bundle).engines == (again, other)
    assert [link.step for link in Bundle.open(bundle).manifest.chain] == ["checkpoint", "onnx", "engine", "engine"]


def test_what_the_builder_warns_of_reaches_the_user(bundle):
    with pytest.warns(PlainconvWarning, match="sm75 makes an engine slower on every other target"):
        record = engines.build(bundle, targets=("sm75", "sm86"))
    assert Bundle.open(bundle).engines[-1].warnings == record.warnings != ()


def test_build_with_dynamic_batch_and_external_data(tmp_path, make):
    target = make.bundle(tmp_path / "bundle", batch="batch", external_data=True)
    record = engines.build(target, targets=("sm86",), dynamic_batch=(1, 2, 4))
    opened = Bundle.open(target)

    assert record.file == "engines/tensorrt_rtx-fp32-sm86-b1_2_4.engine"
    assert opened.engines[0].profiles[0]["input"].max == (4, 3, 8, 8)
    assert opened.manifest.chain[1].files == ("model.onnx", "model.onnx.data")


def test_build_that_fails_leaves_the_bundle(bundle):
    before = Bundle.open(bundle).sha256
    for options in ({"targets": ("sm1",)}, {"dynamic_batch": (1, 2, 4)}, {"engine": "none"}, {"engine": "tensorrt"}):
        with pytest.raises(EngineError):
            engines.build(bundle, **options)
    assert Bundle.open(bundle).sha256 == before
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]


def test_build_of_a_damaged_bundle(bundle):
    (bundle / "model.onnx").write_bytes(b"")
    with pytest.raises(BundleError, match=r"model\.onnx has 0 bytes"):
        engines.build(bundle)


def test_build_into_a_draft(tmp_path, onnx_file):
    """Given a draft with its model linked -> an engine in it; without one, one line."""
    with pytest.raises(EngineError, match="no ONNX model linked"), write_bundle(tmp_path / "bundle") as draft:
        engines.build_into(draft)
    with pytest.raises(BundleError), write_bundle(tmp_path / "bundle") as draft:
        draft.path("model.onnx").write_bytes(onnx_file.read_bytes())
        draft.link_onnx()
        record = engines.build_into(draft, targets=("sm86",))
        assert draft.manifest.engines == (record,) and draft.file(record.file).stat().st_size == record.size
        raise BundleError("given up")


def test_build_engine_without_a_bundle(tmp_path, onnx_file):
    record = engines.build_engine(onnx_file, tmp_path / "x.engine", targets=("sm86",))
    assert (record.file, record.log) == ("x.engine", None)
    assert record.size == (tmp_path / "x.engine").stat().st_size


def images():
    return {"input": np.random.default_rng(0).normal(size=(1, 3, 8, 8)).astype(np.float32)}


def test_load_falls_back_to_onnxruntime(bundle, no_gpu):
    """Given a machine without a GPU -> the bundle runs on ONNX Runtime, with or without an engine in it."""
    with engines.load(bundle) as runner:
        before = runner(images())["logits"]
    engines.build(bundle, targets=("sm86",))
    with engines.load(Bundle.open(bundle), threads=1) as runner:
        assert runner.backend == "onnxruntime"
        assert runner.inputs == Bundle.open(bundle).inputs and runner.outputs == Bundle.open(bundle).outputs
        np.testing.assert_allclose(runner(images())["logits"], before, rtol=1e-6)


@pytest.mark.parametrize("engine", ["tensorrt", "tensorrt_rtx"])
def test_load_of_an_engine_that_is_not_there(bundle, engine):
    with pytest.raises(
        EngineError, match=f"holds no {engine} engine; build one with `exporter build --engine {engine}`"
    ):
        engines.load(bundle, engine)


def test_load_of_an_engine_without_a_gpu(bundle, no_gpu):
    """Given the engine asked for by name, without a driver -> one line, no fall-back."""
    engines.build(bundle, targets=("sm86",))
    with pytest.raises(EngineError, match=r"tensorrt_rtx-fp32-sm86\.engine cannot run here: no NVIDIA driver on this"):
        engines.load(bundle, "tensorrt_rtx")
    with engines.load(bundle, "onnxruntime") as runner:
        assert runner.backend == "onnxruntime"


def test_load_of_an_unknown_engine(bundle):
    with pytest.raises(
        EngineError, match="unknown engine 'tpu'; wanted one of auto, tensorrt, tensorrt_rtx, onnxruntime"
    ):
        engines.load(bundle, "tpu")


class FakeEngine:
    """An engine of the small model, and its context, which accept whatever they are told."""

    num_io_tensors = 2

    def get_tensor_name(self, i):
        return ("input", "logits")[i]

    def create_execution_context(self):
        return self

    def set_input_shape(self, name, shape):
        return True

    def set_tensor_address(self, name, address):
        return True

    def get_tensor_shape(self, name):
        return (1, 4, 8, 8)


class FakeCuda:
    def __getattr__(self, name):
        return lambda *arguments: 1


def test_load_takes_the_engine_where_it_can_run(bundle, rtx_3090, monkeypatch):
    """Given a GPU that one of two engines was built for -> that engine's own bytes go to the runtime."""
    given = []

    def deserialize(data, backend):
        given.append((data, backend.name))
        return "runtime", FakeEngine()

    monkeypatch.setattr(from_bundle, "deserialize", deserialize)
    monkeypatch.setattr(from_bundle, "CudaRuntime", FakeCuda)
    engines.build(bundle, targets=("sm120",))
    record = engines.build(bundle, targets=("sm86",))
    with engines.load(bundle) as runner:
        assert isinstance(runner, TensorRTRunner) and runner.backend == "tensorrt_rtx"
    assert given == [((bundle / record.file).read_bytes(), "tensorrt_rtx")]


def test_why_not_run(bundle, rtx_3090):
    """Given an engine and a machine -> the first thing in the way, with the remedy."""
    record = engines.build(bundle, targets=("sm86", "sm89"))
    assert engines.why_not_run(record) is None
    for other, message in (
        (replace(record, backend="tpu"), "tpu is not a runtime this program knows"),
        (replace(record, backend="tensorrt"), "tensorrt is not installed; pip install 'plainconv[tensorrt]'"),
        (replace(record, backend_version="1.0"), "it was built by tensorrt_rtx 1.0, here is"),
        (replace(record, targets=("sm120",)), "it is for sm120, the NVIDIA GeForce RTX 3090 here is sm86"),
        (replace(record, device="NVIDIA RTX A6000"), "it is for an NVIDIA RTX A6000, here is an NVIDIA GeForce RTX"),
    ):
        if other.backend == "tensorrt" and next(b for b in backends() if b.name == "tensorrt").installed:
            continue
        assert message in engines.why_not_run(other)


def test_why_not_run_without_a_gpu(bundle, no_gpu):
    assert engines.why_not_run(engines.build(bundle, targets=("sm86",))).startswith("no NVIDIA driver on this machine")


def test_engine_of_another_model_breaks_the_chain(bundle):
    """Given an engine record that names another ONNX graph as its source -> the bundle is not written."""
    engines.build(bundle, targets=("sm86",))
    with pytest.raises(BundleError, match="does not start from an earlier link"), update_bundle(bundle) as draft:
        draft.add_engine(replace(draft.manifest.engines[0], onnx_sha256="0" * 64))
