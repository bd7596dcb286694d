"""`exporter serve --ray`: the whole server on a cluster that it begins, and ends."""

import importlib.util
import os
import secrets
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from waiting import until

pytestmark = [
    pytest.mark.slow,  # a cluster begins and ends
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed"),
    pytest.mark.skipif(not Path("/proc").is_dir(), reason="processes are found in /proc"),
]

LONG_S = 60.0


def processes_below(parent: int) -> dict[int, str]:
    """The processes that a process began, and those began, by number: what they are called."""
    parents, names = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            number = int(folder.name)
            parents[number] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            names[number] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # it has ended meanwhile
    found = {parent}
    while more := {number for number, above in parents.items() if above in found} - found:
        found |= more
    return {number: names[number] for number in found - {parent}}


def body(value: float) -> str:
    return f'{{"inputs": [{{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [{value}, 1, 1, 1]}}]}}'


@pytest.fixture(autouse=True)
def _own_ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A token and a folder of its own, else Ray writes into the user's; its sockets want a short path."""
    folder = tempfile.mkdtemp(prefix="ray")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    monkeypatch.setenv("RAY_TMPDIR", folder)
    yield
    shutil.rmtree(folder, ignore_errors=True)


def test_a_server_of_two_replicas(make: Any, start: Any, tmp_path: Path) -> None:
    """Given requests without end -> each is answered while a replica dies and the bundle is replaced; then all ends."""
    folder = make(tmp_path / "sums")
    options = ("--ray", "local", "--replicas", 2, "--cpus-per-replica", 0.25, "--watch", 0.2, "--access-log", "none")
    server = start(folder, *options)
    assert server.http, server.lines
    wrong: list[Any] = []
    seen: dict[float, int] = {}
    done = threading.Event()

    def client(number: int) -> None:
        value = number
        while not done.is_set():
            status, answer = server.ask("POST", "/v2/models/sums/infer", body(value))
            data = answer["outputs"][0]["data"] if status == 200 else [status, answer]
            if data not in ([value + 1, 2], [2 * (value + 1), 4]):
                wrong.append(data)
            seen[data[1]] = seen.get(data[1], 0) + 1
            value = (value + 7) % 1000

    clients = [threading.Thread(target=client, args=(n,)) for n in range(3)]
    for thread in clients:
        thread.start()
    try:
        assert until(lambda: seen.get(2, 0) > 20), server.lines
        replicas = [n for n, name in processes_below(server.process.pid).items() if "ServeReplica" in name]
        assert len(replicas) == 2
        os.kill(replicas[0], signal.SIGKILL)
        killed_at = seen[2]
        assert until(lambda: seen[2] > killed_at + 50), server.lines
        make(folder, scale=2.0, force=True)
        assert until(lambda: seen.get(4, 0) > 20), server.lines
    finally:
        done.set()
        for thread in clients:
            thread.join(LONG_S)
    assert not wrong
    assert any("model sums: reloaded" in line for line in server.lines)
    below = processes_below(server.process.pid)
    assert any("raylet" in name for name in below.values())
    code = server.stop()
    assert code == 0, server.lines
    assert until(lambda: not any(Path(f"/proc/{number}").exists() for number in below))


def test_replicas_without_a_place(make: Any, start: Any, tmp_path: Path) -> None:
    """Given replicas that are larger than this machine -> one line, and the exit code of bad input."""
    server = start(make(tmp_path / "sums"), "--ray", "local", "--cpus-per-replica", 10_000, "--replica-start", 0.5)
    assert server.process.wait(LONG_S) == 2
    assert any("the others have no place (10000 CPUs and 0 GPUs each)" in line for line in server.lines), server.lines
    assert not any("Traceback" in line for line in server.lines)
