"""The manifest's bytes, and what it may not say."""

import hashlib
import json
import math
import re
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from plainconv.exporter.bundle import (
    EngineRecord,
    FileRecord,
    GraphRecord,
    Link,
    Manifest,
    Postprocessing,
    ShapeRange,
    TensorSpec,
    plain_json,
    sha256_of_arrays,
    sha256_of_files,
)
from plainconv.exporter.bundle.codec import bytes_of_manifest, manifest_of_bytes, sha256_in_manifest
from plainconv.exporter.bundle.presets import preset
from plainconv.exporter.bundle.rules import is_file_name, problems
from plainconv.exporter.errors import BundleError

SHAPES = ShapeRange((1, 3, 8, 8), (4, 3, 8, 8), (8, 3, 8, 8))
THIN = ShapeRange((1, 3), (4, 3), (8, 3))
ODD = ShapeRange((4, 3, 8, 8), (1, 3, 8, 8), (8, 3, 8, 8))


def sha(text):
    return hashlib.sha256(text.encode()).hexdigest()


def a_manifest():
    engine = EngineRecord(
        file="engines/a.engine",
        backend="tensorrt_rtx",
        backend_version="1.7.1.116",
        precision="fp32",
        tf32=False,
        targets=("sm80", "sm86"),
        device=None,
        profiles=({"input": SHAPES},),
        seconds=0.25,
        size=3,
        sha256=sha("engine"),
        onnx_sha256=sha("onnx"),
        log="engines/a.log",
        warnings=("slow",),
    )
    return Manifest(
        name="vanillanet_6",
        inputs=(TensorSpec("input", "float32", ("batch", 3, 8, 8)),),
        outputs=(TensorSpec("logits", "float32", ("batch", 10)),),
        preprocessing=preset("imagenet-8"),
        postprocessing=Postprocessing("classify", output="logits"),
        classes=tuple("abcdefghij"),
        source={"kind": "models", "options": {"num_classes": 10}},
        counts={"plain": {"parameters": 7}},
        tools={"torch": "2.13.0"},
        parities=[{"step": "onnx", "error": 1e-7, "holds": True}],
        chain=(
            Link("checkpoint", sha("checkpoint")),
            Link("plain", sha("plain"), sha("checkpoint")),
            Link("onnx", sha("onnx"), sha("plain"), ("model.onnx",)),
            Link("engine", sha("engine"), sha("onnx"), ("engines/a.engine",)),
        ),
        engines=(engine,),
        files={
            "model.onnx": FileRecord(2, sha("onnx")),
            "engines/a.engine": FileRecord(3, sha("engine")),
            "engines/a.log": FileRecord(1, sha("log")),
        },
        written="2026-01-02T03:04:05Z",
        extra={"regions": [1, 2]},
    )


def test_manifest_survives_its_bytes():
    """Given a manifest -> its bytes, parsed, are that manifest, and their bytes are the same bytes."""
    manifest = a_manifest()
    raw = bytes_of_manifest(manifest)

    assert manifest_of_bytes(raw) == manifest
    assert bytes_of_manifest(manifest_of_bytes(raw)) == raw
    assert problems(manifest) == []


def test_manifest_is_canonical_json_sealed_by_its_own_hash():
    """Given a manifest -> sorted keys, a newline at the end, manifest_sha256 over the bytes with zeros in its place."""
    raw = bytes_of_manifest(a_manifest())
    data = json.loads(raw)

    assert raw.decode() == json.dumps(data, sort_keys=True, indent=2, ensure_ascii=False) + "\n"
    own = data["manifest_sha256"]
    assert hashlib.sha256(raw.replace(own.encode(), b"0" * 64)).hexdigest() == own
    assert data["format"] == "plainconv-bundle" and data["format_version"] == 3
    assert data["chain"][2] == {"step": "onnx", "sha256": sha("onnx"), "from": sha("plain"), "files": ["model.onnx"]}


