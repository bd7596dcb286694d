"""What a file system refuses while a bundle is written, in one line each."""

import contextlib
import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

from ..errors import BundleError

ELSEWHERE, IN_PLACE = "give another -o, or ", ""
"""Remedies where something new is written, and where a bundle is to change where it is."""
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}


@contextlib.contextmanager
def write_errors(target: Path, remedy: str = ELSEWHERE) -> Iterator[None]:
    """Say in one line what the file system refused."""
    try:
        yield
    except OSError as error:
        if error.errno in _DISK_FULL:
            raise
        raise BundleError(
            f"{target} cannot be written ({error.strerror}: {error.filename}); {remedy}see to its folder"
        ) from error


@contextlib.contextmanager
def disk_full_errors(target: Path, remedy: str = ELSEWHERE) -> Iterator[None]:
    """Say in one line that the disk is full, whichever write met it."""
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not (isinstance(cause, OSError) and cause.errno in _DISK_FULL):
            cause = cause.__cause__ or cause.__context__
        if cause is None:
            raise
        free = shutil.disk_usage(next(folder for folder in target.parents if folder.exists())).free
        raise BundleError(
            f"disk full while writing {target} ({free / 1e6:.1f} MB free by now); {remedy}make room; "
            "nothing was left behind"
        ) from error
