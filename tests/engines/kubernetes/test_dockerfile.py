"""The container's recipe fits the program and the example for KServe."""

import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from places import ROOT

from plainconv import engines
from plainconv.engines.serving.rest.guard import OPEN_PATHS
from plainconv.exporter.cli import serve as serve_command
from plainconv.exporter.cli.arguments import Parser

pytest.importorskip("starlette")
FOLDER = Path(engines.__file__).with_name("kubernetes")
STAGES = {
    stage.split("\n", 1)[0].rpartition(" ")[2]: stage
    for stage in re.split(r"^FROM ", (FOLDER / "Dockerfile").read_text().replace("\\\n", ""), flags=re.MULTILINE)[1:]
}


def words(stage: str, instruction: str) -> list[str]:
    """The words of an instruction in its JSON form."""
    found = re.search(rf"^{instruction} .*?(\[.*\])$", STAGES[stage], re.MULTILINE)
    assert found, (stage, instruction)
    said: list[str] = json.loads(found[1])
    return said


def test_the_command_is_one_of_the_program() -> None:
    """Given the image's command line -> the program takes it, on the ports that the image names."""
    assert words("python", "ENTRYPOINT") == ["exporter", "serve"] and words("cpp", "ENTRYPOINT") == ["bundle-serve"]
    parser = Parser(prog="exporter serve")
    serve_command.add_arguments(parser)
    args = parser.parse_args(words("python", "CMD"))
    for stage in ("python", "cpp"):
        assert words(stage, "CMD") == words("python", "CMD")
        assert f"EXPOSE {args.http_port} {args.grpc_port}" in STAGES[stage]


@pytest.mark.parametrize("stage", ["python", "cpp"])
def test_the_health_check_needs_no_token(stage: str) -> None:
    [path] = re.findall(r"(?:8080|GET )(/v2/[a-z0-9/]+)", words(stage, "HEALTHCHECK")[-1])
    assert path in OPEN_PATHS


def test_onnx_runtime_is_the_one_that_the_package_asks_for() -> None:
    package = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    [wanted] = package["optional-dependencies"]["cpu"]
    assert f"onnxruntime='{wanted}'\n" in (FOLDER / "build.sh").read_text()


def test_what_is_copied_is_not_ignored() -> None:
    """Given the file that says what docker takes of the repository -> all that the recipe copies is named there."""
    kept = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    copied = {path for stage in STAGES.values() for path in re.findall(r"^COPY (?!--from)(\S+) ", stage, re.MULTILINE)}
    assert {path for path in copied if not any(path == each or path.startswith(f"{each}/") for each in kept)} == set()


@pytest.mark.parametrize("stage", ["python", "cpp"])
def test_it_runs_as_no_root_and_writes_to_tmp_alone(stage: str) -> None:
    assert "\nUSER 1000\n" in STAGES[stage] and re.search(r"^ENV HOME=/tmp", STAGES[stage], re.MULTILINE)
    assert "VOLUME" not in STAGES[stage]


def test_the_build_steps_are_a_shell_script() -> None:
    """Given the script that the stages run -> it parses, knows their words, and refuses others."""
    script = FOLDER / "build.sh"
    assert subprocess.run(["sh", "-n", script], check=False).returncode == 0
    done = subprocess.run(["sh", script, "java", "x"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "java is none of python, cpp, libraries" in done.stderr
    for word in re.findall(r"build\.sh (\w+)", "".join(STAGES.values())):
        assert f"\n{word})" in script.read_text()
