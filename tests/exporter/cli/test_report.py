"""`exporter report`: what it says, and what it refuses in one line."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from plainconv.exporter.cli.main import main


def test_it_is_written_in_one_step(
    branches: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "report.html"
    target.write_text("old")
    (tmp_path / "raw.json").write_text(json.dumps({"samples": [{"runner": "r", "batch": 1, "turns_ms": [[1.0, 2.0]]}]}))
    arguments = ["--device", "t4", "--profile", branches.slow, "--bench", tmp_path / "raw.json", "--json"]
    assert main(["report", str(branches.bundle), "-o", str(target), *map(str, arguments)]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["bytes"] == target.stat().st_size
    assert target.read_text().startswith("<!doctype html>")
    assert "measured µs" in target.read_text() and "Measured latency" in target.read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["raw.json", "report.html"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["-o", "."], "no file can be written there"),
        (["-o", "none/report.html"], "no file can be written there"),
        (["-o", "{bundle}/report.html"], "lies in the bundle"),
        (["-o", "r.html", "--device", "gtx"], "no device is called 'gtx'"),
        (["-o", "r.html", "--bench", "{bundle}/manifest.json"], "holds no samples; give the file that"),
        (["-o", "r.html", "--bench", "none.json"], "give the file that `exporter bench --raw` wrote"),
        (["-o", "r.html", "--profile", "none.json"], "none.json"),
    ],
)
def test_bad_input_is_one_line(
    branches: SimpleNamespace,
    said_once: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    given = [option.format(bundle=branches.bundle) for option in options]
    assert words in said_once(branches.bundle, "report", branches.bundle, *given)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_bundle_is_refused(
    branches: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = branches.of("chain", tmp_path / "b")
    (path / "model.onnx").write_bytes((path / "model.onnx").read_bytes()[:-1] + b"x")
    assert main(["report", str(path), "-o", str(tmp_path / "r.html")]) == 2
    assert "model.onnx is damaged" in capsys.readouterr().err
    assert not (tmp_path / "r.html").exists()


def test_without_matplotlib_the_extra_is_named(
    branches: SimpleNamespace, said_once: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for name in [n for n in sys.modules if n.startswith("plainconv.exporter.report")]:
        monkeypatch.delitem(sys.modules, name)
    said = said_once(branches.bundle, "report", branches.bundle, "-o", tmp_path / "r.html")
    assert "pip install 'plainconv[report]'" in said
