"""The example for KServe fits the program: arguments, routes, ports, times, mounts."""

import ast
import re
import shlex
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from plainconv import engines
from plainconv.engines.serving.auth import token_of_file
from plainconv.engines.serving.rest import guard as http_guard
from plainconv.exporter.cli import serve as serve_command
from plainconv.exporter.cli.arguments import Parser

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")

FOLDER = Path(engines.__file__).with_name("kubernetes")


@pytest.fixture(scope="module")
def service() -> Any:
    [document] = yaml.safe_load_all((FOLDER / "inference-service.yaml").read_text(encoding="utf-8"))
    return document


@pytest.fixture(scope="module")
def predictor(service: Any) -> Any:
    return service["spec"]["predictor"]


@pytest.fixture(scope="module")
def container(predictor: Any) -> Any:
    [only] = predictor["containers"]
    return only


@pytest.fixture(scope="module")
def args(container: Any) -> Any:
    """Its command line, as the program reads it."""
    program, command, *arguments = [*container["command"], *container["args"]]
    assert (program, command) == ("exporter", "serve")
    parser = Parser(prog="exporter serve")
    serve_command.add_arguments(parser)
    return parser.parse_args(arguments)


def test_it_is_a_custom_predictor_of_protocol_2(service: Any, container: Any, args: Any) -> None:
    """Given KServe's rules for a container of one's own -> its name and its protocol; the model is called as it is."""
    assert (service["apiVersion"], service["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    assert container["name"] == "kserve-container"
    assert {"name": "PROTOCOL", "value": "v2"} in container["env"]
    assert args.name == service["metadata"]["name"]


def test_ports(container: Any, args: Any) -> None:
    """Given the ports of the container -> those that the program listens on, on every address."""
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http1": args.http_port, "h2c": args.grpc_port}
    assert container["ports"][0]["name"] == "http1"  # it becomes the service's port 80
    assert args.host == "0.0.0.0" and not args.no_grpc


@pytest.mark.parametrize("name", ["startupProbe", "readinessProbe", "livenessProbe"])
def test_probes(container: Any, args: Any, name: str) -> None:
    """Given a probe -> a route of the server that asks for no token, on its port."""
    asked = container[name]["httpGet"]
    assert asked["path"] in http_guard.OPEN_PATHS and asked["path"] in routes()
    assert asked["port"] == args.http_port


def routes() -> set[str]:
    """The paths that the server's own table begins with, read without importing a web framework."""
    tree = ast.parse(Path(engines.__file__).with_name("serving").joinpath("rest/server.py").read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    first = [call.args[0] for call in calls if call.func.attr == "add_api_route"]  # type: ignore[attr-defined]
    return {node.value for node in first if isinstance(node, ast.Constant)}


def test_times(predictor: Any, container: Any, args: Any) -> None:
    """Given the time that a pod has to end -> enough for preStop, then for every request that was accepted."""
    command, seconds = container["lifecycle"]["preStop"]["exec"]["command"]
    assert command == "sleep"
    assert predictor["terminationGracePeriodSeconds"] >= float(seconds) + args.grace + 5
    assert args.grace >= args.timeout and predictor["timeout"] >= args.timeout


def test_mounts(predictor: Any, container: Any, args: Any, tmp_path: Path) -> None:
    """Given the paths of the arguments -> each lies in a mount, whose volume there is, and which is read-only."""
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in predictor["volumes"]}
    assert {mount["name"] for mount in mounts.values()} == set(volumes)
    for path in map(PurePosixPath, (str(args.path), str(args.token_file))):
        [mount] = [mounts[str(above)] for above in path.parents if str(above) in mounts]
        assert mount["readOnly"] is True
    [item] = volumes["token"]["secret"]["items"]
    assert args.token_file == Path(mounts["/etc/plainconv"]["mountPath"], item["path"])
    (tmp_path / "token").write_text("0123456789abcdef\n")
    assert len(token_of_file(tmp_path / "token")) == 16  # as many as the README asks for
    assert {"name": "HOME", "value": "/tmp"} in container["env"] and "/tmp" in mounts


def test_memory(container: Any, args: Any) -> None:
    """Given the memory of the container -> more than the requests that the server takes, and Python."""
    limit = int(re.fullmatch(r"(\d+)Gi", container["resources"]["limits"]["memory"])[1]) * 1024  # type: ignore[index]
    assert limit >= args.max_pending + 1024
    resources = container["resources"]
    assert resources["requests"]["nvidia.com/gpu"] == resources["limits"]["nvidia.com/gpu"]


def test_the_readme_names_what_there_is(predictor: Any, container: Any) -> None:
    """Given the README's words in code -> its options and its settings are those of the file beside it."""
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    manifest = (FOLDER / "inference-service.yaml").read_text(encoding="utf-8")
    parser = Parser(prog="exporter serve")
    serve_command.add_arguments(parser)
    options = {word for word in re.findall(r"(?<![\w-])--[a-z][a-z-]+", text) if f"kubectl {word}" not in text}
    known = set(parser._option_string_actions) | {"--from-file", "--for", "--timeout", "--ray"}
    assert options and options <= known
    for word in ("terminationGracePeriodSeconds", "nvidia.com/gpu", "http1", "h2c", "preStop", "v6-token", "models"):
        assert word in text and word in manifest
    [apply] = [line for line in text.splitlines() if line.startswith("kubectl apply")]
    assert (FOLDER / shlex.split(apply)[-1]).is_file()
