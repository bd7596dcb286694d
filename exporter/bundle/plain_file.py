"""Opening plain files alone: never a pipe, which would be waited at for ever, a device, or a link."""

import os
import stat
from io import BufferedReader
from pathlib import Path

from ..errors import BundleError

_HOW = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


def open_plain(path: Path, name: str = "") -> BufferedReader:
    """The plain file at `path`, open for reading: what is read is what was looked at, whatever takes its name later.

    Raises BundleError, which calls it `name`, where it is something else; OSError where it is missing.
    """
    name = name or path.name
    if not stat.S_ISREG(path.lstat().st_mode):  # opening a device may do something
        raise _special(path.lstat().st_mode, name)
    handle = os.open(path, _HOW)
    try:
        mode = os.fstat(handle).st_mode
        if not stat.S_ISREG(mode):
            raise _special(mode, name)
        return open(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def _special(mode: int, name: str) -> BundleError:
    kind = {stat.S_IFLNK: "symbolic link", stat.S_IFDIR: "folder"}.get(stat.S_IFMT(mode), "special file")
    return BundleError(f"{name} is a {kind}, wanted plain files only; replace it by a copy")
