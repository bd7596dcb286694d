"""Writing a model repository: all of a network's models or none, beside the models of others."""

import errno
import os
import shutil
from pathlib import Path

import pytest
import triton_bundles as bundles

from plainconv.engines.triton import repository as triton
from plainconv.engines.triton.config import read_config
from plainconv.engines.triton.repository import TritonOptions, problems, write_repository
from plainconv.exporter.bundle import swap
from plainconv.exporter.errors import BundleError, EngineError

NET = TritonOptions(name="net")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Bundles, by the number of their parts; of two versions of one."""
    folder = tmp_path_factory.mktemp("bundles")
    kinds = {"whole": None, "three": bundles.THREE, "five": bundles.FIVE}
    return {name: bundles.make(folder / name, parts, data=name == "three") for name, parts in kinds.items()}


@pytest.fixture
def place(tmp_path):
    """A model repository with a model of someone else."""
    theirs = tmp_path / "models/theirs"
    theirs.mkdir(parents=True)
    (theirs / "config.pbtxt").write_text('name: "theirs"')
    return tmp_path / "models"


def files(folder):
    """Every file and folder below, and what is in it."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")
    }


def models(place):
    return sorted(path.name for path in place.iterdir())


def test_the_files(made, place):
    """Given a split -> a folder a part, an ensemble with an empty version; the files are the bundle's, byte by byte."""
    before = files(place)
    plan = write_repository(made["three"], place, NET)
    assert models(place) == ["net", "net.fuse", "net.left", "net.right", "theirs"]
    found = files(place)
    assert found["net/1"] is None and not any(path.startswith("net/1/") for path in found)
    for model in plan.models:
        for name, source in model.files.items():
            assert found[f"{model.name}/1/{name}"] == made["three"].read(source)
    assert "net.left/1/left.onnx.data" in found
    assert before.items() <= found.items()
    assert models(place.parent) == ["models"] and problems(place) == []
    mark = read_config(place / "net/config.pbtxt").parameters["plainconv.manifest_sha256"]
    assert mark.string_value == made["three"].sha256


def test_a_repository_that_is_not_there(made, tmp_path):
    """Given a path of folders that are missing -> made; where it fails, unmade."""
    write_repository(made["whole"], tmp_path / "a/b", NET)
    assert models(tmp_path / "a/b") == ["net"]
    with pytest.raises(EngineError):
        write_repository(made["five"], tmp_path / "c/d", TritonOptions(devices=(1,)))
    assert models(tmp_path) == ["a"]


def test_force_replaces_what_is_ours(made, place):
    """Given the same name again -> refused; with force replaced, and parts that are no more are removed."""
    write_repository(made["five"], place, NET)
    write_repository(made["three"], place, TritonOptions(name="net2"))
    before = files(place)
    with pytest.raises(
        EngineError, match=r"net exists, wanted a new model; give --force to replace it, or another --name"
    ):
        write_repository(made["three"], place, NET)
    assert files(place) == before

    plan = write_repository(made["three"], place, NET, force=True)
    second = ["net2", "net2.fuse", "net2.left", "net2.right"]
    own = {model.name for model in plan.models}
    assert own < {path.name for path in place.iterdir()}
    write_repository(made["three"], place, NET, prune=True)
    assert models(place) == ["net", "net.fuse", "net.left", "net.right", *second, "theirs"]
    write_repository(made["whole"], place, NET, force=True)
    assert own < {path.name for path in place.iterdir()}
    plan = write_repository(made["whole"], place, NET, prune=True)
    assert models(place) == ["net", *second, "theirs"] and plan.notes[-1].startswith("removed: net.fuse")
    assert models(place.parent) == ["models"] and problems(place) == []


def test_parts_left_of_a_network_are_in_the_way(made, place):
    """Given a part of an ensemble that someone deleted -> refused as the ensemble would be, replaced with force."""
    write_repository(made["three"], place, NET)
    shutil.rmtree(place / "net")
    with pytest.raises(EngineError, match=r"net\.fuse exists"):
        write_repository(made["three"], place, NET)
    write_repository(made["three"], place, NET, force=True)
    assert problems(place) == []


