"""Hosts of our own on this machine, a Ray node on each: network namespaces that a switch in one more joins.

A host has a network, processes, a name, `/dev/shm` and a folder of Ray's of its own; the files are this machine's, so a
bundle lies under the same path on each. Wants Linux, root and `ip`; a slow link wants `tc` as well.
"""

import contextlib
import ctypes
import functools
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import waiting

LONG_S = 120.0
_NET, _PORT, _MEMORY = "10.77.0", 6379, 80 * 2**20
_CLONE_NEWNET = 0x40000000
_MAIN = "import sys; from plainconv.exporter.cli.main import main; sys.exit(main())"
_OPTIONS = ("--http-port", "8000", "--no-grpc", "--access-log", "none", "--watch", "0", "--threads", "1")
_INIT = """
hostname "$1" && mount -t tmpfs tmpfs /dev/shm && mount -t tmpfs tmpfs "$2" || exit 1
while :; do sleep 1; done
"""
"""What a host's first process does: it also reaps what others left."""


until = functools.partial(waiting.until, seconds=LONG_S)


def why_not() -> str:
    """Why there can be no hosts here, "" where there can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "hosts are network namespaces, which root makes on Linux"
    missing = [tool for tool in ("ip", "unshare", "nsenter") if shutil.which(tool) is None]
    if missing:
        return f"{missing[0]} is not installed"
    name = f"try{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"network namespaces are not allowed here: {made.stderr.strip()}"
    joined = ["ip", "-n", name, "link", "add", "name", "a", "type", "veth", "peer", "name", "b"]
    done = subprocess.run(joined, capture_output=True, text=True, check=False)
    subprocess.run(["ip", "netns", "del", name], check=True)
    return f"veth is not allowed here: {done.stderr.strip()}" if done.returncode else ""


def inner(process: subprocess.Popen[Any]) -> int:
    """The number of a process on a host, where `process` is what took it there; 0 where it has ended."""
    with contextlib.suppress(OSError):
        return int((Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split() or [0])[0])
    return 0


class Host:
    """One host; off at first."""

    def __init__(self, hosts: "Hosts", number: int) -> None:
        """Plug it into the switch."""
        self.address, self.name = f"{_NET}.{number}", f"{hosts.name}-{number}"
        self._hosts, self._port = hosts, f"port{number}"
        _ip("netns", "add", self.name)
        ends = ("type", "veth", "peer", "name", self._port, "netns", hosts.name)
        _ip("-n", self.name, "link", "add", "eth0", *ends)
        _ip("-n", hosts.name, "link", "set", self._port, "master", "switch", "up")
        _ip("-n", self.name, "address", "add", f"{self.address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _ip("-n", self.name, "link", "set", device, "up")
        self._power: subprocess.Popen[bytes] | None = None
        self._init = 0

    def on(self, *ray: str) -> None:
        """Begin with a Ray node, which `ray start` is told of by these words."""
        self.plug()
        alone = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--uts"]
        first = ["sh", "-c", _INIT, "sh", self.name, self._hosts.folder]
        self._power = power = subprocess.Popen(["ip", "netns", "exec", self.name, *alone, *first])
        assert until(lambda: power.poll() is not None or inner(power))
        self._init = inner(power)
        assert until(lambda: "sleep" in self.processes().values())
        node = ["env", "RAY_AUTH_MODE=token", sys.executable, "-m", "ray.scripts.scripts", "start"]
        own = [f"--node-ip-address={self.address}", f"--object-store-memory={_MEMORY}", "--disable-usage-stats"]
        done = self.run(*node, *ray, *own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        said = done.communicate(timeout=LONG_S)[0]
        assert done.returncode == 0, said

    def run(self, *command: str, **options: Any) -> subprocess.Popen[Any]:
        """A process on it."""
        inside = ["nsenter", f"--target={self._init}", "--net", "--mount", "--uts", "--pid"]
        return subprocess.Popen([*inside, *command], env={**os.environ, **self._hosts.environment}, **options)

    def off(self) -> None:
        """Take its power: it says good-bye to nobody. Twice does nothing."""
        if self._power:
            self.unplug()
            self._power.send_signal(signal.SIGKILL)
            self._power.wait()
            self._power = None
            assert until(lambda: not self.processes())

    def unplug(self) -> None:
        """Take its cable out."""
        _ip("-n", self._hosts.name, "link", "set", self._port, "down")

    def plug(self) -> None:
        """Put its cable back."""
        _ip("-n", self._hosts.name, "link", "set", self._port, "up")

    def shape(self, *how: str) -> None:
        """Have its link be as `tc` says, in both directions; as it was, where nothing is said."""
        for space, device in ((self.name, "eth0"), (self._hosts.name, self._port)):
            words = ["replace", "dev", device, "root", *how] if how else ["del", "dev", device, "root"]
            subprocess.run(["tc", "-n", space, "qdisc", *words], check=True)

    def processes(self) -> dict[int, str]:
        """What runs on it, by its number on this machine: what it is called."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if os.readlink(folder / "ns/net") == self._network:
                    found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode() or "-"
        return {number: name.split()[0] for number, name in found.items()}

    @property
    def replicas(self) -> list[int]:
        """The numbers of its replicas' processes."""
        return [number for number, name in self.processes().items() if name.startswith("ray::ServeReplica")]

    def enter(self) -> None:
        """Have the sockets that this thread opens from now on be of this host."""
        with open(f"/run/netns/{self.name}") as space:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.setns(space.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")

    @property
    def _network(self) -> str:
        """As the kernel calls it."""
        return f"net:[{os.stat(f'/run/netns/{self.name}').st_ino}]"


class Hosts:
    """Hosts, which end with the block: the first is the cluster's head."""

    def __init__(self, *processors: int) -> None:
        """As many hosts as numbers: how many processors each has for replicas."""
        self._processors = processors
        self.name = f"pc{os.getpid()}"
        self.environment = {"RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
        self.all: list[Host] = []

    @property
    def cluster(self) -> str:
        """Its address."""
        return f"{_NET}.1:{_PORT}"

    def __enter__(self) -> "Hosts":
        """Begin them all."""
        self.folder = tempfile.mkdtemp(prefix="ray")  # Ray's sockets want a short path
        try:
            _ip("netns", "add", self.name)
            _ip("-n", self.name, "link", "add", "switch", "type", "bridge")
            _ip("-n", self.name, "link", "set", "switch", "up")
            self.all = [Host(self, number) for number in range(1, len(self._processors) + 1)]
            for host in self.all:
                self.on(host)
        except BaseException:
            self.__exit__()
            raise
        return self

    def on(self, host: Host) -> None:
        """Begin one of them, as a node of the cluster."""
        head = ("--head", f"--port={_PORT}", "--include-dashboard=false", f"--temp-dir={self.folder}")
        joins = head if host is self.all[0] else (f"--address={self.cluster}",)
        host.on(*joins, f"--num-cpus={self._processors[self.all.index(host)]}")

    @contextlib.contextmanager
    def serving(
        self, folder: Path, *options: str, ray: bool = True, host: int = 0, code: int = 0
    ) -> Iterator[list[str]]:
        """`exporter serve --ray` of a bundle on a host, at port 8000 there, and its exit code; the lines it writes."""
        cluster = ("--ray", self.cluster) if ray else ()
        command = [sys.executable, "-c", _MAIN, "serve", str(folder), *cluster, *_OPTIONS, *options]
        server = self.all[host].run(*command, stderr=subprocess.PIPE, text=True, errors="replace")
        lines: list[str] = []
        reader = threading.Thread(target=lambda: lines.extend(map(str.rstrip, server.stderr)), daemon=True)
        reader.start()
        try:
            assert until(lambda: server.poll() is not None or any("serving " in line for line in lines)), lines
            assert server.poll() is None, lines
            yield lines
        finally:  # by SIGTERM: a server that is killed leaves its replicas to the cluster
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(LONG_S if code else 0)  # it ends by itself
            if number := inner(server):
                os.kill(number, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(LONG_S)
            if number := inner(server):
                os.kill(number, signal.SIGKILL)
            server.wait()
            reader.join(LONG_S)
            server.stderr.close()
        assert server.returncode == code, lines

    def __exit__(self, *raised: object) -> None:
        """End every process and take every namespace away."""
        for host in self.all:
            host.off()
        for name in reversed(subprocess.check_output(["ip", "netns", "list"], text=True).splitlines()):
            if (space := name.split()[0]) == self.name or space.startswith(f"{self.name}-"):
                _ip("netns", "del", space)
        shutil.rmtree(self.folder, ignore_errors=True)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)
