"""What runs a bundle: its best engine that the machine can run, or ONNX Runtime."""

import importlib.util
from dataclasses import replace

import numpy as np
import pytest
import standin_bundles

from plainconv import engines
from plainconv.engines import BuildOptions, choice, loading
from plainconv.engines.backend import backends
from plainconv.engines.choice import what_runs, why_not_run
from plainconv.engines.cuda.gpu import Gpu
from plainconv.engines.tensorrt import loaded
from plainconv.engines.tensorrt.runner import TensorRTRunner
from plainconv.exporter.bundle import Bundle, EngineRecord, GraphRecord, ShapeRange, update_bundle
from plainconv.exporter.errors import EngineError, PlainconvWarning

pytestmark = pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="needs tensorrt-rtx")

NAME = "engines/tensorrt_rtx-fp32-sm86_sm89"

SM86 = BuildOptions(targets=("sm86",))

SM89 = BuildOptions(targets=("sm89",))

PROFILE = {"input": ShapeRange((1, 3, 8, 8), (2, 3, 8, 8), (4, 3, 8, 8))}


class Runs(str):
    """Stands for a runner of that file."""

    predictor: object = None


def installed():
    """The backend that is installed."""
    return next(backend for backend in backends() if backend.name == "tensorrt_rtx")


def add_engine(path, precision, backend="tensorrt_rtx", targets=("sm86",), version="1.0"):
    """An engine of which no one reads a byte."""
    with update_bundle(path) as draft:
        file = f"engines/{backend}-{precision.replace('+', '_')}-{'_'.join(targets)}.engine"
        draft.path(file).write_bytes(precision.encode())
        size, sha256 = draft.record(file).size, draft.record(file).sha256
        if precision == "fp32":
            of = next(link.sha256 for link in draft.manifest.chain if link.step == "onnx")
        else:
            of = next(graph.sha256 for graph in draft.manifest.graphs if graph.precision == precision)
        draft.add_engine(
            EngineRecord(file, backend, version, precision, False, targets, None, (), 0.1, size, sha256, of)
        )
    return file


def images():
    return {"input": np.random.default_rng(0).normal(size=(1, 3, 8, 8)).astype(np.float32)}


def test_load_falls_back_to_onnxruntime(bundle, no_gpu):
    """Given a machine without a GPU -> the bundle runs on ONNX Runtime, with or without an engine in it."""
    with engines.load(bundle) as runner:
        before = runner(images())["logits"]
    engines.build(bundle, options=SM86)
    wanted = r"sm86\.engine cannot run here: no NVIDIA driver on this machine .*; ONNX Runtime runs instead"
    with pytest.warns(PlainconvWarning, match=wanted), engines.load(Bundle.open(bundle), threads=1) as runner:
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
    engines.build(bundle, options=SM86)
    with pytest.raises(EngineError, match=r"tensorrt_rtx-fp32-sm86\.engine cannot run here: no NVIDIA driver on this"):
        engines.load(bundle, "tensorrt_rtx")
    with engines.load(bundle, "onnxruntime") as runner:
        assert runner.backend == "onnxruntime"


def test_load_of_an_unknown_engine(bundle):
    with pytest.raises(
        EngineError, match="unknown engine 'tpu'; wanted one of auto, tensorrt, tensorrt_rtx, onnxruntime"
    ):
        engines.load(bundle, "tpu")


def test_load_takes_the_engine_where_it_can_run(tmp_path, on_stand_ins, standin_tensorrt, reference):
    """Given a GPU that one of two engines was built for -> that one runs, without a word of the other."""
    on_stand_ins()
    bundle = standin_bundles.whole_bundle(tmp_path / "b")
    other = add_engine(bundle, "fp32", targets=("sm120",), version=installed().version)
    with update_bundle(bundle) as draft:
        draft.manifest.engines = tuple(sorted(draft.manifest.engines, key=lambda r: r.file != other))
    with engines.load(bundle) as runner:
        assert isinstance(runner, TensorRTRunner) and runner.backend == "tensorrt_rtx"
        inputs = standin_tensorrt.inputs_of(2)
        np.testing.assert_array_equal(runner(inputs)["logits"], reference(inputs)["logits"])