def test_every_byte_of_the_manifest_is_guarded():
    """Given a manifest with any one byte changed -> its hash no longer holds."""
    raw = bytes_of_manifest(a_manifest())
    for at in range(len(raw)):
        for changed in (raw[at] ^ 1, raw[at] ^ 0x20, 0x0A, 0x22):
            if changed != raw[at]:
                assert sha256_in_manifest(raw[:at] + bytes([changed]) + raw[at + 1 :]) is None


def test_a_section_cannot_fake_the_hash():
    """Given a section that holds a key manifest_sha256 -> the manifest still parses, by its own one."""
    manifest = a_manifest()
    manifest.source = {"manifest_sha256": "0" * 64, "text": '\n  "manifest_sha256": "' + "0" * 64 + '"'}

    assert manifest_of_bytes(bytes_of_manifest(manifest)) == manifest


def seal(data):
    """Any JSON value as a manifest with a right hash: what another program might write."""
    blank = json.dumps(data | {"manifest_sha256": "0" * 64}, sort_keys=True, indent=2) + "\n"
    own = hashlib.sha256(blank.encode()).hexdigest()
    return blank.replace('\n  "manifest_sha256": "' + "0" * 64, '\n  "manifest_sha256": "' + own).encode()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, "format version 2, this program reads 3; export again, or install"),
        ({"format_version": 4}, "format version 4, this program reads 3; install"),
        ({"format": "zip"}, 'no "format": "plainconv-bundle"'),
        ({"name": 3}, "name is 3, wanted str"),
        ({"name": None}, "name is None, wanted str"),
        ({"inputs": [{"name": "x", "dtype": "float32", "shape": [True]}]}, r"inputs\[0\].shape is True, wanted int"),
        ({"files": {"model.onnx": {"size": "2", "sha256": ""}}}, "files.model.onnx.size is '2', wanted int"),
        ({"chain": [{"step": "onnx"}]}, r"chain\[0\].from is missing"),
        ({"engines": ["a"]}, r"engines\[0\].file is missing"),
        ({"graphs": None}, "graphs is None, wanted list"),
        ({"graphs": ["a"]}, r"graphs\[0\].file is missing"),
        ({"cpu_graphs": None}, "cpu_graphs is None, wanted list"),
        ({"cpu_graphs": ["a"]}, r"cpu_graphs\[0\].file is missing"),
        ({"parities": [1]}, r"\[0\] of parities is 1, wanted dict"),
    ],
)
def test_a_manifest_of_another_shape_is_one_line(change, message):
    """Given a manifest whose hash is right but a key is wrong -> one line that names the key."""
    with pytest.raises(BundleError, match=message) as raised:
        manifest_of_bytes(seal(json.loads(bytes_of_manifest(a_manifest())) | change))
    assert "\n" not in str(raised.value)


def test_the_version_comes_before_the_keys():
    """Given a manifest of version 1, which had no graphs -> its version is named, not the key that it lacks."""
    data = json.loads(bytes_of_manifest(a_manifest())) | {"format_version": 1}
    del data["graphs"]
    with pytest.raises(BundleError, match="format version 1, this program reads 3"):
        manifest_of_bytes(seal(data))


def test_bytes_that_are_no_manifest():
    """Given bytes that only carry a right hash -> BundleError, no traceback of the parser."""
    blank = b'{\n  "manifest_sha256": "' + b"0" * 64 + b'",\n'
    raw = blank.replace(b"0" * 64, hashlib.sha256(blank).hexdigest().encode())
    for text in (raw, b"", b"\xff" * 9, seal({}), b"[]"):
        with pytest.raises(BundleError, match=r"manifest\.json"):
            manifest_of_bytes(text)


def without(manifest, **changes):
    return replace(manifest, **changes)


