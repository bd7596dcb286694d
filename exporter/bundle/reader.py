"""Opening a bundle: nothing of it is handed out before every byte of it has been checked. See exporter/BUNDLE.md."""

import hashlib
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ..errors import BundleError
from .codec import manifest_of_bytes, sha256_in_manifest
from .manifest import MANIFEST, MODEL, EngineRecord, Manifest, SplitRecord
from .plain_file import open_plain
from .rules import problems
from .tensor import TensorSpec

T = TypeVar("T")
_MANIFEST_LIMIT = 64 * 2**20
_ATTEMPTS = 100  # of reading a bundle that is replaced again and again
_REMEDY = "export again, or restore the folder from a copy"


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk, verified and read-only. Make one with `Bundle.open`."""

    folder: Path
    manifest: Manifest
    sha256: str  # the manifest's: the identity of everything in the bundle

    @classmethod
    def open(cls, path: Path | str) -> "Bundle":
        """Open the bundle in the folder `path`.

        Checked, in this order: the manifest against its own hash, its format version, its keys, its hash chain; the
        files of the folder against it (plain files only, none missing, none extra), their sizes, their SHA-256.

        Raises BundleError, in one line, where anything of that does not hold.
        """
        return _settled(Path(path), cls._verified)

    @classmethod
    def _verified(cls, folder: Path) -> "Bundle":
        raw = _read_manifest(folder)
        manifest = manifest_of_bytes(raw)
        broken = (
            [f"{problem}; {_REMEDY}" for problem in problems(manifest)]
            or _differences(file_sizes(folder), manifest)
            or _damaged(folder, manifest)
        )
        if broken:
            raise BundleError(f"{broken[0]}{more(broken)}")
        return cls(folder, manifest, sha256_in_manifest(raw) or "")

    def file(self, name: str) -> Path:
        """Where the file `name` of this bundle lies. Raises BundleError for a name the manifest does not list."""
        if name not in self.manifest.files:
            raise BundleError(f"{self.folder}: holds no {name}; it holds {', '.join(sorted(self.manifest.files))}")
        return self.folder / name

    def read(self, name: str) -> bytes:
        """The bytes of the file `name`, as they were verified. Raises BundleError where they have changed since."""
        with open_plain(self.file(name), name) as file:
            data = file.read(self.manifest.files[name].size + 1)
        if hashlib.sha256(data).hexdigest() != self.manifest.files[name].sha256:
            raise BundleError(f"{self.folder}: {name} was changed since the bundle was opened; open it again")
        return data

    def graph(self, path: Path) -> bytes | None:
        """The bytes of the graph at `path`, as they were verified; None where its weights lie beside it, by path."""
        name = path.relative_to(self.folder).as_posix()
        return None if f"{name}.data" in self.manifest.files else self.read(name)

    @property
    def onnx(self) -> Path:
        """The ONNX model; weights beyond 2 GB lie beside it."""
        return self.file(MODEL)

    @property
    def onnx_sha256(self) -> str:
        """The hash of the ONNX model (with its external data), from which engines are linked."""
        return next(link.sha256 for link in self.manifest.chain if link.step == "onnx")

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Names, dtypes and shapes of the model's inputs."""
        return self.manifest.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Names, dtypes and shapes of the model's outputs."""
        return self.manifest.outputs

    @property
    def engines(self) -> tuple[EngineRecord, ...]:
        """The engines of the whole network in this bundle."""
        return self.manifest.engines

    @property
    def splits(self) -> tuple[SplitRecord, ...]:
        """The network as parts for several devices, at most once a precision."""
        return self.manifest.splits


def read_manifest(path: Path | str) -> Manifest:
    """What the manifest of the bundle in the folder `path` says; its files are left alone, and unverified.

    Raises BundleError, in one line, where there is none or it is damaged.
    """
    return _settled(Path(path), lambda folder: manifest_of_bytes(_read_manifest(folder)))


def identity(folder: Path) -> str | None:
    """The hash of all that is in the bundle, as its manifest says. None where there is none, or half of it."""
    raw = _manifest_bytes(folder)
    return None if raw is None else sha256_in_manifest(raw)


