"""Writing a file in one step."""

import os
import secrets
from pathlib import Path


def write_whole(path: Path, data: bytes, *, is_private: bool = False) -> None:
    """`path` is the old file or the whole new one, whatever happens meanwhile; nothing else stays behind.

    With `is_private` nobody else may read it. Raises OSError where it cannot be written.
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    mode = 0o600 if is_private else 0o666
    try:
        with open(beside, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