def test_what_a_manifest_may_not_say():
    """Given a manifest whose parts disagree -> each problem is named."""
    good = a_manifest()
    checkpoint, plain, onnx, engine_link = good.chain
    both = ("model.onnx", "engines/a.log")
    all_files = Link("onnx", sha256_of_files({name: good.files[name] for name in both}), sha("plain"), both)
    engine = good.engines[0]
    cases = [
        (without(good, files={**good.files, "../x": FileRecord(0, sha(""))}), "'../x' is no file name"),
        (without(good, files={**good.files, "MODEL.onnx": FileRecord(0, sha(""))}), "differ only in case"),
        (without(good, files={}), "model.onnx is not among the files"),
        (without(good, files={"model.onnx": FileRecord(-1, "x")}), "not a size and a sha256"),
        (without(good, inputs=()), "inputs is empty"),
        (without(good, outputs=good.outputs * 2), "outputs is empty or names one tensor twice"),
        (without(good, inputs=(TensorSpec("x", "float", (1,)),)), "dtype 'float'"),
        (without(good, inputs=(TensorSpec("x", "float32", (0,)),)), "shape [0]"),
        (without(good, chain=(plain, onnx, engine_link)), "chain[0] (plain) does not start from"),
        (
            without(good, chain=(checkpoint, replace(plain, parent=None), onnx, engine_link)),
            "chain[1] (plain) does not",
        ),
        (without(good, chain=(checkpoint, onnx, plain, engine_link)), "chain[1] (onnx) does not start from"),
        (without(good, chain=(checkpoint, plain, replace(onnx, sha256=sha("x")), engine_link)), "not have the hash of"),
        (without(good, chain=(checkpoint, plain, engine_link)), 'exactly one link "onnx"'),
        (without(good, chain=(checkpoint, plain, onnx)), "is not linked to the ONNX graph"),
        (without(good, engines=()), "1 engine links for 0 engine records"),
        (without(good, engines=(engine, engine)), "1 engine links for 2 engine records"),
        (without(good, engines=(replace(engine, size=4),)), "with the size and sha256 of its record"),
        (without(good, engines=(replace(engine, onnx_sha256=sha("x")),)), "is not linked to the ONNX graph"),
        (without(good, engines=(replace(engine, log="engines/b.log"),)), "has a log engines/b.log, which is not"),
        (without(good, engines=(replace(engine, targets=()),)), "has targets [], wanted at least one"),
        (without(good, engines=(replace(engine, profiles=({"x": SHAPES},)),)), "profile that is none of the model's"),
        (without(good, engines=(replace(engine, profiles=({"input": THIN},)),)), "profile that is none of the model's"),
        (without(good, engines=(replace(engine, profiles=({"input": ODD},)),)), "profile that is none of the model's"),
        (without(good, chain=(checkpoint, plain, all_files, engine_link)), 'exactly one link "onnx", over model.onnx'),
    ]
    for manifest, wanted in cases:
        assert any(wanted in problem for problem in problems(manifest)), (wanted, problems(manifest))


def test_external_data_belongs_to_the_onnx_link():
    """Given model.onnx.data -> the onnx link must cover it, with the hash of the two as sha256sum lists them."""
    files = {"model.onnx": FileRecord(2, sha("onnx")), "model.onnx.data": FileRecord(9, sha("data"))}
    own = hashlib.sha256(f"{sha('onnx')}  model.onnx\n{sha('data')}  model.onnx.data\n".encode()).hexdigest()
    link = Link("onnx", own, None, ("model.onnx", "model.onnx.data"))
    manifest = without(a_manifest(), files=files, chain=(link,), engines=())

    assert sha256_of_files(files) == own
    assert problems(manifest) == []
    alone = Link("onnx", sha("onnx"), None, ("model.onnx",))
    assert problems(without(manifest, chain=(alone,))) == [
        'the chain needs exactly one link "onnx", over model.onnx and model.onnx.data'
    ]


# --- graphs of lower precisions ------------------------------------------------------------------------------------


