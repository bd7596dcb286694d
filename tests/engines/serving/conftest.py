"""Small bundles, and servers of them, each in a process of its own: KServe's protobuf and Triton's do not mix."""

import contextlib
import importlib.util
import json
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import certificates
import pytest
import serving_cases
from serving_bundles import make_bundle

MAIN = "import sys; from plainconv.exporter.cli.main import main; sys.exit(main())"
HELD = """
import os, sys, time
from pathlib import Path
gate = Path(sys.argv.pop(1))
from plainconv.engines.serving import backend
from plainconv.exporter.cli.main import main
load_here = backend.load_here
class Held:
    def __init__(self, real):
        self.real, self.close = real, real.close
    def predict(self, inputs):
        with open(gate / "runs", "a") as file:
            file.write(f"{len(next(iter(inputs.values())))} ")
        while (gate / "closed").exists():
            time.sleep(0.005)
        if (gate / "broken").exists():
            raise RuntimeError("/secret/path")
        return self.real.predict(inputs)
def load(bundle, options):
    loaded = load_here(bundle, options)
    return type(loaded)(Held(loaded.backend), loaded.runtime, loaded.precision, loaded.profiles, loaded.workers)
backend.load_here = load
sys.exit(main())
"""
LONG_S = 60.0  # what nothing takes: a wait of so long is a failure
ANSWERS = re.compile(r"serving (.*) on (https?)://(\S+?)(?: and grpc (\S+))?$")


@dataclass
class Server:
    """A running server."""

    process: "subprocess.Popen[str]"
    lines: list[str] = field(default_factory=list)
    started: threading.Event = field(default_factory=threading.Event)
    http: str = ""
    grpc: str = ""

    def read(self) -> None:
        """Take what it writes to stderr, to its end."""
        for line in self.process.stderr or ():
            self.lines.append(line.rstrip("\n"))
            if found := ANSWERS.search(self.lines[-1]):
                self.http, self.grpc = found[3], found[4] or ""
                self.started.set()
        self.started.set()

    def ask(
        self, method: str, path: str, body: bytes | str | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        """The status of an answer, and its body: the JSON that it is, else the bytes."""
        host, _, port = self.http.rpartition(":")
        connection = HTTPConnection(host, int(port), timeout=LONG_S)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            data = response.read()
            is_json = response.getheader("content-type", "").startswith("application/json")
            return response.status, json.loads(data) if is_json else data
        finally:
            connection.close()

    def raw(self, data: bytes) -> bytes:
        """Everything that is sent back to these bytes, until the server closes the connection."""
        host, _, port = self.http.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=LONG_S) as connection:
            connection.sendall(data)
            received = b""
            while chunk := connection.recv(65536):
                received += chunk
        return received

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Its exit code once it was told to stop."""
        self.process.send_signal(number)
        return self.process.wait(LONG_S)


@contextlib.contextmanager
def running(*arguments: object, gate: Path | None = None) -> Iterator[Server]:
    """`exporter serve` with these arguments, on free ports; its runs wait as long as there is a file gate/closed."""
    if importlib.util.find_spec("kserve") is None:  # not to be imported here: its protobuf and Triton's do not mix
        pytest.skip("needs the server's libraries: pip install 'plainconv[serve]'")
    program = [HELD, str(gate)] if gate else [MAIN]
    options = ["--http-port", "0", "--grpc-port", "0", "--threads", "1", *map(str, arguments)]
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", *program, "serve", *options],
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    server = Server(process)
    reader = threading.Thread(target=server.read, daemon=True)
    reader.start()
    try:
        assert server.started.wait(4 * LONG_S)  # a cluster takes a minute on a busy machine
        yield server
    finally:
        process.kill()
        process.wait(LONG_S)
        reader.join(LONG_S)
        if process.stderr:
            process.stderr.close()


@pytest.fixture(scope="session")
def cases() -> Any:
    """The helper of that name."""
    return serving_cases


@pytest.fixture(scope="session")
def run_server() -> Callable[..., Any]:
    """Runs a server as long as a `with` block."""
    return running


@pytest.fixture(scope="session")
def bundle_of() -> Callable[..., Path]:
    """`make`, for fixtures that outlive a test."""
    return make_bundle


@pytest.fixture
def make() -> Callable[..., Path]:
    return make_bundle


@pytest.fixture
def start() -> Iterator[Callable[..., Server]]:
    """Starts servers; they end with the test."""
    with contextlib.ExitStack() as held:
        yield lambda *arguments, **options: held.enter_context(running(*arguments, **options))


@pytest.fixture
def certificate() -> Callable[[Path], Any]:
    """A new certificate and its key in a folder."""
    pytest.importorskip("cryptography")
    from plainconv.engines.serving.tls import Certificates

    return lambda folder: Certificates(*certificates.write_certificate(folder))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two bundles: `open`, whose batch is open, and `one`, of batch 1."""
    folder = tmp_path_factory.mktemp("models")
    make_bundle(folder / "open")
    make_bundle(folder / "one", batch=1, scale=2.0)
    return folder


@pytest.fixture(scope="module")
def server(store: Path) -> Iterator[Server]:
    """A server of `store`, for tests that leave it as it is."""
    with running(store, "--repository-api", "--access-log", "none", "--max-body", "1", "--max-batch", "8") as started:
        assert started.http, started.lines
        yield started
