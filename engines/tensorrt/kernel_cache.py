"""The kernels that TensorRT-RTX compiled for an engine on this GPU, kept in a file from one process to the next."""

import contextlib
import os
import re
import warnings
from pathlib import Path
from typing import Any

from plainconv.exporter.bundle import write_whole
from plainconv.exporter.errors import PlainconvWarning, one_line

from .bindings import RAISED

MOST_BYTES = 1 << 30  # of all files together; the ones not used for longest go first


class KernelCache:
    """An IRuntimeCache of TensorRT-RTX, and its file.

    The runtime holds it no longer than we do, and uses it for as long as a context of its configurations lives.
    """

    def __init__(self, path: Path | None = None) -> None:
        """`path` is the file, `cache_file` by name; None for none."""
        self._path, self._cache, self._read = path, None, b""

    def give_to(self, config: Any) -> None:
        """Have the contexts of an IRuntimeConfig share it. The first one makes it, of what the file holds."""
        if self._cache is None:
            self._cache = config.create_runtime_cache()
            self._load()
        config.set_runtime_cache(self._cache)

    def save(self) -> None:
        """Put what was compiled into the file, whole or not at all. A file that cannot be written is left as it is."""
        if self._cache is None or self._path is None:
            return
        with contextlib.suppress(OSError, *RAISED):
            data = bytes(self._cache.serialize())
            if data and data != self._read and len(data) <= MOST_BYTES:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                write_whole(self._path, data, is_private=True)
                self._read = data
                _prune(self._path.parent)

    def _load(self) -> None:
        if self._path is None or not self._path.exists():
            return
        try:
            self._read = self._path.read_bytes()
            taken = self._cache is not None and self._cache.deserialize(self._read)
            why = "the runtime does not take it"
            os.utime(self._path)  # the last to be pruned
        except (OSError, *RAISED) as error:
            taken, why = False, one_line(error)
        if not taken:
            found = f"compiled kernels in {self._path} cannot be read ({why})"
            warnings.warn(f"{found}: they are compiled again, which takes seconds", PlainconvWarning, stacklevel=2)


def cache_file(engine: str, gpu: str, version: str) -> Path | None:
    """The file for an engine (its SHA-256), a GPU and a version of TensorRT-RTX; None where there is no home folder.

    It lies in $PLAINCONV_CACHE, else in `plainconv/kernels` of $XDG_CACHE_HOME or ~/.cache.
    """
    named = os.environ.get("PLAINCONV_CACHE")
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        return None
    folder = Path(named) if named else base / "plainconv" / "kernels"
    return folder / f"{engine[:32]}-{re.sub('[^A-Za-z0-9.]+', '_', gpu)}-{version}.rtx"


def _prune(folder: Path) -> None:
    """Remove the files that were not used for longest, until the others hold no more than `MOST_BYTES`."""
    files = sorted(((p.stat().st_mtime, p.stat().st_size, p) for p in folder.glob("*.rtx")), reverse=True)
    held = 0
    for _, size, path in files:
        held += size
        if held > MOST_BYTES:
            path.unlink(missing_ok=True)