def a_typed_manifest():
    """`a_manifest` with a graph in int8+fp16, and an engine of it."""
    good = a_manifest()
    graph = GraphRecord(
        file="model.int8_fp16.onnx",
        precision="int8+fp16",
        sha256=sha("typed"),
        onnx_sha256=sha("onnx"),
        layers={"int8": 9, "fp32": 1},
        reference="reference.0123abcd.npz",
        tolerance=0.5,
        kept=({"layer": "stem", "type": "fp16", "reason": "alone 0.7 of the spread off"},),
        calibration={"images": 40, "sha256": sha("images"), "method": "auto", "chosen": "minmax"},
    )
    engine = replace(
        good.engines[0],
        file="engines/b.engine",
        sha256=sha("b"),
        precision="int8+fp16",
        onnx_sha256=sha("typed"),
        layers={"int8": 9, "fp32": 1},
        options={"workspace": 2**20},
        log=None,
    )
    files = {
        graph.file: FileRecord(5, sha("typed")),
        graph.reference: FileRecord(6, sha("reference")),
        "engines/b.engine": FileRecord(3, sha("b")),
    }
    return without(
        good,
        chain=(
            *good.chain,
            Link("typed", sha("typed"), sha("onnx"), (graph.file,)),
            Link("engine", sha("b"), sha("typed"), (engine.file,)),
        ),
        graphs=(graph,),
        engines=(*good.engines, engine),
        files=good.files | files,
    )


def test_graphs_survive_their_bytes():
    manifest = a_typed_manifest()
    raw = bytes_of_manifest(manifest)
    assert manifest_of_bytes(raw) == manifest and bytes_of_manifest(manifest_of_bytes(raw)) == raw
    assert problems(manifest) == []


def test_what_a_manifest_may_not_say_of_graphs():
    """Given graphs, typed links, files and engines that disagree -> each problem is named."""
    good = a_typed_manifest()
    (graph,), typed, engine = good.graphs, good.chain[4], good.engines[1]
    no_reference = {name: record for name, record in good.files.items() if name != graph.reference}
    data = {f"{graph.file}.data": FileRecord(1, sha("data"))}

    def link(**changes):
        return without(good, chain=(*good.chain[:4], replace(typed, **changes), good.chain[5]))

    def of(**changes):
        return without(good, graphs=(replace(graph, **changes),))

    not_linked = "graph model.int8_fp16.onnx is not linked to the ONNX model it was made from"
    cases = [
        (without(good, graphs=()), "1 typed links for 0 graphs"),
        (without(good, graphs=(graph, graph)), "1 typed links for 2 graphs, one a precision"),
        (without(good, chain=(*good.chain[:4],)), not_linked),
        (without(good, chain=(*good.chain[:4], typed, typed, good.chain[5])), not_linked),
        (without(good, files=good.files | data), not_linked),
        (without(good, files=no_reference), "has a reference reference.0123abcd.npz, which is not among the files"),
        (link(parent=sha("plain")), not_linked),
        (link(parent=sha("engine")), not_linked),
        (link(sha256=sha("x")), "chain[4] (typed) does not have the hash of model.int8_fp16.onnx"),
        (link(files=("engines/a.log",)), not_linked),
        (link(files=()), not_linked),
        (link(step="plain"), not_linked),
        (of(file="model.onnx"), "graph model.onnx is not linked"),
        (of(file="model.fp16.onnx"), "graph model.fp16.onnx is not linked"),
        (of(sha256=sha("x")), not_linked),
        (of(onnx_sha256=sha("plain")), "was made from an ONNX model that is not in the bundle"),
        (of(reference="x.npz"), "has a reference x.npz, which is not among the files"),
        (of(precision="fp32"), "is fp32, wanted a lower precision: fp32 is model.onnx"),
        (of(precision="fp8"), "engine engines/b.engine is int8+fp16, but was built from the fp8 graph"),
        (of(tolerance=0.0), "has tolerance 0.0, wanted a positive number"),
        (of(tolerance=math.nan), "has tolerance nan, wanted a positive number"),
        (of(tolerance=math.inf), "has tolerance inf, wanted a positive number"),
        (without(good, engines=(good.engines[0], replace(engine, onnx_sha256=sha("onnx")))), "engines/b.engine is not"),
        (without(good, engines=(good.engines[0], replace(engine, precision="fp32"))), "built from the int8+fp16 graph"),
    ]
    for manifest, wanted in cases:
        assert any(wanted in problem for problem in problems(manifest)), (wanted, problems(manifest))


