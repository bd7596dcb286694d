"""A model's report, where one lies beside its bundle: `exporter report DIR/NAME -o DIR/NAME.html` writes it there.

It names the bundle that it is of by its hash; of another version than the one that is served it is no report.
"""

from functools import lru_cache
from pathlib import Path

from plainconv.exporter.bundle.plain_file import open_plain
from plainconv.exporter.errors import BundleError

from ..model import Model

MOST = 8 << 20
"""Bytes: a report has less than half of it."""


def has_report(model: Model) -> bool:
    """Whether a report of this version lies there. The file is read anew only after it has changed."""
    try:
        found = model.report.stat()
    except OSError:
        return False
    return _is_of(model.report, found.st_mtime_ns, found.st_size, model.sha256)


def report_of(model: Model) -> bytes | None:
    """The report of this version of the model; None where there is none."""
    text = _text(model.report)
    return text if model.sha256.encode() in text else None


@lru_cache(maxsize=256)
def _is_of(path: Path, changed: int, size: int, sha256: str) -> bool:
    return sha256.encode() in _text(path)


def _text(path: Path) -> bytes:
    """What the file says; nothing where it is none, or larger than a report."""
    try:
        with open_plain(path.resolve()) as file:
            text = file.read(MOST + 1)
    except (OSError, BundleError):
        return b""
    return text if len(text) <= MOST else b""