def test_load_goes_on_to_what_runs(tmp_path, on_stand_ins, standin_tensorrt, reference):
    """Given engines that the runtime refuses -> the next one, then ONNX Runtime, each with its reason said once."""
    trt = on_stand_ins()
    bundle = standin_bundles.whole_bundle(tmp_path / "b", {"refuses": ["context"]}, {"name": "second"})
    found = r"engines/net-tensorrt_rtx-fp32\.engine cannot run here: the engine gives no execution context"
    with pytest.warns(PlainconvWarning, match=found) as warned, engines.load(bundle) as runner:
        assert runner.backend == "tensorrt_rtx" and len(warned) == 1
        assert str(warned[0].message).endswith("; engines/second-tensorrt_rtx-fp32.engine runs instead")
    trt.refuses = ("runtime",)
    with (
        pytest.warns(PlainconvWarning, match="tensorrt_rtx 1.0 does not start") as warned,
        engines.load(bundle) as runner,
    ):
        assert runner.backend == "onnxruntime" and len(warned) == 1  # one reason, of both
        assert str(warned[0].message).endswith("; ONNX Runtime runs instead")
        inputs = standin_tensorrt.inputs_of(2)
        np.testing.assert_allclose(runner(inputs)["logits"], reference(inputs)["logits"], rtol=1e-5)
    with pytest.raises(EngineError, match=r"tensorrt_rtx 1\.0 does not start"):
        engines.load(bundle, "tensorrt_rtx")


def test_a_gpu_that_no_engine_is_for(bundle, monkeypatch):
    """Given an H200 and engines that TensorRT-RTX built, which does not know it -> the CPU, and not without a word."""
    engines.build(bundle, options=SM86)
    for module in (choice, loaded):
        monkeypatch.setattr(module, "find_gpu", lambda number=0: Gpu("NVIDIA H200", "sm90", 2**37))
    with (
        pytest.warns(PlainconvWarning, match="it is for sm86, the NVIDIA H200 here is sm90; build it for that; ONNX"),
        engines.load(bundle, providers="cpu") as runner,
    ):
        assert runner.backend == "onnxruntime"


def test_what_runs(bundle, rtx_3090):
    """Given a bundle -> the engine that would run here, and why not those that would come before it."""
    record = engines.build(bundle, options=SM86)
    assert what_runs(Bundle.open(bundle).engines) == (record.file, {})
    other = add_engine(bundle, "fp32", backend="tensorrt")
    file, reasons = what_runs(Bundle.open(bundle).engines)
    assert file == record.file and list(reasons) == [other] and "is not installed" in reasons[other]
    assert what_runs([]) == ("onnxruntime", {})


@pytest.mark.parametrize("device", [-1, 5])
def test_gpu_that_is_not_there(tmp_path, on_stand_ins, monkeypatch, device):
    """Given a GPU's number that there is not -> one line; with "auto" the CPU runs, and the line is a warning."""
    on_stand_ins()
    bundle = standin_bundles.whole_bundle(tmp_path / "b")

    def find_gpu(number=0):
        raise EngineError(f"no GPU {number} on this machine, which has 1; see to CUDA_VISIBLE_DEVICES")

    monkeypatch.setattr(choice, "find_gpu", find_gpu)
    with pytest.raises(EngineError, match=f"GPU {device} on|device is -1; wanted the number of a GPU"):
        engines.load(bundle, "tensorrt_rtx", device=device)


def test_why_not_run(bundle, rtx_3090):
    """Given an engine and a machine -> the first thing in the way, with the remedy."""
    record = engines.build(bundle, options=BuildOptions(targets=("sm86", "sm89")))
    assert why_not_run(record) is None
    for other, message in (
        (replace(record, backend="tpu"), "tpu is not a runtime this program knows"),
        (replace(record, backend="tensorrt"), "tensorrt is not installed; pip install 'plainconv[tensorrt]'"),
        (replace(record, backend_version="1.0"), "it was built by tensorrt_rtx 1.0, here is"),
        (replace(record, targets=("sm120",)), "it is for sm120, the NVIDIA GeForce RTX 3090 here is sm86"),
        (replace(record, device="NVIDIA RTX A6000"), "it is for an NVIDIA RTX A6000, here is an NVIDIA GeForce RTX"),
    ):
        if other.backend == "tensorrt" and next(b for b in backends() if b.name == "tensorrt").installed:
            continue
        assert message in why_not_run(other)


def test_why_not_run_without_a_gpu(bundle, no_gpu):
    assert why_not_run(engines.build(bundle, options=SM86)).startswith("no NVIDIA driver on this machine")


@pytest.fixture
def runs(monkeypatch):
    """Which engines "run" here: those for sm86; what `load` then gives is the engine's name."""

    def why_not_run(record, device):
        return None if "sm86" in record.targets else f"it is for {', '.join(record.targets)}"

    monkeypatch.setattr(loading, "why_not_run", why_not_run)
    monkeypatch.setattr(loading, "run_record", lambda bundle, record, device, **_: Runs(record.file))


