"""`exporter serve`: its options, and what it says where they do not fit."""

import argparse
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from plainconv.engines.serving import ServeOptions, running
from plainconv.exporter.bundle import TensorSpec, write_bundle
from plainconv.exporter.cli.main import main, parser
from plainconv.exporter.cli.serve import MIB, options_of
from plainconv.exporter.errors import BundleError, CheckFailedError, EngineError

TOKEN = "0123456789abcdef"


def parse(*argv: object) -> argparse.Namespace:
    return parser().parse_args(["serve", *map(str, argv)])


@pytest.fixture(autouse=True)
def loggers() -> Iterator[None]:
    """As they were, in the end."""
    names = ("plainconv.serving", "uvicorn.error", "kserve", "grpc", "asyncio")
    known = [(log := logging.getLogger(name), log.level, log.propagate, list(log.handlers)) for name in names]
    yield
    for log, level, propagate, handlers in known:
        log.setLevel(level)
        log.propagate, log.handlers = propagate, handlers


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle that opens; nothing runs it."""
    with write_bundle(tmp_path / "b") as draft:
        draft.manifest.name = "my net/2"
        draft.manifest.inputs = draft.manifest.outputs = (TensorSpec("x", "float32", (1,)),)
        draft.path("model.onnx").write_bytes(b"no model")
        draft.link("checkpoint", sha256="c" * 64)
        draft.link_onnx()
    return tmp_path / "b"


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, Any]]:
    """What would be served, and with which options."""
    calls: list[tuple[Any, Any]] = []

    def serve(places: Any, options: Any, *, say: Callable[[str], None], **more: Any) -> None:
        calls.append((places, options))
        say("serving")

    monkeypatch.setattr(running, "serve", serve)
    return calls


def test_by_default() -> None:
    """Given no option -> this machine alone, no repository API, and limits on everything."""
    options = options_of(parse("b"))
    assert options == ServeOptions()
    assert (options.host, options.http_port, options.grpc_port) == ("127.0.0.1", 8000, 8001)
    assert not options.repository and options.max_body == 64 * MIB and options.workers == 1


def test_all_options(tmp_path: Path) -> None:
    """Given each option -> the server's own."""
    for name in ("cert", "key"):
        (tmp_path / name).touch()
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    options = options_of(
        parse(
            *("b", "--host", "::1", "--http-port", 0, "--grpc-port", 9, "--token-file", tmp_path / "token"),
            *("--tls-cert", tmp_path / "cert", "--tls-key", tmp_path / "key", "--max-batch", 2, "--max-delay-us", 0),
            *("--workers", 3, "--max-queue", 4, "--max-body", 5, "--max-pending", 6, "--max-connections", 7),
            *("--timeout", 0.5, "--grace", 8, "--repository-api", "--watch", 0, "--access-log", "none"),
            *("--engine", "onnxruntime", "--precision", "fp16", "--devices", "0,1", "--threads", 2, "--eager-kernels"),
        )
    )
    assert options == ServeOptions(
        host="::1",
        http_port=0,
        grpc_port=9,
        token=TOKEN,
        tls_cert=tmp_path / "cert",
        tls_key=tmp_path / "key",
        max_batch=2,
        max_delay_us=0,
        workers=3,
        max_queue=4,
        max_body=5 * MIB,
        max_pending=6 * MIB,
        max_connections=7,
        timeout_s=0.5,
        grace_s=8,
        repository=True,
        watch_s=0,
        access_log="",
        engine="onnxruntime",
        precision="fp16",
        devices=(0, 1),
        eager_kernels=True,
        threads=2,
    )
    assert options_of(parse("b", "--no-grpc")).grpc_port is None


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--http-port", "65536"], "is not a port; wanted 0 to 65535"),
        (["--grpc-port", "-1"], "wanted 0 to 65535"),
        (["--timeout", "0"], "is no time to answer in"),
        (["--grace", "nan"], "is not a time; wanted seconds"),
        (["--watch", "-1"], "is not a time"),
        (["--timeout", "soon"], "is not a time"),
        (["--max-batch", "0"], ""),
        (["--workers", "0"], ""),
        (["--engine", "magic"], "invalid choice"),
    ],
)
def test_a_bad_option(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["serve", "b", *argv])
    assert caught.value.code == 2 and said in capsys.readouterr().err


def test_half_of_tls(tmp_path: Path) -> None:
    """Given a certificate without a key, or files that are not there -> one line."""
    (tmp_path / "cert").touch()
    with pytest.raises(EngineError, match="one of --tls-cert and --tls-key given; wanted both, or neither"):
        options_of(parse("b", "--tls-cert", tmp_path / "cert"))
    with pytest.raises(EngineError, match="no such file; give PEM files"):
        options_of(parse("b", "--tls-cert", tmp_path / "cert", "--tls-key", tmp_path / "none"))


@pytest.mark.parametrize(("host", "warned"), [("127.0.0.1", 0), ("localhost", 0), ("::1", 0), ("0.0.0.0", 1)])
def test_beyond_this_machine(
    served: list[Any], bundle: Path, host: str, warned: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Given an address that others reach, and no token -> a warning."""
    assert main(["serve", str(bundle), "--host", host]) == 0
    lines = capsys.readouterr().err.splitlines()
    said = f"exporter: warning: {host} lets other machines send requests, and no token is asked for"
    assert len(lines) == 1 + warned and lines[-1] == "serving" and (not warned or lines[0].startswith(said))


def test_what_is_served(served: list[Any], bundle: Path, tmp_path: Path) -> None:
    """Given a bundle -> it, by the name given or its own as a URL holds it; a folder of bundles -> those in it."""
    for argv, names in (([bundle], ("my_net_2",)), ([bundle, "--name", "v6"], ("v6",)), ([tmp_path], ("b",))):
        assert main(["serve", *map(str, argv)]) == 0
        assert served[-1][0].names() == names


@pytest.mark.parametrize(
    ("path", "more", "said"),
    [
        ("none", [], "none"),
        ("b", ["--name", "a/b"], "'a/b' is no name of a model"),
        (".", ["--name", "a"], "have names of their own; leave --name out"),
        ("b/none", [], "none"),
    ],
)
def test_nothing_to_serve(
    served: list[Any], bundle: Path, path: str, more: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", str(bundle.parent / path), *more]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("exporter: ") and said in line and not served


@pytest.mark.parametrize(("error", "code"), [(EngineError, 2), (BundleError, 2), (CheckFailedError, 1)])
def test_exit_codes(
    bundle: Path, error: type[Exception], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def serve(*_: Any, **__: Any) -> None:
        raise error("it is so")

    monkeypatch.setattr(running, "serve", serve)
    assert main(["serve", str(bundle)]) == code
    assert capsys.readouterr().err == "exporter: it is so\n"


def test_the_log(served: list[Any], bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Given what goes wrong while it serves -> lines as the command line's own; what anyone may cause is left out."""
    main(["serve", str(bundle)])
    logging.getLogger("plainconv.serving").warning("model %s: gone", "b")
    logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
    assert capsys.readouterr().err == "serving\nexporter: warning: model b: gone\n"


def test_importing_is_cheap() -> None:
    """Given the command's module -> no server's library, torch or ONNX Runtime is imported with it."""
    heavy = "{'torch', 'kserve', 'fastapi', 'grpc', 'uvicorn', 'onnxruntime', 'prometheus_client', 'PIL'}"
    modules = "from plainconv.exporter.cli import main, serve; from plainconv.engines import serving"
    program = f"import sys; {modules}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
