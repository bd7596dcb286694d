"""A whole file that a user names, or a pipe, as long as it is no larger than such a file can be."""

import errno
from pathlib import Path

SMALL = 2**26
"""Bytes of what is written about one network: plans, profiles, samples."""


class TooLargeError(OSError):
    """It has no end, or one too far."""


def read_at_most(path: Path, most: int) -> bytes:
    """The bytes at `path`. Raises TooLargeError, an OSError, for more than `most`: as a device may give without end."""
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise TooLargeError(errno.EFBIG, f"larger than {most} bytes", str(path))
    return data
