"""TensorRT's measurements of its kernels, kept in a file from one build to the next."""

import os
from pathlib import Path
from typing import Any

from plainconv.exporter.bundle import write_whole
from plainconv.exporter.errors import EngineError

from ..backend import Backend


def refuse_cache(backend: Backend, path: Path) -> None:
    """Raise EngineError where `backend` has no timing cache, or `path` cannot be one."""
    if backend.takes_targets:  # it builds for GPUs that are not there, and so measures nothing
        raise EngineError(f"timing cache {path} given, but {backend.name} has none: it measures nothing; leave it out")
    if path.exists() and not path.is_file():
        raise EngineError(f"timing cache {path} is not a file; give one, or a name that is free")
    if not path.parent.is_dir():
        raise EngineError(f"timing cache {path}: there is no folder {path.parent}; make it first")
    if not os.access(path.parent, os.W_OK):
        raise EngineError(f"timing cache {path}: the folder cannot be written to; give another file")


def read_cache(config: Any, path: Path) -> None:
    """Give the build the measurements in `path`, or none where it does not exist yet.

    Raises EngineError where the file is no timing cache, or one of another version or GPU.
    """
    data = path.read_bytes() if path.exists() else b""
    cache = config.create_timing_cache(data)
    if cache is None or not config.set_timing_cache(cache, False):
        raise EngineError(
            f"timing cache {path} is none of this TensorRT and GPU ({len(data)} bytes); remove it, or give another file"
        )


def write_cache(config: Any, path: Path) -> None:
    """Put the measurements into `path`, whole or not at all. Raises EngineError where it cannot be written."""
    data = config.get_timing_cache().serialize()
    try:
        write_whole(path, data, is_private=True)
    except OSError as error:
        raise EngineError(f"timing cache {path} cannot be written ({error.strerror}); give another file") from None