def test_load_takes_the_fastest_precision_of_what_runs(typed, runs):
    """Given engines of several precisions -> the fastest that this GPU runs, whatever their order in the bundle."""
    files = {"fp32": add_engine(typed, "fp32"), "int8": add_engine(typed, "int8")}
    add_engine(typed, "fp8", targets=("sm89",))
    with pytest.warns(PlainconvWarning, match=rf"fp8-sm89\.engine cannot run here: it is .*; {files['int8']} runs"):
        assert engines.load(typed) == files["int8"]
    assert engines.load(typed, precision="fp32") == files["fp32"]
    assert engines.load(typed, "tensorrt_rtx", precision="int8") == files["int8"]
    files["fp8"] = add_engine(typed, "fp8")
    assert engines.load(typed) == files["fp8"]


def test_load_takes_the_faster_backend_before_the_faster_precision(typed, runs):
    add_engine(typed, "int8")
    dedicated = add_engine(typed, "fp32", backend="tensorrt")
    assert engines.load(typed) == dedicated
    assert "tensorrt_rtx" in engines.load(typed, "tensorrt_rtx")


def test_load_of_a_precision_that_does_not_run_here(typed, runs):
    """Given engines, none of the precision that runs -> ONNX Runtime on that graph; by engine, one line."""
    add_engine(typed, "fp32")
    add_engine(typed, "int8", targets=("sm120",))
    with pytest.raises(EngineError, match=r"int8-sm120\.engine cannot run here: it is for sm120"):
        engines.load(typed, "tensorrt_rtx", precision="int8")
    wanted = "holds no tensorrt_rtx fp8 engine; build one with `exporter build --engine tensorrt_rtx --precision fp8`"
    with pytest.raises(EngineError, match=wanted):
        engines.load(typed, "tensorrt_rtx", precision="fp8")
    with pytest.warns(PlainconvWarning, match="it is for sm120"), engines.load(typed, precision="int8") as runner:
        assert (runner.backend, runner.precision) == ("onnxruntime", "int8")


def test_onnxruntime_runs_a_typed_graph(typed, no_gpu):
    """Given a precision -> ONNX Runtime computes that graph: not what the fp32 one gives, and not far from it."""
    x = np.random.default_rng(0).normal(size=(1, 16, 8, 8)).astype(np.float32)
    with engines.load(typed, precision="int8", threads=1) as int8, engines.load(typed, threads=1) as fp32:
        assert (int8.precision, fp32.precision) == ("int8", "fp32")
        y, exact = int8({"input": x})["logits"], fp32({"input": x})["logits"]
    assert 0 < np.abs(y - exact).max() < 0.5 * exact.std()


def test_a_cpu_takes_the_graph_that_is_laid_out_for_it(typed, no_gpu):
    """Given a graph for CPUs beside TensorRT's -> a CPU runs that; another precision's is as it was."""
    with update_bundle(typed) as draft:
        int8 = next(graph for graph in draft.manifest.graphs if graph.precision == "int8")
        draft.path("model.int8.cpu.onnx").write_bytes(draft.read("model.onnx"))  # told by its numbers
        draft.add_cpu_graph(replace(int8, file="model.int8.cpu.onnx", sha256=""))
    x = {"input": np.random.default_rng(0).normal(size=(1, 16, 8, 8)).astype(np.float32)}
    for asked in ({"providers": "cpu"}, {}, {"engine": "onnxruntime"}):
        with engines.load(typed, precision="int8", threads=1, **asked) as on_cpu, engines.load(typed) as fp32:
            assert (on_cpu.precision, on_cpu.graph) == ("int8", "model.int8.cpu.onnx")
            np.testing.assert_array_equal(on_cpu(x)["logits"], fp32(x)["logits"])
    manifest = Bundle.open(typed).manifest
    assert choice.graph_of(manifest, "int8")[0] == "model.int8.onnx"
    assert choice.graph_of(manifest, "int8", on_cpu=True)[0] == "model.int8.cpu.onnx"
    assert choice.graph_of(manifest, "fp8", on_cpu=True)[0] == "model.fp8.onnx"


def test_onnxruntime_that_cannot_run_a_typed_graph_says_so_in_one_line(tmp_path, make, no_gpu):
    """Given a graph in a type that ONNX Runtime has no kernels for -> EngineError, one line."""
    target = make.typed_bundle(tmp_path / "b")
    with update_bundle(target) as draft:
        make.typed_onnx(draft.path("model.bf16.onnx"), "bf16")
        onnx_sha256 = draft.manifest.graphs[0].onnx_sha256
        record = GraphRecord("model.bf16.onnx", "bf16", "", onnx_sha256, {"bf16": 2}, "reference.npz", 0.5)
        draft.add_graph(record)
    with pytest.raises(EngineError) as raised:
        engines.load(target, precision="bf16", providers="cpu")
    assert "\n" not in str(raised.value)
