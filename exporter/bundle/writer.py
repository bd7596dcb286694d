"""Writing a bundle: all of it or nothing, in the place of whatever was there. See exporter/BUNDLE.md."""

import contextlib
import copy
import dataclasses
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from ..errors import BundleError
from . import swap
from .codec import bytes_of_manifest, manifest_of_bytes
from .disk_errors import ELSEWHERE, IN_PLACE, disk_full_errors, write_errors
from .manifest import (
    CPU_STEP,
    FORMAT,
    MANIFEST,
    MODEL,
    EngineRecord,
    FileRecord,
    GraphRecord,
    Link,
    Manifest,
    SplitRecord,
    sha256_of_files,
)
from .plain_file import open_plain
from .reader import Bundle, file_sizes, more, sha256_of_file
from .rules import is_file_name, problems

_OUR_LAYOUT = re.compile(r"manifest\.json|(parts/[^/]+/)?[^/]+\.onnx(\.data)?|engines/([^/]+/)?[^/]+\.(engine|log)")


class Draft:
    """A bundle that is being written. `path` says where a file goes; `manifest` is the caller's to fill."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self._inherited: set[str] = set()
        self._hashed: dict[str, tuple[tuple[int, int, int], FileRecord]] = {}

    def path(self, name: str) -> Path:
        """Where to write the file `name`, in a folder that exists. Raises BundleError for a name no bundle may hold."""
        if not is_file_name(name):
            raise BundleError(f"{name!r} is no file name that a bundle may hold; wanted letters, digits, '.', '_', '-'")
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name in self._inherited:  # the same file as in the old version: write a new one, not into that one
            self._inherited.discard(name)
            path.unlink()
        return path

    def write_anew(self, names: Iterable[str]) -> None:
        """Have `path` make new files of these names, rather than write into what else may be linked to them."""
        self._inherited.update(names)

    def file(self, name: str) -> Path:
        """Where the file `name`, already in the draft, is read."""
        return self.folder / name

    def read(self, name: str) -> bytes:
        """The bytes of the file `name`, already in the draft."""
        return self.file(name).read_bytes()

    def record(self, name: str) -> FileRecord:
        """Size and SHA-256 of a file in the draft; hashed once, unless it is written again."""
        path = self.folder / name
        status = path.stat()
        state = (status.st_size, status.st_mtime_ns, status.st_ino)
        if name not in self._hashed or self._hashed[name][0] != state:
            self._hashed[name] = (state, FileRecord(status.st_size, sha256_of_file(path)))
        return self._hashed[name][1]

    def link(self, step: str, *, sha256: str = "", files: tuple[str, ...] = (), parent: str | None = None) -> Link:
        """Add a link to the hash chain: over `files` of the draft, or with the `sha256` of something not in it.

        It starts from the link whose hash is `parent`; by default from the last one.
        """
        chain = self.manifest.chain
        own = sha256_of_files({name: self.record(name) for name in files}) if files else sha256
        link = Link(step, own, parent or (chain[-1].sha256 if chain else None), files)
        self.manifest.chain = (*chain, link)
        return link

    def link_onnx(self) -> Link:
        """Add the link of model.onnx, with its external data where it has any: what every engine starts from."""
        return self.link("onnx", files=self._with_data(MODEL))

    def remove(self, name: str) -> None:
        """Take the file `name` out of the draft, with what was measured of it and the folders that it leaves empty."""
        self._inherited.discard(name)
        self._forget(name)
        path = self.folder / name
        path.unlink()
        while path.parent != self.folder and not any(path.parent.iterdir()):
            path = path.parent
            path.rmdir()

    def add_graph(self, record: GraphRecord) -> GraphRecord:
        """Add a graph of a lower precision, its record and its link, in the place of an earlier one of that precision.

        What was measured of the earlier one goes with it, and its engines and its split too unless the graph is the
        same, byte for byte. The record's `sha256` is filled in.
        """
        manifest = self.manifest
        self._forget(record.file)
        files = self._with_data(record.file)
        sha256 = sha256_of_files({name: self.record(name) for name in files})
        old = next((graph for graph in manifest.graphs if graph.precision == record.precision), None)
        if old is not None and old.sha256 != sha256:
            self._remove_engines([e for e in manifest.engines if e.onnx_sha256 == old.sha256])
            self.remove_split(record.precision)
            manifest.chain = tuple(link for link in manifest.chain if link.files[:1] != (old.file,))
        if old is None or old.sha256 != sha256:
            self.link("typed", files=files, parent=record.onnx_sha256)
        filled = dataclasses.replace(record, sha256=sha256)
        manifest.graphs = (*(graph for graph in manifest.graphs if graph is not old), filled)
        return filled

    def add_cpu_graph(self, record: GraphRecord) -> GraphRecord:
        """Add a graph for CPUs: its record, whose `sha256` is filled in, and its link.

        An earlier one of that precision is removed before the file is written, by `remove_cpu_graph`.
        """
        link = self.link(CPU_STEP, files=self._with_data(record.file), parent=record.onnx_sha256)
        filled = dataclasses.replace(record, sha256=link.sha256)
        self.manifest.cpu_graphs = (*self.manifest.cpu_graphs, filled)
        return filled

    def remove_cpu_graph(self, precision: str) -> None:
        """Remove the graph for CPUs of a precision, if there is one, with what was measured of it."""
        manifest = self.manifest
        for graph in [graph for graph in manifest.cpu_graphs if graph.precision == precision]:
            manifest.cpu_graphs = tuple(other for other in manifest.cpu_graphs if other is not graph)
            files = self._with_data(graph.file)
            manifest.chain = tuple(link for link in manifest.chain if link.files != files)
            for name in files:
                self.remove(name)

    def add_engine(self, record: EngineRecord) -> None:
        """Add an engine, its record and its link, in the place of an earlier one in the same file.

        It is of the graph, or of the part of the split of its precision, whose hash is its `onnx_sha256`. What was
        measured of the earlier one is dropped.
        """
        manifest = self.manifest
        self._forget(record.file)
        manifest.chain = tuple(link for link in manifest.chain if link.files != (record.file,))
        splits = (split for split in manifest.splits if split.precision == record.precision)
        split = next((s for s in splits if any(p.sha256 == record.onnx_sha256 for p in s.parts)), None)
        engines = manifest.engines if split is None else split.engines
        engines = (*(old for old in engines if old.file != record.file), record)
        if split is None:
            manifest.engines = engines
        else:
            self._replace_split(split, dataclasses.replace(split, engines=engines))
        self.link("engine" if split is None else "part-engine", files=(record.file,), parent=record.onnx_sha256)

    def add_split(self, record: SplitRecord) -> SplitRecord:
        """Add a split whose parts' files are in the draft: its record, and the links of its parts.

        The `sha256` of each part is filled in, and the record has no engines yet. An earlier split of that precision is
        removed before the files are written, by `remove_split`.
        """
        parts = tuple(
            dataclasses.replace(
                part, sha256=self.link("part", files=self._with_data(part.file), parent=record.onnx_sha256).sha256
            )
            for part in record.parts
        )
        filled = dataclasses.replace(record, parts=parts, engines=())
        self.manifest.splits = (*self.manifest.splits, filled)
        return filled

    def remove_split(self, precision: str) -> None:
        """Remove the split of a precision, if there is one, with its engines and what was measured of them."""
        split = next((split for split in self.manifest.splits if split.precision == precision), None)
        if split is None:
            return
        self._remove_engines(split.engines)
        files = [name for part in split.parts for name in self._with_data(part.file)]
        self.manifest.chain = tuple(
            link for link in self.manifest.chain if link.step != "part" or link.files[0] not in files
        )
        self.manifest.splits = tuple(other for other in self.manifest.splits if other is not split)
        for name in files:
            self.remove(name)

    def _replace_split(self, old: SplitRecord, new: SplitRecord) -> None:
        self.manifest.splits = tuple(new if split is old else split for split in self.manifest.splits)

    def _remove_engines(self, engines: Iterable[EngineRecord]) -> None:
        manifest = self.manifest
        for engine in engines:
            manifest.engines = tuple(other for other in manifest.engines if other is not engine)
            manifest.chain = tuple(link for link in manifest.chain if link.files != (engine.file,))
            for name in (engine.file, engine.log):
                if name is not None:
                    self.remove(name)

    def _with_data(self, file: str) -> tuple[str, ...]:
        """An ONNX file of the draft, and the file of its weights where it has one."""
        return tuple(name for name in (file, f"{file}.data") if (self.folder / name).exists())

    def _forget(self, file: str) -> None:
        """Drop what was measured of a file."""
        self.manifest.parities[:] = [p for p in self.manifest.parities if p.get("file") != file]

    def _inherit(self, bundle: Bundle) -> None:
        for name, record in bundle.manifest.files.items():
            path = self.path(name)
            try:
                os.link(bundle.folder / name, path)
            except OSError:
                shutil.copy2(bundle.folder / name, path)
            status = path.stat()
            self._hashed[name] = ((status.st_size, status.st_mtime_ns, status.st_ino), record)
            self._inherited.add(name)

    def _seal(self) -> None:
        """Hash every file, write the manifest, last, and have all of it on the disk."""
        self.manifest.files = {name: self.record(name) for name in sorted(file_sizes(self.folder))}
        self.manifest.written = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        broken = problems(self.manifest)
        if broken:
            raise BundleError(f"the bundle would not open: {broken[0]}{more(broken)}; nothing was written")
        raw = bytes_of_manifest(self.manifest)
        manifest_of_bytes(raw)
        (self.folder / MANIFEST).write_bytes(raw)
        swap.sync_tree(self.folder)


@contextlib.contextmanager
def write_bundle(target: Path | str, force: bool = False) -> Iterator[Draft]:
    """Write a new bundle at `target`; with `force`, in the place of the bundle that is there.

    Leaving the block hashes all files, writes the manifest and moves the whole into place in one step. Leaving it by an
    exception leaves nothing behind, and what was at `target` untouched.

    Raises BundleError before the block is entered where `check_target` does; after it where the draft is no bundle, the
    disk is full, or another process has written `target` meanwhile (without `force`).
    """
    place = check_target(target, force)
    with disk_full_errors(place), _folder_beside(place) as folder:
        draft = Draft(folder, Manifest())
        yield draft
        with write_errors(place):
            draft._seal()
            check_target(place, force)  # again: minutes may have passed
            swap.replace(place, folder, may_replace=force)


@contextlib.contextmanager
def update_bundle(path: Path | str) -> Iterator[Draft]:
    """Make a new version of the bundle at `path`: the draft holds its files and its manifest to begin with.

    Unchanged files are hard-linked, or copied where the file system cannot. The old version stays whole and in place
    until the new one replaces it in one step.

    Raises BundleError as `Bundle.open` and `write_bundle` do, and where another process has replaced the bundle
    meanwhile.
    """
    bundle = Bundle.open(Path(path).resolve())
    with disk_full_errors(bundle.folder, IN_PLACE), _folder_beside(bundle.folder, IN_PLACE) as folder:
        draft = Draft(folder, copy.deepcopy(bundle.manifest))
        with write_errors(bundle.folder, IN_PLACE):
            draft._inherit(bundle)
        yield draft
        with write_errors(bundle.folder, IN_PLACE):
            draft._seal()
            swap.replace(bundle.folder, folder, may_replace=True, expected=bundle.sha256)


def check_target(target: Path | str, force: bool = False) -> Path:
    """Whether a bundle can be written at `target`; its absolute path. Nothing is changed on disk.

    Raises BundleError where it is a file or a link, exists and `force` is False, is a folder with anything in it that
    no bundle holds (even with `force`), lies inside a bundle, or lies where nothing can be written.
    """
    place = Path(os.path.abspath(target))
    with write_errors(place):
        return _checked(place, target, force)


def _checked(place: Path, target: Path | str, force: bool) -> Path:
    parent = next((folder for folder in place.parents if folder.exists()), place)
    if place.is_symlink() or (place.exists() and not place.is_dir()):
        kind = "symbolic link" if place.is_symlink() else "file"
        raise BundleError(f"{target} is a {kind}, wanted a folder to write the bundle to; give another -o")
    if place == parent or not parent.is_dir():
        raise BundleError(f"{target} cannot be made, {parent} is no folder; give another -o")
    if place.exists() and not force:
        raise BundleError(f"{target} exists, wanted a new folder; give --force to replace it, or another -o")
    foreign = next(_foreign_files(place), None) if place.exists() else None
    if foreign:
        raise BundleError(f"{target} holds {foreign}, which is not of a bundle; give another -o, or move it out")
    if (parent / MANIFEST).is_file() and _says_bundle(parent):
        raise BundleError(f"{target} lies inside the bundle {parent}, wanted a folder outside; give another -o")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise BundleError(f"{target} cannot be written, {parent} is not writable; give another -o")
    return place


def _foreign_files(folder: Path) -> Iterator[str]:
    """What is in `folder` that no bundle put there. A damaged bundle holds nothing foreign: it may be replaced."""
    try:
        with open_plain(folder / MANIFEST) as file:
            own = set(manifest_of_bytes(file.read()).files)
    except (BundleError, OSError):
        own = set()
    ours = _says_bundle(folder)
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        known = ours and (name in own or _OUR_LAYOUT.fullmatch(name))
        if path.is_symlink() or not (known or path.is_dir()):
            yield name


def _says_bundle(folder: Path) -> bool:
    try:
        with open_plain(folder / MANIFEST) as file:
            return f'"{FORMAT}"'.encode() in file.read()
    except (OSError, BundleError):
        return False


@contextlib.contextmanager
def _folder_beside(target: Path, remedy: str = ELSEWHERE) -> Iterator[Path]:
    with contextlib.ExitStack() as stack:
        with write_errors(target, remedy):
            folder = stack.enter_context(swap.folder_beside(target))
        yield folder
