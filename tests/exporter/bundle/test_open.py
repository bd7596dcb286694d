"""Opening a bundle: whatever was changed in the folder is noticed."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys

import pytest
from examples import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from places import ROOT

from plainconv.exporter.bundle import (
    Bundle,
    EngineRecord,
    GraphRecord,
    TensorSpec,
    check_target,
    identity,
    strict_json,
    update_bundle,
    write_bundle,
)
from plainconv.exporter.bundle.codec import bytes_of_manifest, manifest_of_bytes
from plainconv.exporter.bundle.plain_file import open_plain
from plainconv.exporter.bundle.reader import sha256_of_file
from plainconv.exporter.errors import BundleError


def write(target):
    with write_bundle(target) as draft:
        draft.manifest.name = "tiny"
        draft.manifest.inputs = (TensorSpec("input", "float32", (1, 3, 8, 8)),)
        draft.manifest.outputs = (TensorSpec("logits", "float32", (1, 10)),)
        draft.path("model.onnx").write_bytes(b"graph" * 20)
        draft.path("model.onnx.data").write_bytes(bytes(range(200)))
        draft.path("engines/a.engine").write_bytes(b"engine")
        draft.path("engines/a.log").write_bytes(b"built")
        draft.link("checkpoint", sha256="c" * 64)
        onnx = draft.link_onnx().sha256
        engine = draft.record("engines/a.engine")
        draft.add_engine(
            EngineRecord(
                file="engines/a.engine",
                backend="tensorrt_rtx",
                backend_version="1.7",
                precision="fp32",
                tf32=False,
                targets=("sm80",),
                device=None,
                profiles=(),
                seconds=0.5,
                size=engine.size,
                sha256=engine.sha256,
                onnx_sha256=onnx,
                log="engines/a.log",
            )
        )
    return target


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    return write(tmp_path_factory.mktemp("open") / "pristine")


@pytest.fixture
def folder(pristine, tmp_path):
    return shutil.copytree(pristine, tmp_path / "bundle")


FILES = ["manifest.json", "model.onnx", "model.onnx.data", "engines/a.engine", "engines/a.log"]


def test_open(folder):
    """Given a bundle -> its records and where its files lie."""
    bundle = Bundle.open(folder)

    assert bundle.onnx == folder / "model.onnx"
    assert bundle.engines[0].onnx_sha256 == bundle.onnx_sha256
    assert str(bundle.inputs[0]) == "input float32[1, 3, 8, 8]"
    assert sorted(bundle.manifest.files) == sorted(FILES[1:])
    assert bundle.sha256 == json.loads((folder / "manifest.json").read_bytes())["manifest_sha256"]
    assert Bundle.open(str(folder)).manifest == bundle.manifest
    with pytest.raises(BundleError, match=r"holds no model\.pt; it holds engines/a\.engine"):
        bundle.file("model.pt")


def test_read(folder):
    """Given an open bundle -> the bytes that were verified, or nothing."""
    bundle = Bundle.open(folder)
    assert bundle.read("engines/a.engine") == b"engine"
    (folder / "engines" / "a.engine").write_bytes(b"enginf")
    with pytest.raises(BundleError, match=r"engines/a\.engine was changed since the bundle was opened"):
        bundle.read("engines/a.engine")


@settings(max_examples=examples(150), suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(name=st.sampled_from(FILES), where=st.floats(0, 1, exclude_max=True), mask=st.integers(1, 255))
def test_one_byte_flipped(folder, name, where, mask):
    """Given any byte of any file changed -> the bundle does not open, in one line that names the file."""
    path = folder / name
    good = path.read_bytes()
    bad = bytearray(good)
    bad[int(where * len(bad))] ^= mask
    path.write_bytes(bad)
    try:
        with pytest.raises(BundleError) as raised:
            Bundle.open(folder)
    finally:
        path.write_bytes(good)
    assert f"{name} is damaged" in str(raised.value) and "\n" not in str(raised.value)
    Bundle.open(folder)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("change", ["longer", "shorter", "empty", "missing"])
def test_file_of_another_length(folder, name, change):
    """Given a file cut, extended, emptied or gone -> BundleError names it."""
    path = folder / name
    good = path.read_bytes()
    if change == "missing":
        path.unlink()
    else:
        path.write_bytes({"longer": good + b"\n", "shorter": good[:-1], "empty": b""}[change])
    with pytest.raises(BundleError, match=name.replace(".", r"\.")):
        Bundle.open(folder)


@pytest.mark.parametrize("name", ["notes.txt", ".hidden", "engines/b.engine", "deep/er/x"])
def test_extra_file(folder, name):
    """Given a file that the manifest does not list -> BundleError says to move it out."""
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"")
    with pytest.raises(BundleError, match=rf"{name} does not belong to the bundle; move it out"):
        Bundle.open(folder)


def test_several_problems_are_counted(folder):
    (folder / "model.onnx").unlink()
    (folder / "x").write_bytes(b"")
    with pytest.raises(BundleError, match=r"model\.onnx is missing; export again.* \(and 1 more\)$"):
        Bundle.open(folder)


def test_extra_empty_folder(folder):
    (folder / "engines" / "old").mkdir()
    with pytest.raises(BundleError, match="engines/old/ is an empty folder"):
        Bundle.open(folder)


@pytest.mark.parametrize("name", FILES)
def test_symbolic_link_in_place_of_a_file(folder, tmp_path, name):
    """Given a file replaced by a link to its own bytes elsewhere -> refused."""
    (folder / name).rename(tmp_path / "moved")
    (folder / name).symlink_to(tmp_path / "moved")
    with pytest.raises(BundleError, match=r"symbolic link|holds no file manifest\.json"):
        Bundle.open(folder)


def test_symbolic_link_in_place_of_a_folder(folder, tmp_path):
    (folder / "engines").rename(tmp_path / "moved")
    (folder / "engines").symlink_to(tmp_path / "moved")
    with pytest.raises(BundleError, match="engines is a symbolic link, wanted plain files only"):
        Bundle.open(folder)


def test_special_file(folder):
    os.mkfifo(folder / "pipe")
    with pytest.raises(BundleError, match="pipe is a special file"):
        Bundle.open(folder)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("name", ["manifest.json", "model.onnx", "model.onnx.data", "engines/a.engine"])
def test_a_pipe_in_place_of_a_file(folder, name):
    """Given a pipe that nobody writes to, before or after the folder was looked at -> it is not waited at."""
    bundle = Bundle.open(folder)
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(BundleError, match=r"holds no file manifest\.json" if name == "manifest.json" else name):
        Bundle.open(folder)
    if name == "manifest.json":
        assert identity(folder) is None
        with pytest.raises(BundleError, match=r"holds manifest\.json, which is not of a bundle"):
            check_target(folder, force=True)
    else:
        with pytest.raises(BundleError, match=f"{name} is a special file, wanted plain files only"):
            bundle.read(name)
        with pytest.raises(BundleError, match="special file"):
            sha256_of_file(folder / name)


def test_a_file_that_changes_its_kind_while_it_is_opened(folder, monkeypatch):
    """Given a pipe in the place of a file between its being looked at and opened -> it is refused by its handle."""
    real = os.open

    def swapped(path, *arguments, **options):
        if str(path).endswith("model.onnx"):
            os.unlink(path)
            os.mkfifo(path)
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", swapped)
    with pytest.raises(BundleError, match=r"model\.onnx is a special file"):
        open_plain(folder / "model.onnx")


def test_a_number_of_very_many_digits(folder):
    """Given an integer of more digits than Python converts -> our own words."""
    with pytest.raises(ValueError, match=r"^a number beyond float64$"):
        strict_json.parse(b'{"a": ' + b"9" * 5000 + b"}")


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "engines/../../outside", "..", "a\\b"])
def test_path_that_leaves_the_folder(folder, name):
    """Given a manifest, rightly hashed, that lists a path outside -> refused before anything there is read."""
    (folder.parent / "outside").write_bytes(b"secret")
    manifest = manifest_of_bytes((folder / "manifest.json").read_bytes())
    manifest.files[name] = manifest.files["model.onnx"]
    (folder / "manifest.json").write_bytes(bytes_of_manifest(manifest))
    with pytest.raises(BundleError, match="is no file name that a bundle may hold"):
        Bundle.open(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"file": "../outside"}, r"graph \.\./outside is not linked to the ONNX model"),
        ({"reference": "../outside"}, r"has a reference \.\./outside, which is not among the files"),
        ({"sha256": "0" * 64}, r"graph model\.fp16\.onnx is not linked"),
        ({"tolerance": 0.0}, "tolerance 0.0, wanted a positive number"),
    ],
)
def test_graph_records_are_judged_before_any_file_is_read(folder, change, message):
    """Given a graph record that may not be, in a manifest rightly hashed, and a file gone -> the record is named."""
    with update_bundle(folder) as draft:
        draft.path("model.fp16.onnx").write_bytes(b"half")
        onnx = next(link.sha256 for link in draft.manifest.chain if link.step == "onnx")
        draft.add_graph(GraphRecord("model.fp16.onnx", "fp16", "", onnx, {"fp16": 1}, "model.onnx", 0.1))
    manifest = Bundle.open(folder).manifest
    manifest.graphs = (dataclasses.replace(manifest.graphs[0], **change),)
    (folder / "manifest.json").write_bytes(bytes_of_manifest(manifest))
    (folder / "model.onnx").unlink()
    (folder.parent / "outside").write_bytes(b"secret")
    with pytest.raises(BundleError, match=message) as raised:
        Bundle.open(folder)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: None, "not a bundle .no such folder.; give the folder that"),
        (lambda p: p.mkdir(), r"not a bundle .holds no file manifest\.json."),
        (lambda p: p.write_bytes(b""), "not a bundle"),
        (lambda p: p.with_name(f".{p.name}.old-7-00c0ffee").mkdir(), "left the bundle as .x.old-7-00c0ffee; rename"),
    ],
)
def test_no_bundle_there(tmp_path, make, message):
    make(tmp_path / "x")
    with pytest.raises(BundleError, match=message):
        Bundle.open(tmp_path / "x")


def test_folder_reached_through_a_link_opens(folder, tmp_path):
    """Given a link to a bundle's folder (a "latest") -> it opens: only links inside are refused."""
    (tmp_path / "latest").symlink_to(folder)
    assert Bundle.open(tmp_path / "latest").manifest.name == "tiny"


def test_import_is_light():
    """Given `import exporter.bundle` -> neither torch nor onnx, nor NumPy, is imported."""
    heavy = "{'torch', 'onnx', 'onnxruntime', 'numpy', 'tensorrt_rtx'}"
    code = f"import sys, exporter.bundle; sys.exit(bool({heavy} & set(sys.modules)))"
    root = ROOT
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
