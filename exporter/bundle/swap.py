"""Putting a finished folder in the place of another, so that at every moment one of the two is there, whole.

The new folder is written beside its target as `.NAME.tmp-<pid>-<random>`, under a lock that the kernel drops with the
process: a folder of that name whose lock is free was left by a killed run, and the next write to the target removes it.
"""

import contextlib
import ctypes
import errno
import os
import re
import secrets
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from ..errors import BundleError
from .reader import identity

if sys.platform == "win32":
    fcntl = None
else:
    import fcntl

_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
_RENAME_EXCHANGE = 2
_ENDING = (signal.SIGINT, signal.SIGTERM)
_NO_SUCH_CALL = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP}


@contextlib.contextmanager
def folder_beside(target: Path) -> Iterator[Path]:
    """A new, empty, locked folder beside `target`; whatever stands in its place afterwards is removed.

    Removes the folders that killed runs left for the same target, and puts back a target that one of them had moved
    aside. Missing parents of `target` are made, and unmade if the block is left by an exception.
    """
    folder = target.with_name(f".{target.name}.tmp-{os.getpid()}-{secrets.token_hex(4)}")
    made = _make_parents(target.parent)
    lock = None
    try:
        try:
            with _locked(target.parent):
                _sweep(target)
                folder.mkdir()
                lock = _lock(folder, wait=False)
            yield folder
        finally:
            with uninterrupted():
                shutil.rmtree(folder, ignore_errors=True)
                _close(lock)
    except BaseException:
        for parent in made:
            with contextlib.suppress(OSError):
                parent.rmdir()
        raise


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """What is begun is finished: a SIGINT or SIGTERM meanwhile comes afterwards. Other threads get none."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    come: list[int] = []
    before = {each: signal.signal(each, lambda number, _: come.append(number)) for each in _ENDING}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
        for number in come[:1]:
            signal.raise_signal(number)


def replace(target: Path, folder: Path, *, may_replace: bool, expected: str | None = None) -> None:
    """Put `folder` in the place of `target` in one step; afterwards the old target, if any, is at `folder`.

    `expected` is the manifest_sha256 that the bundle at `target` must still have.

    Raises BundleError where `target` exists and `may_replace` is False, or where it is no longer the one expected.
    """
    with _locked(target.parent):
        if expected is not None and identity(target) != expected:
            raise BundleError(f"{target}: changed while a new version of it was made; run the command again")
        if not may_replace:
            _rename_to_nothing(folder, target)
        elif not target.exists():
            os.rename(folder, target)
        elif not _renameat2(folder, target, _RENAME_EXCHANGE):
            _exchange_by_steps(folder, target)
        sync(target.parent)


def sync_tree(folder: Path) -> None:
    """Have every file and folder below `folder` written to the disk itself."""
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            sync(Path(parent, name))
        sync(Path(parent))


def sync(path: Path) -> None:
    """Have one file or folder written to the disk itself."""
    windows = sys.platform == "win32"  # which syncs no folders, and no file opened only for reading
    if windows and path.is_dir():
        return
    handle = os.open(path, os.O_RDWR if windows else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _rename_to_nothing(folder: Path, target: Path) -> None:
    try:
        if not _renameat2(folder, target, _RENAME_NOREPLACE):
            if target.exists():
                raise FileExistsError
            os.rename(folder, target)
    except FileExistsError:
        raise BundleError(f"{target} exists by now, wanted a new folder; give --force to replace it") from None


def _exchange_by_steps(folder: Path, target: Path) -> None:
    """Where the system cannot exchange two folders: move the old one aside first, which `_sweep` knows to undo."""
    aside = target.with_name(f".{target.name}.old-{os.getpid()}-{secrets.token_hex(4)}")
    os.rename(target, aside)
    try:
        os.rename(folder, target)
    except BaseException:
        os.rename(aside, target)
        raise
    os.rename(aside, folder)


def _renameat2(old: Path, new: Path, flags: int) -> bool:
    """Linux's renameat2(2). False where the system or the file system has none; raises OSError as rename does."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    if call is None:
        return False
    if call(_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), flags) == 0:
        return True
    code = ctypes.get_errno()
    if code in _NO_SUCH_CALL:
        return False
    raise OSError(code, os.strerror(code), str(new))


def _sweep(target: Path) -> None:
    """Remove what killed writers of `target` left. Called under the lock of its parent, so none is just starting."""
    leftover = re.compile(rf"\.{re.escape(target.name)}\.(tmp|old)-\d+-[0-9a-f]{{8}}")
    for path in target.parent.iterdir():
        match = leftover.fullmatch(path.name)
        if match is None or path.is_symlink() or not path.is_dir():
            continue
        if match[1] == "old" and not target.exists():
            os.rename(path, target)
        elif (lock := _lock(path, wait=False)) is not None:
            shutil.rmtree(path, ignore_errors=True)
            _close(lock)


def _make_parents(parent: Path) -> list[Path]:
    """Make `parent` and what it needs; the folders made, innermost first."""
    made = []
    while not parent.exists():
        made.append(parent)
        parent = parent.parent
    for folder in reversed(made):
        folder.mkdir(exist_ok=True)
    return made


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One writer at a time for a moment; where the system has no such lock, none."""
    lock = _lock(folder, wait=True)
    try:
        yield
    finally:
        _close(lock)


def _lock(folder: Path, *, wait: bool) -> int | None:
    """An open lock on `folder`; None where another process holds it, it has just vanished, or there are no locks."""
    if fcntl is None:
        return None
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        os.close(handle)
        return None
    except BaseException:
        os.close(handle)
        raise
    return handle


def _close(lock: int | None) -> None:
    if lock is not None:
        os.close(lock)
