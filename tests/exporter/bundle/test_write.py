"""Writing a bundle: all of it or nothing, however the writer ends."""

import errno
import inspect
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest
from places import ROOT

from plainconv.exporter.bundle import (
    Bundle,
    EngineRecord,
    GraphRecord,
    TensorSpec,
    check_target,
    swap,
    update_bundle,
    write_bundle,
)
from plainconv.exporter.errors import BundleError


def fill(draft, model=b"graph"):
    draft.manifest.inputs = (TensorSpec("input", "float32", (1, 3)),)
    draft.manifest.outputs = (TensorSpec("logits", "float32", (1, 10)),)
    draft.path("model.onnx").write_bytes(model)
    draft.path("engines/a.log").write_bytes(model)
    draft.link("checkpoint", sha256="c" * 64)
    draft.link_onnx()


def write(target, model=b"graph", force=False):
    with write_bundle(target, force) as draft:
        fill(draft, model)
    return target


def model_of(target):
    return Bundle.open(target).onnx.read_bytes()


def engine_record(draft, name, onnx_sha256, precision="fp32", log=None):
    record = draft.record(name)
    made_by, size, sha256 = ("tensorrt_rtx", "1.7"), record.size, record.sha256
    return EngineRecord(name, *made_by, precision, False, ("sm86",), None, (), 0.1, size, sha256, onnx_sha256, log=log)


def add_graph(draft, content, precision="fp16", data=None):
    file = f"model.{precision}.onnx"
    draft.path(file).write_bytes(content)
    if data is not None:
        draft.path(f"{file}.data").write_bytes(data)
    onnx = next(link.sha256 for link in draft.manifest.chain if link.step == "onnx")
    return draft.add_graph(GraphRecord(file, precision, "", onnx, {precision: 1}, "model.onnx", 0.1))


def add_engine(draft, name, graph, log=True):
    draft.path(f"engines/{name}.engine").write_bytes(name.encode())
    if log:
        draft.path(f"engines/{name}.log").write_bytes(b"built")
    record = engine_record(
        draft, f"engines/{name}.engine", graph.sha256, graph.precision, f"engines/{name}.log" if log else None
    )
    draft.add_engine(record)
    draft.manifest.parities.append({"step": "engine", "file": record.file})