def with_a_cpu_graph(**changes):
    """`a_typed_manifest` with a graph for CPUs beside its own, changed so."""
    good = a_typed_manifest()
    record = FileRecord(7, sha("for cpus"))
    graph = replace(good.graphs[0], file="model.int8_fp16.cpu.onnx", sha256=record.sha256)
    link = Link("typed-cpu", record.sha256, graph.onnx_sha256, (graph.file,))
    files = {**good.files, graph.file: record}
    return without(good, **{"files": files, "chain": (*good.chain, link), "cpu_graphs": (graph,)} | changes)


def test_a_graph_for_cpus_survives_its_bytes():
    manifest = with_a_cpu_graph()
    assert problems(manifest) == []
    assert manifest_of_bytes(bytes_of_manifest(manifest)) == manifest


def test_a_manifest_without_the_key_has_no_graphs_for_cpus():
    """Given a manifest as it was before there were any -> it is read as it was."""
    data = json.loads(bytes_of_manifest(a_typed_manifest()))
    del data["cpu_graphs"]
    assert manifest_of_bytes(seal(data)) == a_typed_manifest()


def test_what_a_manifest_may_not_say_of_graphs_for_cpus():
    """Given graphs for CPUs, links and files that disagree -> each problem is named."""
    good = with_a_cpu_graph()
    (graph,), link = good.cpu_graphs, good.chain[-1]
    not_linked = f"graph {graph.file} is not linked to the ONNX model it was made from"
    cases = [
        ({"cpu_graphs": ()}, "1 typed-cpu links for 0 graphs"),
        ({"cpu_graphs": (graph, graph)}, "1 typed-cpu links for 2 graphs, one a precision"),
        ({"chain": good.chain[:-1]}, not_linked),
        ({"chain": (*good.chain[:-1], replace(link, step="typed"))}, not_linked),
        ({"chain": (*good.chain[:-1], replace(link, parent=good.chain[0].sha256))}, not_linked),
        ({"cpu_graphs": (replace(graph, sha256=sha("x")),)}, not_linked),
        ({"cpu_graphs": (replace(graph, reference="x.npz"),)}, "has a reference x.npz, which is not among the files"),
        ({"cpu_graphs": (replace(graph, precision="fp32"),)}, "is fp32, wanted a lower precision"),
        ({"cpu_graphs": (replace(graph, tolerance=0.0),)}, "has tolerance 0.0, wanted a positive number"),
    ]
    for changes, wanted in cases:
        found = problems(with_a_cpu_graph(**changes))
        assert any(wanted in problem for problem in found), (wanted, found)


def test_external_data_of_a_graph_belongs_to_its_link():
    """Given a graph's .data file -> the typed link, and the record, have the hash of the two."""
    good = a_typed_manifest()
    (graph,), typed, engine = good.graphs, good.chain[4], good.engines[1]
    names = (graph.file, f"{graph.file}.data")
    files = good.files | {names[1]: FileRecord(1, sha("data"))}
    own = sha256_of_files({name: files[name] for name in names})
    link, built = replace(typed, sha256=own, files=names), replace(good.chain[5], parent=own)
    manifest = without(
        good,
        files=files,
        chain=(*good.chain[:4], link, built),
        graphs=(replace(graph, sha256=own),),
        engines=(good.engines[0], replace(engine, onnx_sha256=own)),
    )
    assert problems(manifest) == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats() | st.text(max_size=9) | st.just(sha("onnx")),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


def is_free(key, value):
    """Whether a graph's member may have another value: what it says is not said anywhere else."""
    if key == "layers":
        return isinstance(value, dict) and all(type(count) is int for count in value.values())
    if key == "kept":
        return isinstance(value, list) and all(isinstance(item, dict) for item in value)
    if key == "tolerance":
        return type(value) in (int, float) and 0 < value < math.inf
    return key == "calibration" and (value is None or isinstance(value, dict))


