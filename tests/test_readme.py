"""The READMEs: every command of the first one runs as it is written, and every drawing shows the rooms there are."""

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import readme_sample
from places import ROOT

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
MOST_LINES = 130
FOLDERS = {"exporter": ROOT / "exporter", "engines": ROOT / "engines", "models": ROOT / "models"}
NO_ROOMS = {"__init__", "__main__", "__pycache__", "build"}


def blocks(path: Path) -> list[tuple[str, str]]:
    """Every block of code, its language before it."""
    return BLOCK.findall(path.read_text(encoding="utf-8"))


def test_the_first_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= MOST_LINES


def test_every_line_of_the_first_readme_runs(tmp_path: Path) -> None:
    """Given its files and commands, in their order, in an empty folder -> each does what the text says."""
    for port in (8000, 8001):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                pytest.skip(f"port {port}, which the README names, is taken here")
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    program, script = tmp_path / "program", ["set -e"]
    program.mkdir()
    for language, text in blocks(ROOT / "README.md"):
        if language == "python" and (name := re.match(r"# (\w+\.py)\n", text)):
            (program / name[1]).write_text(text, encoding="utf-8")
        elif language == "python":
            script.append(f"python - <<'EOF'\n{text}EOF")
        elif language == "sh":
            script.append(text)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-m", "-c", "\n".join(script)], cwd=program, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "{'" in done.stdout and "(1, 10)" in done.stdout


@pytest.mark.parametrize("top", FOLDERS)
def test_the_drawing_shows_the_rooms(top: str) -> None:
    """Given the first drawing of a folder's README -> every room of the folder once, and no other."""
    drawing = blocks(FOLDERS[top] / "README.md")[0][1]
    drawn = [name for line in drawing.splitlines() for name in re.split(r"\s{2,}", line.strip())[0].split(", ")]
    rooms = {path.stem for path in FOLDERS[top].iterdir() if path.suffix == ".py"}
    rooms |= {f"{path.name}/" for path in FOLDERS[top].iterdir() if path.is_dir()}
    wanted = {room for room in rooms if room.rstrip("/") not in NO_ROOMS}
    assert sorted(drawn) == sorted(wanted)


def test_the_sample_is_what_the_command_prints() -> None:
    """Given the table in the README -> its rows and columns are those of `exporter inspect`; numbers may differ."""
    found = readme_sample.SAMPLE.search((ROOT / "README.md").read_text(encoding="utf-8"))
    assert found is not None
    for column in ("parity with float64", "tolerance", "accuracy", "targets", "shapes", "seconds"):
        assert column in found[2]
