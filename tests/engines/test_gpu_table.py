"""`make gpu` on a machine that cannot run any of it: each row says why, and nothing is written."""

import subprocess
import sys

from places import ROOT


def run(*options, code=None):
    command = [sys.executable, *(["-c", code] if code else ["tests/benchmarks/gpu", *options])]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_rows_that_cannot_be_measured(tmp_path):
    """Given no GPU, or no time -> a line for each row with the reason, exit code 0, and no results."""
    ran = run("--minutes", "0", "--results", str(tmp_path / "results.md"))
    assert ran.returncode == 0, ran.stderr
    rows = [line for line in ran.stdout.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 100 and all("skipped: " in row for row in rows)
    assert {row.split(" | ")[0] for row in rows} >= {"| tests", "| lanes", "| torch", "| onnxruntime", "| engine"}
    assert ran.stdout.endswith(f"0 measured, 0 wrong, {len(rows)} skipped\n")
    assert not (tmp_path / "results.md").exists()


def test_rows_are_written_as_they_are_measured(tmp_path):
    """Given rows that are skipped, measured and wrong -> all of them in the file, from the first measured one on."""
    code = f"""
import sys, time, pathlib
sys.path.insert(0, "tests/benchmarks/gpu")
from table import Row, Table
file = pathlib.Path({str(tmp_path / "results.md")!r})
table = Table("GPU: a card (2026-01-01)", file, time.monotonic() + 99)
table.skip(Row("a", "first", None), "there is no x|y")
assert not file.exists()
table.add(Row("a", "second", lambda: "1.5 ms"), None)
assert "| a | first | skipped: there is no x/y |\\n| a | second | 1.5 ms |\\n" in file.read_text()
table.fail(Row("a", "third", None), "not\\nright")
assert file.read_text().endswith("| a | third | **wrong**: not right |\\n")
sys.exit(table.end())
"""
    ran = run(code=code)
    assert ran.returncode == 1 and ran.stdout.endswith("1 measured, 1 wrong, 1 skipped\n"), ran.stderr
