"""The manifest's bytes, and what it may not say."""

import hashlib
import json
import math
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.bundle import (
    EngineRecord,
    FileRecord,
    Link,
    Manifest,
    ShapeRange,
    TensorSpec,
    plain_json,
    sha256_of_arrays,
    sha256_of_files,
)
from exporter.bundle.codec import bytes_of_manifest, manifest_of_bytes, sha256_in_manifest
from exporter.bundle.manifest import is_file_name, problems
from exporter.errors import BundleError

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
        preprocessing={"mean": [0.5], "layout": "NCHW"},
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
    assert data["format"] == "plainconv-bundle" and data["format_version"] == 1
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
        ({"format_version": 2}, "format version 2, this program reads 1; install"),
        ({"format": "zip"}, 'no "format": "plainconv-bundle"'),
        ({"name": 3}, "name is 3, wanted str"),
        ({"name": None}, "name is None, wanted str"),
        ({"inputs": [{"name": "x", "dtype": "float32", "shape": [True]}]}, r"inputs\[0\].shape is True, wanted int"),
        ({"files": {"model.onnx": {"size": "2", "sha256": ""}}}, "files.model.onnx.size is '2', wanted int"),
        ({"chain": [{"step": "onnx"}]}, r"chain\[0\].from is missing"),
        ({"engines": ["a"]}, r"engines\[0\].file is missing"),
        ({"parities": [1]}, r"\[0\] of parities is 1, wanted dict"),
    ],
)
def test_a_manifest_of_another_shape_is_one_line(change, message):
    """Given a manifest whose hash is right but a key is wrong -> one line that names the key."""
    with pytest.raises(BundleError, match=message) as raised:
        manifest_of_bytes(seal(json.loads(bytes_of_manifest(a_manifest())) | change))
    assert "\n" not in str(raised.value)


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
