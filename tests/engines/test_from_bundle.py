"""Engines in a bundle: built into it, verified with it, and run where a machine can."""

import importlib.util
import re
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import engines
from engines import BuildOptions, from_bundle
from engines.backend import backends
from engines.gpu import Gpu
from engines.tensorrt_runner import TensorRTRunner
from exporter.bundle import (
    Bundle,
    EngineRecord,
    GraphRecord,
    ShapeRange,
    TensorSpec,
    update_bundle,
    write_bundle,
)
from exporter.errors import BundleError, EngineError, PlainconvWarning

pytestmark = pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="needs tensorrt-rtx")

NAME = "engines/tensorrt_rtx-fp32-sm86_sm89"
SM86 = BuildOptions(targets=("sm86",))
SM89 = BuildOptions(targets=("sm89",))
PROFILE = {"input": ShapeRange((1, 3, 8, 8), (2, 3, 8, 8), (4, 3, 8, 8))}


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
    record = engines.build(bundle, options=BuildOptions(targets=("sm86", "sm89")))
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
    first = engines.build(bundle, options=BuildOptions(targets=("sm86", "sm89")))
    again = engines.build(bundle, options=BuildOptions(targets=("sm89", "sm86")))
    other = engines.build(bundle, options=BuildOptions(targets=("sm120",)))

    assert again.sha256 == first.sha256
    assert Bundle.open(bundle).engines == (again, other)
    assert [link.step for link in Bundle.open(bundle).manifest.chain] == ["checkpoint", "onnx", "engine", "engine"]


def test_what_the_builder_warns_of_reaches_the_user(bundle):
    with pytest.warns(PlainconvWarning, match="sm75 makes an engine slower on every other target"):
        record = engines.build(bundle, options=BuildOptions(targets=("sm75", "sm86")))
    assert Bundle.open(bundle).engines[-1].warnings == record.warnings != ()


def test_build_with_dynamic_batch_and_external_data(tmp_path, make):
    target = make.bundle(tmp_path / "bundle", batch="batch", external_data=True)
    record = engines.build(target, options=BuildOptions(targets=("sm86",), profiles=(PROFILE,)))
    opened = Bundle.open(target)

    assert re.fullmatch(r"engines/tensorrt_rtx-fp32-sm86-[0-9a-f]{8}\.engine", record.file)
    assert opened.engines[0].profiles == (PROFILE,)
    assert opened.manifest.chain[1].files == ("model.onnx", "model.onnx.data")


def test_build_that_fails_leaves_the_bundle(bundle):
    before = Bundle.open(bundle).sha256
    for options in (
        {"options": BuildOptions(targets=("sm1",))},
        {"options": BuildOptions(profiles=(PROFILE,))},
        {"precision": "fp16"},
        {"engine": "none"},
        {"engine": "tensorrt"},
    ):
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
        record = engines.build_into(draft, options=SM86)
        assert draft.manifest.engines == (record,) and draft.file(record.file).stat().st_size == record.size
        raise BundleError("given up")


def test_build_engine_without_a_bundle(tmp_path, onnx_file):
    record = engines.build_engine(onnx_file, tmp_path / "x.engine", options=SM86)
    assert (record.file, record.log) == ("x.engine", None)
    assert record.size == (tmp_path / "x.engine").stat().st_size


def images():
    return {"input": np.random.default_rng(0).normal(size=(1, 3, 8, 8)).astype(np.float32)}


def test_load_falls_back_to_onnxruntime(bundle, no_gpu):
    """Given a machine without a GPU -> the bundle runs on ONNX Runtime, with or without an engine in it."""
    with engines.load(bundle) as runner:
        before = runner(images())["logits"]
    engines.build(bundle, options=SM86)
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


class FakeEngine:
    """An engine of the small model, and its context, which accept whatever they are told."""

    num_io_tensors = 2

    def get_tensor_name(self, i):
        return ("input", "logits")[i]

    def create_runtime_config(self):
        return Mock()

    def create_execution_context(self, config):
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
    monkeypatch.setattr(from_bundle, "validity", lambda data, backend: None)
    monkeypatch.setattr(from_bundle, "CudaRuntime", FakeCuda)
    engines.build(bundle, options=BuildOptions(targets=("sm120",)))
    record = engines.build(bundle, options=SM86)
    with engines.load(bundle) as runner:
        assert isinstance(runner, TensorRTRunner) and runner.backend == "tensorrt_rtx"
    assert given == [((bundle / record.file).read_bytes(), "tensorrt_rtx")]