def left(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(params=["exchange", "by steps"])
def either_exchange(request, monkeypatch):
    """Both ways to put a folder in the place of another."""
    if request.param == "by steps":
        monkeypatch.setattr(swap, "_renameat2", lambda old, new, flags: False)
    return request.param


# --- where to ------------------------------------------------------------------------------------------------------


def test_write_makes_parents_and_leaves_only_the_bundle(tmp_path, either_exchange):
    """Given a target in folders that do not exist -> they are made, and nothing else."""
    target = write(tmp_path / "out" / "deep" / "v6")

    assert model_of(target) == b"graph"
    assert left(target.parent) == ["v6"] and left(target) == ["engines", "manifest.json", "model.onnx"]


def test_existing_target_asks_for_force(tmp_path, either_exchange):
    """Given a bundle at the target -> refused before any work; with force, replaced."""
    target = write(tmp_path / "v6")
    with pytest.raises(BundleError, match="exists, wanted a new folder; give --force"), write_bundle(target):
        pytest.fail("the block was entered")
    assert model_of(target) == b"graph"

    write(target, b"new", force=True)
    assert model_of(target) == b"new" and left(tmp_path) == ["v6"]


def test_force_replaces_a_damaged_bundle_and_an_empty_folder(tmp_path, either_exchange):
    target = write(tmp_path / "v6")
    (target / "manifest.json").write_text('{"format": "plainconv-bundle", damaged')
    assert model_of(write(target, b"new", force=True)) == b"new"

    (tmp_path / "empty").mkdir()
    assert model_of(write(tmp_path / "empty", force=True)) == b"graph"


def make_file(path):
    path.write_text("mine")


def make_folder(path):
    path.mkdir()
    make_file(path / "thesis.txt")


def make_bundle_with_notes(path):
    write(path)
    make_file(path / "notes.txt")


def make_link(path):
    write(path.with_name("real"))
    path.symlink_to(path.with_name("real"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (make_file, "is a file, wanted a folder"),
        (make_folder, r"holds thesis\.txt, which is not of a bundle"),
        (make_bundle_with_notes, r"holds notes\.txt, which is not of a bundle"),
        (make_link, "is a symbolic link, wanted a folder"),
    ],
)
def test_force_never_replaces_what_is_no_bundle(tmp_path, make, message):
    """Given something else at the target -> refused even with force, and untouched."""
    make(tmp_path / "v6")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(BundleError, match=message):
        write(tmp_path / "v6", force=True)
    assert sorted(tmp_path.rglob("*")) == before


def test_target_inside_a_file_or_a_bundle(tmp_path):
    make_file(tmp_path / "file")
    with pytest.raises(BundleError, match=r"cannot be made, .*file is no folder"):
        check_target(tmp_path / "file" / "v6")
    with pytest.raises(BundleError, match="lies inside the bundle"):
        check_target(write(tmp_path / "v6") / "v7")
    with pytest.raises(BundleError):
        check_target("/", force=True)


def test_parent_that_cannot_be_written(tmp_path, monkeypatch):
    """Given a read-only parent -> one line. Simulated: a superuser may write anywhere."""
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(BundleError, match="is not writable; give another -o"):
        write(tmp_path / "v6")

    monkeypatch.undo()
    real = os.mkdir
    refused = PermissionError(errno.EACCES, "Permission denied", "there")
    monkeypatch.setattr(
        os, "mkdir", lambda path, *a: (_ for _ in ()).throw(refused) if ".tmp-" in str(path) else real(path)
    )
    with pytest.raises(BundleError, match=r"cannot be written \(Permission denied: there\)"):
        write(tmp_path / "v6")
    assert left(tmp_path) == []


# --- what the draft refuses ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../x", "/x", "manifest.json", "a b"])
def test_draft_refuses_names(tmp_path, name):
    with (
        pytest.raises(BundleError, match="is no file name that a bundle may hold"),
        write_bundle(tmp_path / "v") as draft,
    ):
        draft.path(name)
    assert left(tmp_path) == []


def test_a_draft_that_would_not_open_is_not_written(tmp_path):
    """Given a model changed after it was linked -> the broken chain is named and nothing is written."""
    with (
        pytest.raises(BundleError, match=r"chain\[1\] \(onnx\) does not have the hash of model\.onnx"),
        write_bundle(tmp_path / "v6") as draft,
    ):
        fill(draft)
        draft.path("model.onnx").write_bytes(b"another graph")
    assert left(tmp_path) == []


def test_symbolic_link_in_a_draft(tmp_path):
    with pytest.raises(BundleError, match="symbolic link"), write_bundle(tmp_path / "v6") as draft:
        fill(draft)
        draft.path("x").symlink_to("/etc/passwd")
    assert left(tmp_path) == []


# --- how it may end ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, SystemExit])
@pytest.mark.parametrize("force", [False, True])
def test_exception_leaves_nothing(tmp_path, error, force):
    """Given an exception in the block -> it passes, nothing is left, and the old bundle stands."""
    target = tmp_path / "out" / "v6"
    if force:
        write(target)
    with pytest.raises(error), write_bundle(target, force) as draft:
        fill(draft, b"new")
        raise error
    assert left(tmp_path) == (["out"] if force else [])
    if force:
        assert model_of(target) == b"graph" and left(target.parent) == ["v6"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_while_the_old_version_is_removed(tmp_path, monkeypatch, number):
    """Given a signal while the old version is removed -> it is removed, the new one stands, then the signal comes."""
    target = tmp_path / "v6"
    write(target)
    remove, came = shutil.rmtree, []

    def interrupted(path, **options):
        signal.raise_signal(number)
        remove(path, **options)

    def end(number, frame):
        came.append(left(tmp_path))
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", interrupted)
    before = signal.signal(number, end)
    try:
        with pytest.raises(KeyboardInterrupt), write_bundle(target, force=True) as draft:
            fill(draft, b"new")
    finally:
        signal.signal(number, before)
    assert came == [["v6"]] and model_of(target) == b"new"


def test_disk_full_in_the_block(tmp_path):
    """Given a write that meets a full disk, reported by whichever library -> one line, nothing left."""
    one_line = r"^disk full while writing .*v6 .*nothing was left behind$"
    with pytest.raises(BundleError, match=one_line), write_bundle(tmp_path / "v6") as draft:
        fill(draft)
        try:
            Path("/dev/full").write_bytes(b"x" * 100_000)
        except OSError as error:
            raise RuntimeError("could not save") from error
    assert left(tmp_path) == []


def test_disk_full_on_leaving_the_block(tmp_path, monkeypatch):
    """Given a disk that is full when the files are synced -> the same line, and the old bundle stands."""
    target = write(tmp_path / "v6")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")))
        with pytest.raises(BundleError, match="disk full"):
            write(target, b"new", force=True)
    assert model_of(target) == b"graph" and left(tmp_path) == ["v6"]


def test_disk_really_full(tmp_path):
    """Given a file system of 256 kB and a model of 1 MB -> one line, nothing left. Skipped where mounts are refused."""
    script = write_script(
        tmp_path,
        """
        try:
            write(Path(sys.argv[1]) / "v6", b"x" * 2**20)
        except BundleError as error:
            print(error)
        print(os.listdir(sys.argv[1]))
        """,
    )
    run = (
        subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False)
        if shutil.which("unshare")
        else None
    )
    if run is None or run.returncode:
        pytest.skip("this machine allows no mounts")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = f"mount -t tmpfs -o size=256k tmpfs {disk} && exec {sys.executable} {script} {disk}"
    run = subprocess.run(["unshare", "-rm", "sh", "-c", mounted], capture_output=True, text=True, check=True)
    assert run.stdout.startswith("disk full while writing") and run.stdout.endswith("\n[]\n")


def write_script(tmp_path, body):
    """A program that writes bundles as the tests here do."""
    imports = """
        import os, sys
        from pathlib import Path
        from plainconv.exporter.bundle import TensorSpec, swap, write_bundle
        from plainconv.exporter.errors import BundleError
    """
    parts = [
        f"import sys; sys.path.insert(0, {str(ROOT)!r})",
        imports,
        inspect.getsource(fill),
        inspect.getsource(write),
        body,
    ]
    script = tmp_path / "script.py"
    script.write_text("\n".join(textwrap.dedent(part) for part in parts))
    return script


DIE_AT = """
import signal

steps, die_at = 0, int(sys.argv[2])

def counted(call):
    def step(*args, **options):
        global steps
        steps += 1
        if steps == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **options)
    return step

if sys.argv[3] == "by steps":
    swap._renameat2 = lambda old, new, flags: False
for name in ("mkdir", "rmdir", "unlink", "rename", "fsync"):
    setattr(os, name, counted(getattr(os, name)))
swap._renameat2 = counted(swap._renameat2)
Path.write_bytes = counted(Path.write_bytes)
write(Path(sys.argv[1]), b"new", force=True)
"""


@pytest.mark.parametrize("how", ["exchange", "by steps"])
@pytest.mark.parametrize("old", [True, False])
def test_kill_at_every_step(tmp_path, how, old):
    """Given a writer killed before its 1st, 2nd, 3rd … call of the system -> the target is the old bundle or the new.

    Where it had to be moved aside, the next write puts it back; what the killed writer left is swept away by then.
    """
    script = write_script(tmp_path, DIE_AT)
    target = tmp_path / "out" / "v6"
    seen = set()
    for die_at in range(1, 200):
        shutil.rmtree(target.parent, ignore_errors=True)
        target.parent.mkdir()
        if old:
            write(target)
        run = subprocess.run([sys.executable, script, target, str(die_at), how], check=False)
        aside = how == "by steps" and not target.exists()
        if old or target.exists():
            seen.add("aside" if aside else model_of(target).decode())
        else:
            seen.add("nothing")
        with pytest.raises(KeyboardInterrupt), write_bundle(target, force=True):
            raise KeyboardInterrupt
        if old:
            assert model_of(target) in (b"graph", b"new")
        assert left(target.parent) == (["v6"] if target.exists() else [])
        if run.returncode == 0:
            break
    else:
        pytest.fail("the writer never finished")
    assert seen == ({"graph", "new"} | ({"aside"} if how == "by steps" else set()) if old else {"nothing", "new"})


def test_kill_at_random_moments(tmp_path):
    """Given a program that keeps replacing a bundle, killed at any moment -> a whole bundle is there."""
    script = write_script(
        tmp_path,
        """
        print("ready", flush=True)
        while True:
            write(Path(sys.argv[1]), os.urandom(200_000), force=True)
        """,
    )
    target = write(tmp_path / "out" / "v6")
    chance = random.Random(0)
    for _ in range(8):
        writer = subprocess.Popen([sys.executable, script, target], stdout=subprocess.PIPE)
        writer.stdout.readline()
        time.sleep(chance.uniform(0, 0.05))
        writer.kill()
        writer.wait()
        writer.stdout.close()
        Bundle.open(target)
    assert model_of(write(target, b"new", force=True)) == b"new"
    assert left(target.parent) == ["v6"]


# --- several writers -----------------------------------------------------------------------------------------------


def test_writers_at_once(tmp_path):
    """Given several programs replacing one bundle while it is read -> every reader sees a whole one, and no litter."""
    script = write_script(
        tmp_path,
        """
        for _ in range(15):
            write(Path(sys.argv[1]), os.urandom(50_000), force=True)
        """,
    )
    target = write(tmp_path / "out" / "v6")
    writers = [subprocess.Popen([sys.executable, script, target]) for _ in range(3)]
    opened = 0
    while any(writer.poll() is None for writer in writers):
        opened += len(Bundle.open(target).manifest.files) == 2
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert opened > 0 and left(target.parent) == ["v6"]


def test_second_writer_without_force(tmp_path, either_exchange):
    """Given two writers of a new bundle -> the first to finish has it, the second is told, and nothing is lost."""
    target = tmp_path / "v6"
    with pytest.raises(BundleError, match="v6 exists"), write_bundle(target) as slow:
        fill(slow, b"slow")
        write(target, b"quick")
    assert model_of(target) == b"quick" and left(tmp_path) == ["v6"]


def test_target_taken_at_the_last_moment(tmp_path, either_exchange):
    write(tmp_path / "other")
    write(tmp_path / "v6")
    with pytest.raises(BundleError, match="exists by now"):
        swap.replace(tmp_path / "v6", tmp_path / "other", may_replace=False)
    assert left(tmp_path) == ["other", "v6"]


# --- a new version -------------------------------------------------------------------------------------------------


def test_update_adds_and_keeps(tmp_path, either_exchange):
    """Given a bundle -> a new version with an engine more, the rest the very same files; then the engine replaced."""
    target = write(tmp_path / "v6")
    inode = (target / "model.onnx").stat().st_ino
    for content in (b"engine", b"another engine"):
        with update_bundle(target) as draft:
            onnx = Bundle.open(target).onnx_sha256
            draft.path("engines/a.engine").write_bytes(content)
            draft.add_engine(engine_record(draft, "engines/a.engine", onnx))
            draft.manifest.parities.append({"step": "engine", "holds": None})
        bundle = Bundle.open(target)
        assert bundle.file("engines/a.engine").read_bytes() == content
        assert [link.step for link in bundle.manifest.chain] == ["checkpoint", "onnx", "engine"]
    assert bundle.onnx.stat().st_ino == inode and len(bundle.engines) == 1
    assert len(bundle.manifest.parities) == 2 and left(tmp_path) == ["v6"]


def test_update_does_not_write_into_the_old_version(tmp_path):
    """Given a file rewritten in an update that is then given up -> the old file is as it was."""
    target = write(tmp_path / "v6")
    with pytest.raises(KeyboardInterrupt), update_bundle(target) as draft:
        draft.path("engines/a.log").write_bytes(b"changed")
        assert draft.file("model.onnx").read_bytes() == b"graph"
        raise KeyboardInterrupt
    assert Bundle.open(target).file("engines/a.log").read_bytes() == b"graph"
    assert left(tmp_path) == ["v6"]


def test_update_where_files_cannot_be_linked(tmp_path, monkeypatch):
    """Given a file system without hard links -> the files are copied."""
    target = write(tmp_path / "v6")
    monkeypatch.setattr(os, "link", lambda *a, **k: (_ for _ in ()).throw(OSError(errno.EPERM, "no links")))
    with update_bundle(target) as draft:
        draft.manifest.name = "renamed"
    assert Bundle.open(target).manifest.name == "renamed" and model_of(target) == b"graph"


def test_updates_at_once(tmp_path):
    """Given a bundle replaced while a new version of it is made -> the later one is told, and loses nothing."""
    target = write(tmp_path / "v6")
    told = "changed while a new version of it was made; run the command again"
    with pytest.raises(BundleError, match=told), update_bundle(target) as slow:
        slow.manifest.name = "slow"
        with update_bundle(target) as quick:
            quick.manifest.name = "quick"
    assert Bundle.open(target).manifest.name == "quick" and left(tmp_path) == ["v6"]


def test_update_of_a_damaged_bundle(tmp_path):
    target = write(tmp_path / "v6")
    (target / "model.onnx").write_bytes(b"grapH")
    with pytest.raises(BundleError, match=r"model\.onnx is damaged"), update_bundle(target):
        pytest.fail("the block was entered")


def test_update_through_a_link(tmp_path):
    """Given a link to a bundle's folder -> the folder is updated and the link stays a link."""
    target = write(tmp_path / "v6")
    (tmp_path / "latest").symlink_to(target)
    with update_bundle(tmp_path / "latest") as draft:
        draft.manifest.name = "renamed"
    assert (tmp_path / "latest").is_symlink() and Bundle.open(target).manifest.name == "renamed"


# --- graphs of lower precisions ------------------------------------------------------------------------------------


def test_a_graph_is_linked_and_hashed(tmp_path):
    """Given graphs, one with external data -> their records have the hash of their links, which start at the model."""
    target = write(tmp_path / "v6")
    with update_bundle(target) as draft:
        half, byte = add_graph(draft, b"half"), add_graph(draft, b"byte", "int8", b"weights")
    bundle = Bundle.open(target)
    assert bundle.manifest.graphs == (half, byte)
    typed = [link for link in bundle.manifest.chain if link.step == "typed"]
    assert [(link.sha256, link.parent) for link in typed] == [(g.sha256, bundle.onnx_sha256) for g in (half, byte)]
    assert [link.files for link in typed] == [("model.fp16.onnx",), ("model.int8.onnx", "model.int8.onnx.data")]


def test_a_graph_in_the_place_of_another_drops_its_engines(tmp_path, either_exchange):
    """Given a graph again -> one record and one link; the old one's engines, logs, links and parities are gone."""
    target = tmp_path / "v6"
    with write_bundle(target) as draft:
        fill(draft)
        (draft.folder / "engines" / "a.log").unlink()
        half, byte = add_graph(draft, b"half"), add_graph(draft, b"byte", "int8")
        for name, graph in (("h1", half), ("h2", half), ("b1", byte)):
            add_engine(draft, name, graph, log=name != "h2")
        draft.manifest.parities += [{"step": "graph", "file": half.file}, {"step": "graph", "file": byte.file}, {}]
    with update_bundle(target) as draft:
        new = add_graph(draft, b"another half")
    bundle = Bundle.open(target)
    assert bundle.manifest.graphs == (byte, new) and new.sha256 != half.sha256
    assert [link.step for link in bundle.manifest.chain] == ["checkpoint", "onnx", "typed", "engine", "typed"]
    assert [engine.file for engine in bundle.engines] == ["engines/b1.engine"]
    assert left(target / "engines") == ["b1.engine", "b1.log"]
    wanted = [{"step": "engine", "file": "engines/b1.engine"}, {"step": "graph", "file": byte.file}, {}]
    assert bundle.manifest.parities == wanted
    with update_bundle(target) as draft:
        add_graph(draft, b"another byte", "int8")
    assert left(target) == ["manifest.json", "model.fp16.onnx", "model.int8.onnx", "model.onnx"]
    assert Bundle.open(target).engines == ()


def test_a_graph_for_cpus_is_linked_replaced_and_removed(tmp_path):
    """Given a graph for CPUs -> linked to the model; another takes its place; removed, nothing of it is left."""
    target, file = write(tmp_path / "v6"), "model.int8.cpu.onnx"

    def add(draft, content):
        draft.remove_cpu_graph("int8")
        draft.path(file).write_bytes(content)
        graph = draft.manifest.graphs[0]
        draft.manifest.parities.append({"step": "graph", "file": file})
        return draft.add_cpu_graph(replace(graph, file=file, sha256=""))

    with update_bundle(target) as draft:
        byte = add_graph(draft, b"byte", "int8")
        first = add(draft, b"one")
    with update_bundle(target) as draft:
        second = add(draft, b"another")
    bundle = Bundle.open(target)
    assert bundle.manifest.cpu_graphs == (second,) and second.sha256 != first.sha256
    assert bundle.manifest.graphs == (byte,)
    links = [(link.sha256, link.parent, link.files) for link in bundle.manifest.chain if link.step == "typed-cpu"]
    assert links == [(second.sha256, bundle.onnx_sha256, (file,))]
    assert [p for p in bundle.manifest.parities if p.get("file") == file] == [{"step": "graph", "file": file}]
    with update_bundle(target) as draft:
        draft.remove_cpu_graph("int8")
    bundle = Bundle.open(target)
    assert (bundle.manifest.cpu_graphs, (target / file).exists()) == ((), False)
    assert not [p for p in bundle.manifest.parities if p.get("file") == file]


def test_an_engine_in_the_place_of_another_drops_what_was_measured_of_it(tmp_path):
    target = write(tmp_path / "v6")
    with update_bundle(target) as draft:
        graph = add_graph(draft, b"half")
        for name in ("a", "b", "a"):
            add_engine(draft, name, graph)
    bundle = Bundle.open(target)
    assert [engine.file for engine in bundle.engines] == ["engines/b.engine", "engines/a.engine"]
    assert [p["file"] for p in bundle.manifest.parities] == ["engines/b.engine", "engines/a.engine"]


def test_remove(tmp_path):
    """Given files removed in an update -> gone, with folders left empty; the old version keeps them until then."""
    target = tmp_path / "v6"
    with write_bundle(target) as draft:
        fill(draft)
        draft.path("a/b/c").write_bytes(b"deep")
        draft.path("a/d").write_bytes(b"less deep")
    with update_bundle(target) as draft:
        draft.remove("a/b/c")
        assert (target / "a" / "b" / "c").read_bytes() == b"deep"
    assert left(target / "a") == ["d"]
    with update_bundle(target) as draft:
        draft.remove("a/d")
        draft.remove("engines/a.log")
        draft.path("engines/a.log").write_bytes(b"again")
    assert left(target) == ["engines", "manifest.json", "model.onnx"]
    assert Bundle.open(target).file("engines/a.log").read_bytes() == b"again"
