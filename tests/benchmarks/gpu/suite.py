"""The tests that need a GPU, by pytest."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from conditions import need
from table import Row, Skipped

MOST_SECONDS = 180
ROOT = Path(__file__).parents[3]


def section() -> Iterator[Row]:
    """One row: passed, failed and skipped."""
    yield Row("tests", "pytest -m gpu", tests)


def tests() -> str:
    """The last line of pytest, with its reasons to skip. Raises AssertionError where a test fails."""
    need("pytest", "hypothesis", "onnx", "onnxruntime")
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-rs", "--timeout=240", "tests/engines"]
    try:
        run = subprocess.run(
            command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, check=False, timeout=MOST_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise Skipped(f"it did not end within {MOST_SECONDS} s") from None
    lines = run.stdout.strip().splitlines()
    reasons = sorted({line.rpartition(": ")[2] for line in lines if line.startswith("SKIPPED")})
    assert run.returncode in (0, 5), "\n".join(lines[-30:])
    return "; ".join([lines[-1].strip("= "), *reasons])