def test_why_not_run(bundle, rtx_3090):
    """Given an engine and a machine -> the first thing in the way, with the remedy."""
    record = engines.build(bundle, options=BuildOptions(targets=("sm86", "sm89")))
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
    assert engines.why_not_run(engines.build(bundle, options=SM86)).startswith("no NVIDIA driver on this machine")


def test_load_where_the_runtime_objects(bundle, rtx_3090, monkeypatch):
    """Given an engine that its runtime finds invalid here -> one line, with its reason."""
    monkeypatch.setattr(from_bundle, "validity", lambda data, backend: "it is too old")
    record = engines.build(bundle, options=SM86)
    with pytest.raises(EngineError, match=f"{record.file} cannot run here: it is too old; build it again"):
        engines.load(bundle)


def test_engine_of_another_model_breaks_the_chain(bundle):
    """Given an engine record that names another ONNX graph as its source -> the bundle is not written."""
    engines.build(bundle, options=SM86)
    with pytest.raises(BundleError, match="does not start from an earlier link"), update_bundle(bundle) as draft:
        draft.add_engine(replace(draft.manifest.engines[0], onnx_sha256="0" * 64))


# --- what is built again, and what is not --------------------------------------------------------------------------


def test_a_second_build_writes_nothing(bundle):
    """Given the very engine in the bundle -> its record, and not one byte written; `rebuild` builds it again."""
    first = engines.build(bundle, options=SM86)
    before = Bundle.open(bundle)
    inode = bundle.stat().st_ino
    assert engines.build(bundle, options=SM86) == first
    assert (bundle.stat().st_ino, Bundle.open(bundle).sha256) == (inode, before.sha256)
    again = engines.build(bundle, options=SM86, rebuild=True)
    assert bundle.stat().st_ino != inode
    assert Bundle.open(bundle).engines == (again,) and again.sha256 == first.sha256


@pytest.mark.parametrize(
    "change",
    [
        {"backend_version": "1.0"},
        {"device": "NVIDIA RTX A6000"},
        {"targets": ("sm86", "sm89")},
        {"tf32": True},
        {"options": {"workspace": 2**20}},
        {"profiles": (PROFILE,)},
        {"precision": "fp16"},
        {"onnx_sha256": "0" * 64},
    ],
    ids=lambda change: next(iter(change)),
)
def test_an_engine_that_was_built_otherwise_is_not_taken_for_it(bundle, change):
    record = engines.build(bundle, options=SM86)
    manifest = Bundle.open(bundle).manifest
    assert engines.built(manifest, options=SM86) == record
    manifest.engines = (replace(record, **change),)
    assert engines.built(manifest, options=SM86) is None


def test_builder_settings_are_on_record_and_make_engines_of_their_own(bundle):
    """Given another workspace, level or tf32 -> an engine beside the first, which says what it was built with."""
    plain = engines.build(bundle, options=SM86)
    for changed in ({"workspace": 2**26}, {"optimization_level": 2}, {"tf32": True}):
        options = replace(SM86, **changed)
        record = engines.build(bundle, options=options)
        assert record.file != plain.file
        assert record.options == {name: value for name, value in changed.items() if name != "tf32"}
        assert record.tf32 == options.tf32
        assert engines.built(Bundle.open(bundle).manifest, options=options) == record
    assert len(Bundle.open(bundle).engines) == 4


def test_what_was_measured_of_an_engine_goes_with_it(bundle):
    """Given an engine that is built again -> the parities of its file are dropped, others stay."""
    record = engines.build(bundle, options=SM86)
    with update_bundle(bundle) as draft:
        draft.manifest.parities += [{"step": "x", "status": "held", "file": record.file}, {"step": "y"}]
    engines.build(bundle, options=SM86, rebuild=True)
    assert Bundle.open(bundle).manifest.parities == [{"step": "y"}]


# --- the types that layers compute in ------------------------------------------------------------------------------


