"""The container's recipe fits the program and the example for KServe.."""

import json
import re
import subprocess
from pathlib import Path

import pytest

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
    assert words("python", "ENTRYPOINT") == ["exporter", "serve"]
    parser = Parser(prog="exporter serve")
    serve_command.add_arguments(parser)
    args = parser.parse_args(words("python", "CMD"))
    assert f"EXPOSE {args.http_port} {args.grpc_port}" in STAGES["python"]


def test_the_health_check_needs_no_token() -> None:
    check = re.search(r"http://127\.0\.0\.1:8080(/[a-z0-9/]+)", STAGES["python"])
    assert check and check[1] in OPEN_PATHS


@pytest.mark.parametrize("stage", ["python", "cpp"])
def test_it_runs_as_no_root_and_writes_to_tmp_alone(stage: str) -> None:
    assert "\nUSER 1000\n" in STAGES[stage] and re.search(r"^ENV HOME=/tmp", STAGES[stage], re.MULTILINE)
    assert "VOLUME" not in STAGES[stage]


def test_the_build_steps_are_a_shell_script() -> None:
    """Given the script that the stages run -> it parses, knows their words, and refuses others."""
    script = FOLDER / "build.sh"
    assert subprocess.run(["sh", "-n", script], check=False).returncode == 0
    done = subprocess.run(["sh", script, "java", "x"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "java is none of python, cpp" in done.stderr
    for word in re.findall(r"build\.sh (\w+)", "".join(STAGES.values())):
        assert f"\n{word})" in script.read_text()
