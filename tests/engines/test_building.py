"""Engines in a bundle: built into it, and verified with it."""

import importlib.util
import os
import re
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from plainconv import engines
from plainconv.engines import BuildOptions, building
from plainconv.exporter.bundle import Bundle, ShapeRange, TensorSpec, update_bundle, write_bundle
from plainconv.exporter.errors import BundleError, EngineError, PlainconvWarning

pytestmark = pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="needs tensorrt-rtx")

NAME = "engines/tensorrt_rtx-fp32-sm86_sm89"

SM86 = BuildOptions(targets=("sm86",))

SM89 = BuildOptions(targets=("sm89",))

PROFILE = {"input": ShapeRange((1, 3, 8, 8), (2, 3, 8, 8), (4, 3, 8, 8))}


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
        building.build_into(draft)
    with pytest.raises(BundleError), write_bundle(tmp_path / "bundle") as draft:
        draft.path("model.onnx").write_bytes(onnx_file.read_bytes())
        draft.link_onnx()
        record = building.build_into(draft, options=SM86)
        assert draft.manifest.engines == (record,) and draft.file(record.file).stat().st_size == record.size
        raise BundleError("given up")


def test_build_engine_without_a_bundle(tmp_path, onnx_file):
    record = building.build_engine(onnx_file, tmp_path / "x.engine", options=SM86)
    assert (record.file, record.log) == ("x.engine", None)
    assert record.size == (tmp_path / "x.engine").stat().st_size


def test_build_engine_takes_names_and_leaves_no_other_file(tmp_path, onnx_file):
    """Given paths as strings, and an older file in the place -> the engine alone, whole."""
    out = tmp_path / "out" / "x.engine"
    out.parent.mkdir()
    out.write_bytes(b"old")
    record = building.build_engine(str(onnx_file), str(out), options=SM86)
    assert list(out.parent.iterdir()) == [out] and out.stat().st_size == record.size


@pytest.mark.parametrize("out", ["nofolder/x.engine", "."])
def test_build_engine_where_nothing_can_be_written(tmp_path, onnx_file, monkeypatch, out):
    """Given no folder, or a folder -> one line, before anything is built."""
    monkeypatch.setattr("plainconv.engines.building.compile_onnx", lambda *_: pytest.fail("it was built"))
    with pytest.raises(EngineError, match="no file can be written there; name one in a folder that exists"):
        building.build_engine(onnx_file, tmp_path / out, options=SM86)


def test_build_engine_that_cannot_be_written_keeps_the_old_file(tmp_path, onnx_file, monkeypatch):
    """Given a disk that is full -> one line, the old file whole and nothing beside it."""

    def full(handle):
        raise OSError(28, "No space left on device")

    out = tmp_path / "x" / "x.engine"
    out.parent.mkdir()
    out.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EngineError, match=r"cannot be written .No space left on device.; choose another place"):
        building.build_engine(onnx_file, out, options=SM86)
    assert list(out.parent.iterdir()) == [out] and out.read_bytes() == b"old"


def test_options_are_checked_where_nothing_is_built(bundle, tmp_path):
    """Given the very engine in the bundle, and an option that its backend has not -> refused all the same."""
    engines.build(bundle, options=SM86)
    with pytest.raises(EngineError, match="but tensorrt_rtx has none"):
        engines.build(bundle, options=replace(SM86, timing_cache=tmp_path / "cache"))


def test_engine_of_another_model_breaks_the_chain(bundle):
    """Given an engine record that names another ONNX graph as its source -> the bundle is not written."""
    engines.build(bundle, options=SM86)
    with pytest.raises(BundleError, match="does not start from an earlier link"), update_bundle(bundle) as draft:
        draft.add_engine(replace(draft.manifest.engines[0], onnx_sha256="0" * 64))


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
        {"onnx_sha256": "0" * 64},
    ],
    ids=lambda change: next(iter(change)),
)
def test_an_engine_that_was_built_otherwise_is_not_taken_for_it(bundle, change):
    record = engines.build(bundle, options=SM86)
    manifest = Bundle.open(bundle).manifest
    assert building.built(manifest, options=SM86) == record
    manifest.engines = (replace(record, **change),)
    assert building.built(manifest, options=SM86) is None