def test_layers_that_compute_in_what_the_graph_says():
    """Given the graph's types -> the same are taken, and a layer under another name, as long as the count is right."""
    wanted = {"a": "fp16", "b": "fp32"}
    for found in (wanted, {"a + relu": "fp16", "b": "fp32"}, {**wanted, "added": "fp32"}):
        engines.from_bundle.check_precision(wanted, found, "m.onnx")


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ({"a": "fp32", "b": "fp16", "c": "fp32"}, "m.onnx: a would compute in fp32, the graph says fp16"),
        ({"a": "fp16", "c": "fp32"}, "m.onnx: 1 of 3 layers that the graph has in fp16 are not so in the engine"),
        ({}, "m.onnx: 2 of 3 layers that the graph has in fp16 are not so"),
        ({"x": "fp32", "y": "fp32", "c": "fp32"}, "2 of 3 layers that the graph has in fp16"),
    ],
    ids=["another type", "one missing", "all missing", "renamed, in another type"],
)
def test_a_precision_that_did_not_take_effect_is_an_error(found, says):
    with pytest.raises(EngineError, match=re.escape(says)) as raised:
        engines.from_bundle.check_precision({"a": "fp16", "b": "fp16", "c": "fp32"}, found, "m.onnx")
    assert "\n" not in str(raised.value)


def test_a_builder_that_falls_back_to_fp32_leaves_no_engine(typed, monkeypatch, tmp_path):
    """Given layers that come back in fp32 where the graph says int8 -> an error; bundle and folder are as before."""
    compile_onnx = from_bundle.compile_onnx

    def fall_back(*arguments):
        compiled = compile_onnx(*arguments)
        return replace(compiled, layers=dict.fromkeys(compiled.layers, "fp32"))

    before = Bundle.open(typed).sha256
    monkeypatch.setattr(from_bundle, "compile_onnx", fall_back)
    with pytest.raises(EngineError, match=r"model\.int8\.onnx: stage\.conv would compute in fp32, the graph says int8"):
        engines.build(typed, precision="int8", options=SM89)
    assert Bundle.open(typed).sha256 == before
    with pytest.raises(EngineError, match="the precision did not take effect"):
        engines.build_engine(typed / "model.int8.onnx", tmp_path / "x.engine", options=SM89)
    assert not (tmp_path / "x.engine").exists()


def test_engine_of_a_graph_without_types_or_names(tmp_path):
    """Given convs without names, of values without types -> built, and each type read back."""
    nodes = [
        helper.make_node("Conv", ["input", "w"], ["a"]),
        helper.make_node("Cast", ["a"], ["b"], to=TensorProto.FLOAT16),
        helper.make_node("Conv", ["b", "v"], ["logits"]),
    ]
    weights = [np.ones((4, 4, 3, 3), np.float32), np.ones((4, 4, 3, 3), np.float16)]
    graph = helper.make_graph(
        nodes,
        "nameless",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 4, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT16, [1, 4, 4, 4])],
        [numpy_helper.from_array(w, name) for w, name in zip(weights, "wv", strict=True)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, tmp_path / "m.onnx")
    record = engines.build_engine(tmp_path / "m.onnx", tmp_path / "x.engine", options=SM89)
    assert (record.precision, record.layers) == ("fp16", {"fp16": 1, "fp32": 1})


# --- several precisions --------------------------------------------------------------------------------------------


def make_typed(target, make):
    """A bundle with an int8 graph and an fp8 one."""
    with write_bundle(target) as draft:
        draft.manifest.inputs = (TensorSpec("input", "float32", (1, 16, 8, 8)),)
        draft.manifest.outputs = (TensorSpec("logits", "float32", (1, 10)),)
        make.typed_onnx(draft.path("model.onnx"))
        draft.path("reference.npz").write_bytes(b"a reference")
        onnx_sha256 = draft.link_onnx().sha256
        for precision in ("int8", "fp8"):
            file = f"model.{precision}.onnx"
            make.typed_onnx(draft.path(file), precision)
            record = GraphRecord(file, precision, "", onnx_sha256, {precision: 2}, "reference.npz", 0.5)
            draft.add_graph(record)
    return target


@pytest.fixture
def typed(tmp_path, make):
    return make_typed(tmp_path / "typed", make)


def add_engine(path, precision, backend="tensorrt_rtx", targets=("sm86",)):
    """An engine of which no one reads a byte."""
    with update_bundle(path) as draft:
        file = f"engines/{backend}-{precision.replace('+', '_')}-{'_'.join(targets)}.engine"
        draft.path(file).write_bytes(precision.encode())
        size, sha256 = draft.record(file).size, draft.record(file).sha256
        if precision == "fp32":
            of = next(link.sha256 for link in draft.manifest.chain if link.step == "onnx")
        else:
            of = next(graph.sha256 for graph in draft.manifest.graphs if graph.precision == precision)
        draft.add_engine(EngineRecord(file, backend, "1.0", precision, False, targets, None, (), 0.1, size, sha256, of))
    return file