def theirs(folder):
    folder.mkdir()
    (folder / "config.pbtxt").write_text('name: "net.left"')


IN_THE_WAY = {
    "a model of someone else": (theirs, "was not written by this command"),
    "a folder": (lambda path: path.mkdir(), "was not written by this command"),
    "a file": (lambda path: path.write_text("x"), "was not written by this command"),
    "a link": (lambda path: path.symlink_to("theirs"), "was not written by this command"),
    "a link to nothing": (lambda path: path.symlink_to("nothing"), "was not written by this command"),
}


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("name", IN_THE_WAY)
def test_what_is_not_ours_stays(made, place, name, force):
    """Given anything of a part's name that this command did not write -> refused, even with force; nothing changes."""
    make, said = IN_THE_WAY[name]
    make(place / "net.left")
    before = files(place)
    with pytest.raises(EngineError, match=said):
        write_repository(made["three"], place, NET, force=force)
    assert files(place) == before and models(place.parent) == ["models"]


def test_what_someone_added_stays(made, place):
    """Given a version that someone added to a model of ours -> refused."""
    write_repository(made["whole"], place, NET)
    (place / "net/2").mkdir()
    with pytest.raises(EngineError, match="holds 2, which this command did not write; move it out"):
        write_repository(made["whole"], place, NET, force=True)


def test_a_part_of_another_network_stays(made, place):
    """Given a network of the name of another's part -> refused, as that would no longer be whole."""
    write_repository(made["three"], place, NET)
    with pytest.raises(EngineError, match=r"net\.left is a model of net; give another --name"):
        write_repository(made["whole"], place, TritonOptions(name="net.left"), force=True)


def test_a_damaged_configuration_of_ours_is_replaced(made, place):
    write_repository(made["whole"], place, NET)
    path = place / "net/config.pbtxt"
    path.write_text(path.read_text() + "\nbroken {")
    write_repository(made["whole"], place, NET, force=True)
    assert problems(place) == []


@pytest.mark.parametrize("at", range(4))
@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error", "f"), KeyboardInterrupt()])
def test_a_move_that_fails(made, place, monkeypatch, at, error):
    """Given three models for five that are there, and a failure at any of the moves -> all is as it was."""
    write_repository(made["five"], place, NET)
    shutil.rmtree(place / "net.fuse")  # so that one of the three is new
    before = files(place)
    moves = iter(range(99))

    def failing(call):
        def fail_once(*args, **kwargs):
            if next(moves) == at:
                raise error
            return call(*args, **kwargs)

        return fail_once

    monkeypatch.setattr(triton.swap, "replace", failing(swap.replace))
    monkeypatch.setattr(triton.os, "rename", failing(os.rename))
    with pytest.raises((EngineError, KeyboardInterrupt)):
        write_repository(made["three"], place, NET, force=True)
    assert files(place) == before and models(place.parent) == ["models"]


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device", "f")


def unwritable(*_):
    raise PermissionError(errno.EACCES, "Permission denied", "f")


@pytest.mark.parametrize(
    ("refuse", "said"),
    [
        (full, r"disk full while writing .*models; make room, or give another -o; nothing was left behind"),
        (unwritable, r"models cannot be written \(Permission denied: f\); see to its folder, or give another -o"),
    ],
)
@pytest.mark.parametrize("call", ["copyfile", "sync_tree", "folder_beside"])
def test_a_disk_that_takes_no_more(made, place, monkeypatch, refuse, said, call):
    """Given a file system that refuses -> one line, nothing left behind."""
    before = files(place)
    monkeypatch.setattr(triton.shutil if call == "copyfile" else triton.swap, call, refuse)
    with pytest.raises(EngineError, match=said):
        write_repository(made["three"], place, NET)
    assert files(place) == before and models(place.parent) == ["models"]


def test_a_bundle_that_changes(tmp_path, place):
    """Given a graph that changes, or vanishes, after the bundle was opened -> refused, nothing written."""
    bundle = bundles.make(tmp_path / "b")
    for change in (lambda path: path.write_bytes(b"other"), Path.unlink):
        change(bundle.folder / "model.onnx")
        with pytest.raises(
            BundleError, match=r"model\.onnx was changed since the bundle was opened; run the command again"
        ):
            write_repository(bundle, place, NET)
        assert models(place) == ["theirs"]