def test_engine_of_a_model_that_is_in_fp16_itself_says_so(tmp_path, make):
    """Given a bundle of an ONNX file in fp16 -> its engine is on record as fp16, and is not built again."""
    with write_bundle(tmp_path / "half") as draft:
        draft.manifest.inputs = (TensorSpec("input", "float16", (1, 3, 8, 8)),)
        draft.manifest.outputs = (TensorSpec("logits", "float16", (1, 4, 8, 8)),)
        make.onnx(draft.path("model.onnx"), dtype=np.float16)
        draft.link_onnx()
    record = engines.build(tmp_path / "half", options=SM86)
    assert (record.precision, record.layers) == ("fp16", {"fp16": 1}) and "-fp16-" in record.file
    assert engines.build(tmp_path / "half", options=SM86) == Bundle.open(tmp_path / "half").engines[0] == record


def test_builder_settings_are_on_record_and_make_engines_of_their_own(bundle):
    """Given another workspace, level or tf32 -> an engine beside the first, which says what it was built with."""
    plain = engines.build(bundle, options=SM86)
    changes = ({"workspace": 2**26}, {"optimization_level": 0}, {"max_aux_streams": 0}, {"tf32": True})
    for changed in changes:
        options = replace(SM86, **changed)
        record = engines.build(bundle, options=options)
        assert record.file != plain.file
        assert record.options == {name: value for name, value in changed.items() if name != "tf32"}
        assert record.tf32 == options.tf32
        assert building.built(Bundle.open(bundle).manifest, options=options) == record
    assert len(Bundle.open(bundle).engines) == 5


def test_what_was_measured_of_an_engine_goes_with_it(bundle):
    """Given an engine that is built again -> the parities of its file are dropped, others stay."""
    record = engines.build(bundle, options=SM86)
    with update_bundle(bundle) as draft:
        draft.manifest.parities += [{"step": "x", "status": "held", "file": record.file}, {"step": "y"}]
    engines.build(bundle, options=SM86, rebuild=True)
    assert Bundle.open(bundle).manifest.parities == [{"step": "y"}]


def test_layers_that_compute_in_what_the_graph_says():
    """Given the graph's types -> the same are taken, and a layer under another name, as long as the count is right."""
    wanted = {"a": "fp16", "b": "fp32"}
    for found in (wanted, {"a + relu": "fp16", "b": "fp32"}, {**wanted, "added": "fp32"}):
        engines.building.check_precision(wanted, found, "m.onnx")


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
        engines.building.check_precision({"a": "fp16", "b": "fp16", "c": "fp32"}, found, "m.onnx")
    assert "\n" not in str(raised.value)


def test_a_builder_that_falls_back_to_fp32_leaves_no_engine(typed, monkeypatch, tmp_path):
    """Given layers that come back in fp32 where the graph says int8 -> an error; bundle and folder are as before."""
    compile_onnx = building.compile_onnx

    def fall_back(*arguments):
        compiled = compile_onnx(*arguments)
        return replace(compiled, layers=dict.fromkeys(compiled.layers, "fp32"))

    before = Bundle.open(typed).sha256
    monkeypatch.setattr(building, "compile_onnx", fall_back)
    with pytest.raises(EngineError, match=r"model\.int8\.onnx: stage\.conv would compute in fp32, the graph says int8"):
        engines.build(typed, precision="int8", options=SM89)
    assert Bundle.open(typed).sha256 == before
    with pytest.raises(EngineError, match="the precision did not take effect"):
        building.build_engine(typed / "model.int8.onnx", tmp_path / "x.engine", options=SM89)
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
    record = building.build_engine(tmp_path / "m.onnx", tmp_path / "x.engine", options=SM89)
    assert (record.precision, record.layers) == ("fp16", {"fp16": 1, "fp32": 1})


def test_build_of_a_typed_graph(typed):
    """Given a precision -> an engine of that graph, linked to it, its layers read back; the other not touched."""
    record = engines.build(typed, precision="int8", options=SM89)
    bundle = Bundle.open(typed)
    graph = next(graph for graph in bundle.manifest.graphs if graph.precision == "int8")
    assert record.onnx_sha256 == graph.sha256 == bundle.manifest.chain[-1].parent
    assert (record.precision, record.layers, record.file) == ("int8", {"int8": 2}, record.file)
    assert record.file == "engines/tensorrt_rtx-int8-sm89.engine"
    assert building.built(bundle.manifest, precision="int8", options=SM89) == record
    assert building.built(bundle.manifest, precision="fp8", options=SM89) is None
    assert building.built(bundle.manifest, options=SM89) is None


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
        building.check_request(options=BuildOptions(targets=("sm80",)), precision="fp8+fp16")
    building.check_request(options=BuildOptions(targets=("sm80",)), precision="int8+bf16")
    record = engines.build(typed, precision="fp8")
    assert "sm89" in record.targets and not {"sm75", "sm80", "sm86"} & set(record.targets)
    assert building.built(Bundle.open(typed).manifest, precision="fp8") == record