def file_sizes(folder: Path) -> dict[str, int]:
    """Every file in `folder` by its name within, with "/" between the parts, and its size in bytes.

    Raises BundleError at the first thing that is neither a plain file nor a folder holding some (a link, a pipe).
    """
    sizes: dict[str, int] = {}
    pending = [""]
    while pending:
        prefix = pending.pop()
        names = sorted(os.listdir(folder / prefix))
        if prefix and not names:
            raise BundleError(f"{prefix} is an empty folder, wanted none; delete it")
        for name in names:
            status = (folder / prefix / name).lstat()
            if stat.S_ISDIR(status.st_mode):
                pending.append(f"{prefix}{name}/")
            elif stat.S_ISREG(status.st_mode):
                sizes[prefix + name] = status.st_size
            else:
                kind = "symbolic link" if stat.S_ISLNK(status.st_mode) else "special file"
                raise BundleError(f"{prefix}{name} is a {kind}, wanted plain files only; replace it by a copy")
    return sizes


def sha256_of_file(path: Path) -> str:
    """The SHA-256 of a plain file, in lower-case hexadecimal. Raises BundleError where it is something else."""
    with open_plain(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def more(broken: list[str]) -> str:
    """What to add to the first of several problems."""
    return f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""


def _settled(folder: Path, read: Callable[[Path], T]) -> T:
    """What `read` makes of a bundle, which may be replaced meanwhile. Raises BundleError, which names the folder."""
    broken = ""
    for _ in range(_ATTEMPTS):
        before = _manifest_bytes(folder)
        try:
            return read(folder)
        except OSError as error:
            broken = f"cannot be read ({error.strerror}: {error.filename}); {_REMEDY}"
        except BundleError as error:
            broken = str(error)
        if _manifest_bytes(folder) == before:  # else a new version took its place meanwhile: read that one
            break
    raise BundleError(f"{folder}: {broken}")


def _manifest_bytes(folder: Path) -> bytes | None:
    """Which version of the bundle stands there; its inode would not tell, being soon used again."""
    try:
        with open_plain(folder / MANIFEST) as file:
            return file.read(_MANIFEST_LIMIT)
    except (OSError, BundleError):
        return None


def _read_manifest(folder: Path) -> bytes:
    path = folder / MANIFEST
    if not path.is_file() or path.is_symlink():
        aside = sorted(folder.parent.glob(f".{folder.name}.old-*")) if not folder.exists() else []
        if aside:
            raise BundleError(f"a killed run left the bundle as {aside[0].name}; rename that to {folder.name}")
        found = f"holds no file {MANIFEST}" if folder.is_dir() else "no such folder"
        raise BundleError(f"not a bundle ({found}); give the folder that `exporter run` or `exporter export` wrote")
    with open_plain(path) as file:
        raw = file.read(_MANIFEST_LIMIT + 1)
    if len(raw) > _MANIFEST_LIMIT:
        raise BundleError(f"{MANIFEST} is larger than {_MANIFEST_LIMIT} bytes; {_REMEDY}")
    return raw


def _differences(sizes: dict[str, int], manifest: Manifest) -> list[str]:
    """Where the files of the folder are not those that the manifest lists."""
    wanted = manifest.files
    found = [f"{name} is missing; {_REMEDY}" for name in wanted if name not in sizes]
    extra = [name for name in sizes if name not in wanted and name != MANIFEST]
    found += [f"{name} does not belong to the bundle; move it out of the folder" for name in extra]
    return found + [
        f"{name} has {sizes[name]} bytes, its manifest says {record.size}; {_REMEDY}"
        for name, record in wanted.items()
        if sizes.get(name, record.size) != record.size
    ]


def _damaged(folder: Path, manifest: Manifest) -> list[str]:
    """Which files do not have the bytes that the manifest says."""
    return [
        f"{name} is damaged (its sha256 is {found[:12]}…, its manifest says {record.sha256[:12]}…); {_REMEDY}"
        for name, record in manifest.files.items()
        if (found := sha256_of_file(folder / name)) != record.sha256
    ]