def test_a_graph_that_is_not_what_the_manifest_says(tmp_path, place):
    """Given a bundle whose manifest has another shape than its graph -> refused before anything is in place."""
    bundle = bundles.make(tmp_path / "b")
    manifest = bundle.manifest
    manifest.outputs = (bundles.spec("logits", size=8), bundles.spec("r", size=9))
    with pytest.raises(
        EngineError, match=r"Triton would not load net: output r is TYPE_FP32\[-1, 4, 9, 9\].*nothing was written"
    ):
        write_repository(bundle, place, NET)
    assert models(place) == ["theirs"] and models(place.parent) == ["b", "models"]


def test_where_no_repository_is(made, tmp_path):
    """Given a file, a model, a bundle or a folder in one -> refused."""
    (tmp_path / "file").write_text("x")
    write_repository(made["whole"], tmp_path / "models", NET)
    folder = bundles.make(tmp_path / "b").folder
    before = files(tmp_path)
    for path, said in (
        (tmp_path / "file", "is a file, wanted the folder of a model repository"),
        (tmp_path / "models/net", "it is a model; give the folder that it lies in"),
        (folder, "lies in the bundle"),
        (folder / "engines/triton", "lies in the bundle"),
    ):
        with pytest.raises(EngineError, match=said):
            write_repository(made["whole"], path, TritonOptions(name="new"))
    assert files(tmp_path) == before


def test_a_new_version_of_a_split(made, place, version_mark):
    """Given another split of that name -> its parts are beside the old ones, which stay through one more version."""
    parts = {}
    for kind in ("five", "three"):
        parts[kind] = {model.name for model in write_repository(made[kind], place, NET, force=True).models}
    assert parts["five"] & parts["three"] == {"net"} and problems(place) == []
    there = {path.name for path in place.iterdir()}
    assert parts["five"] | parts["three"] < there
    plan = write_repository(made["five"], place, NET, force=True, prune=True)
    assert {path.name for path in place.iterdir()} == there  # requests are in the parts of the one before
    write_repository(made["five"], place, NET, prune=True)
    assert {path.name for path in place.iterdir()} == {m.name for m in plan.models} | {"theirs"}
    assert problems(place) == []


def test_a_repository_that_is_a_mount(made, place, monkeypatch, tmp_path):
    """Given a repository that nothing can be moved into from beside it -> refused, but from a folder of the user's."""
    access = os.access
    monkeypatch.setattr(triton.os, "access", lambda path, mode: path != place.parent and access(path, mode))
    before = files(place)
    with pytest.raises(EngineError, match="in it Triton would take what is half-written for a model; give --staging"):
        write_repository(made["three"], place, NET)
    for inside in (place, place / "theirs", tmp_path / "none"):
        with pytest.raises(EngineError, match="is no folder outside of the repository"):
            write_repository(made["three"], place, NET, staging=inside)
    assert files(place) == before
    staging = tmp_path / "staging"
    staging.mkdir()
    write_repository(made["three"], place, NET, staging=staging)
    assert models(place) == ["net", "net.fuse", "net.left", "net.right", "theirs"] and problems(place) == []
    assert not list(staging.iterdir())


def test_staging_on_another_file_system(made, place):
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == place.stat().st_dev:
        pytest.skip("needs another file system at /dev/shm")
    with pytest.raises(EngineError, match="is on another file system than the repository"):
        write_repository(made["three"], place, NET, staging=shared)


def test_another_writer_meanwhile(made, place, monkeypatch):
    """Given a model of that name that appears while ours is written -> it stays; none of ours does."""
    real = swap.sync_tree
    monkeypatch.setattr(triton.swap, "sync_tree", lambda stage: (theirs(place / "net.right"), real(stage)))
    with pytest.raises(BundleError, match=r"net\.right exists by now, wanted a new folder"):
        write_repository(made["three"], place, NET)
    assert models(place) == ["net.right", "theirs"]