@pytest.fixture
def runs(monkeypatch):
    """Which engines "run" here: those for sm86; what `load` then gives is the engine's name."""

    def why_not_run(record):
        return None if "sm86" in record.targets else f"it is for {', '.join(record.targets)}"

    monkeypatch.setattr(from_bundle, "why_not_run", why_not_run)
    monkeypatch.setattr(from_bundle, "run_record", lambda bundle, record: record.file)


def test_build_of_a_typed_graph(typed):
    """Given a precision -> an engine of that graph, linked to it, its layers read back; the other not touched."""
    record = engines.build(typed, precision="int8", options=SM89)
    bundle = Bundle.open(typed)
    graph = next(graph for graph in bundle.manifest.graphs if graph.precision == "int8")
    assert record.onnx_sha256 == graph.sha256 == bundle.manifest.chain[-1].parent
    assert (record.precision, record.layers, record.file) == ("int8", {"int8": 2}, record.file)
    assert record.file == "engines/tensorrt_rtx-int8-sm89.engine"
    assert engines.built(bundle.manifest, precision="int8", options=SM89) == record
    assert engines.built(bundle.manifest, precision="fp8", options=SM89) is None
    assert engines.built(bundle.manifest, options=SM89) is None


@pytest.mark.parametrize("call", [engines.build, engines.load])
def test_a_precision_that_the_bundle_lacks(typed, call):
    before = Bundle.open(typed).sha256
    wanted = "there is no fp16 graph in the bundle, which has fp32, int8, fp8; see `exporter build --precision`"
    with pytest.raises(EngineError, match=wanted):
        call(typed, precision="fp16")
    assert Bundle.open(typed).sha256 == before


def test_a_target_that_lacks_the_precision(typed):
    """Given fp8 and targets of which one has none -> one line; without targets, those that have it."""
    with pytest.raises(EngineError, match="sm80 has no fp8, sm89 and later have"):
        engines.build(typed, precision="fp8", options=BuildOptions(targets=("sm80", "sm89")))
    with pytest.raises(EngineError, match="sm80 has no fp8"):
        engines.check_request(options=BuildOptions(targets=("sm80",)), precision="fp8+fp16")
    engines.check_request(options=BuildOptions(targets=("sm80",)), precision="int8+bf16")
    record = engines.build(typed, precision="fp8")
    assert "sm89" in record.targets and not {"sm75", "sm80", "sm86"} & set(record.targets)
    assert engines.built(Bundle.open(typed).manifest, precision="fp8") == record


def test_load_takes_the_fastest_precision_of_what_runs(typed, runs):
    """Given engines of several precisions -> the fastest that this GPU runs, whatever their order in the bundle."""
    files = {"fp32": add_engine(typed, "fp32"), "int8": add_engine(typed, "int8")}
    add_engine(typed, "fp8", targets=("sm89",))
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
    with engines.load(typed, precision="int8") as runner:
        assert (runner.backend, runner.precision) == ("onnxruntime", "int8")


def test_onnxruntime_runs_a_typed_graph(typed, no_gpu):
    """Given a precision -> ONNX Runtime computes that graph: not what the fp32 one gives, and not far from it."""
    x = np.random.default_rng(0).normal(size=(1, 16, 8, 8)).astype(np.float32)
    with engines.load(typed, precision="int8", threads=1) as int8, engines.load(typed, threads=1) as fp32:
        assert (int8.precision, fp32.precision) == ("int8", "fp32")
        y, exact = int8({"input": x})["logits"], fp32({"input": x})["logits"]
    assert 0 < np.abs(y - exact).max() < 0.5 * exact.std()


def test_onnxruntime_that_cannot_run_a_typed_graph_says_so_in_one_line(tmp_path, make, no_gpu):
    """Given a graph in a type that ONNX Runtime has no kernels for -> EngineError, one line."""
    target = make_typed(tmp_path / "b", make)
    with update_bundle(target) as draft:
        make.typed_onnx(draft.path("model.bf16.onnx"), "bf16")
        onnx_sha256 = draft.manifest.graphs[0].onnx_sha256
        record = GraphRecord("model.bf16.onnx", "bf16", "", onnx_sha256, {"bf16": 2}, "reference.npz", 0.5)
        draft.add_graph(record)
    with pytest.raises(EngineError) as raised:
        engines.load(target, precision="bf16", providers="cpu")
    assert "\n" not in str(raised.value)