def refused_as(raw):
    """Why a reader refuses these bytes; empty where it does not."""
    try:
        return problems(manifest_of_bytes(raw))
    except BundleError as error:
        return [str(error)]


@given(key=st.sampled_from([field.name for field in fields(GraphRecord)]), value=JSON)
def test_a_graph_record_with_any_member_changed_is_refused(key, value):
    """Given another value of any member, rightly hashed -> refused in one line, unless it is the only one to say so."""
    data = json.loads(bytes_of_manifest(a_typed_manifest()))
    assume(value != data["graphs"][0][key])
    data["graphs"][0][key] = value
    found = refused_as(seal(data))
    assert bool(found) != is_free(key, value), (found, key, value)
    assert not any("\n" in problem for problem in found)


@given(key=st.sampled_from(["step", "sha256", "from", "files"]), value=JSON)
def test_a_typed_link_with_any_member_changed_is_refused(key, value):
    data = json.loads(bytes_of_manifest(a_typed_manifest()))
    assume(value != data["chain"][4][key])
    data["chain"][4][key] = value
    assert refused_as(seal(data))


@pytest.mark.parametrize("key", [field.name for field in fields(GraphRecord)])
def test_a_graph_record_that_lacks_a_member_is_one_line(key):
    data = json.loads(bytes_of_manifest(a_typed_manifest()))
    del data["graphs"][0][key]
    with pytest.raises(BundleError, match=rf"graphs\[0\]\.{key} is missing"):
        manifest_of_bytes(seal(data))


@given(st.text(st.sampled_from("aZ0_.-/\\: \0é")))
def test_file_names_stay_inside_the_folder(name):
    """Given any name a bundle may hold -> it is relative, portable, and never climbs out."""
    if is_file_name(name):
        assert re.fullmatch(r"[A-Za-z0-9._/-]+", name)
        assert all(part not in ("", ".", "..") and not part.startswith(".") for part in name.split("/"))
        assert not name.endswith(".")


@pytest.mark.parametrize("name", ["model.onnx", "engines/tensorrt_rtx-fp32-sm80_sm86.engine", "a/b/c/d", "x-y_z.1"])
def test_file_names_that_a_bundle_holds(name):
    assert is_file_name(name)


@pytest.mark.parametrize("name", ["manifest.json", "Manifest.JSON", "/a", "a/", "a//b", "C:x", "a/b/c/d/e", ".a", "a."])
def test_file_names_that_no_bundle_holds(name):
    assert not is_file_name(name)


@dataclass(frozen=True)
class Point:
    x: float
    at: Path


def test_plain_json():
    """Given what callers put into a section -> what JSON can hold."""
    value = {"p": Point(np.float32(0.5), Path("a/b")), 3: (np.int64(4), np.bool_(True)), "a": np.arange(2)}

    assert plain_json(value) == {"p": {"x": 0.5, "at": "a/b"}, "3": [4, True], "a": [0, 1]}
    assert plain_json([math.nan, -math.inf, np.float64("inf")]) == ["nan", "-inf", "inf"]
    assert plain_json("\udcff") == "\\udcff"
    with pytest.raises(TypeError, match="cannot hold a set"):
        plain_json({1, 2})


def test_hash_of_arrays():
    """Given named arrays -> a hash of names, dtypes, shapes and values, whatever their order in memory."""
    w_OI = np.arange(6, dtype=np.float32).reshape(2, 3)
    own = hashlib.sha256(b"b\0int64\0\0" + (7).to_bytes(8, "little") + b"w\0float32\x002,3\0" + w_OI.tobytes())

    assert sha256_of_arrays({"w": np.asfortranarray(w_OI), "b": np.array(7)}) == own.hexdigest()
    assert sha256_of_arrays({"w": w_OI.astype(">f4"), "b": np.array(7)}) == own.hexdigest()
    assert sha256_of_arrays({"w": w_OI.reshape(3, 2), "b": np.array(7)}) != own.hexdigest()
