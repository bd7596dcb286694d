"""`exporter serve --ray` over hosts of its own: front end on one, a replica on each other; they and links fail."""

import contextlib
import importlib.util
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray_hosts
from ray_hosts import Hosts, until
from steady_clients import Clients

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed"),
]


TIMEOUT_S = 30.0  # --timeout of the front end


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    """Three of them: the head and front end, and two with a processor each."""
    if reason := ray_hosts.why_not():
        pytest.skip(reason)
    with Hosts(0, 1, 1) as joined:
        yield joined


@contextlib.contextmanager
def asked(hosts: Hosts, count: int) -> Iterator[Clients]:
    """Clients on the front end's host; no answer is wrong and none is lost."""
    with Clients("127.0.0.1:8000", count, hosts.all[0].enter) as clients:
        yield clients
    print(clients.said())
    assert not clients.wrong and not clients.lost and clients.right > 0, clients.said()


def test_a_host_that_loses_its_power_and_comes_back(hosts: Hosts, make: Any, tmp_path: Path) -> None:
    """Given batches on both of two hosts -> those of the dead one are run on the other; both answer when it is back."""
    _, stays, dies = hosts.all
    folder = make(tmp_path / "sums", slow=4)
    with hosts.serving(folder, "--replicas", "2", "--max-batch", "1") as lines, asked(hosts, 4) as clients:
        assert len(stays.replicas) == len(dies.replicas) == 1
        more(clients, 100)
        before = time.monotonic()
        dies.off()
        assert until(lambda: clients.slowest(before) > 5 or clients.wrong or clients.lost), clients.said()
        more(clients, 100)
        hosts.on(dies)
        assert until(lambda: dies.replicas), lines
        [number] = dies.replicas
        before = work(number)
        assert until(lambda: work(number) > before + 0.5), lines  # seconds: it answers
        more(clients, 100)
    assert not clients.refused and clients.slowest() < TIMEOUT_S


def test_a_cable_that_is_out_for_a_moment(hosts: Hosts, make: Any, tmp_path: Path) -> None:
    """Given a link that is cut for seconds -> no more than waiting: nothing is refused."""
    _, _, far = hosts.all
    with hosts.serving(make(tmp_path / "sums"), "--replicas", "2"), asked(hosts, 4) as clients:
        more(clients, 100)
        far.unplug()
        time.sleep(3)
        far.plug()
        more(clients, 300)
    assert not clients.refused


@pytest.mark.skipif(shutil.which("tc") is None, reason="tc is not installed")
def test_a_slow_link(hosts: Hosts, make: Any, tmp_path: Path) -> None:
    """Given a link of 1 Mbit/s to one of two hosts -> its answers take longer, and nothing is refused."""
    _, _, far = hosts.all
    with hosts.serving(make(tmp_path / "sums"), "--replicas", "2"), asked(hosts, 4) as clients:
        more(clients, 100)
        far.shape("tbf", "rate", "1mbit", "burst", "16kb", "latency", "1s")
        more(clients, 300)
        far.shape()
    assert not clients.refused


def test_as_many_replicas_as_the_load_asks_for(hosts: Hosts, make: Any, tmp_path: Path) -> None:
    """Given much load, then little -> a second host takes part, then leaves, and no request sees either."""
    _, *others = hosts.all
    delays = [f"--autoscale-option={name}=1" for name in ("upscale_delay_s", "downscale_delay_s", "look_back_period_s")]
    options = ("--autoscale", "1:2", "--target-ongoing", "1", *delays, "--max-batch", "1")

    def replicas() -> int:
        return sum(len(host.replicas) for host in others)

    with hosts.serving(make(tmp_path / "sums", slow=4), *options), asked(hosts, 1) as one:
        assert replicas() == 1
        with asked(hosts, 8) as many:
            assert until(lambda: replicas() == 2)
            more(many, 100)
        assert until(lambda: replicas() == 1)
        more(one, 50)
    assert not one.refused and not many.refused


def test_a_head_that_loses_its_power(hosts: Hosts, make: Any, tmp_path: Path) -> None:
    """Given a head, apart from the front end, that dies -> answers until that is certain, then one line and the end."""
    with hosts.serving(make(tmp_path / "sums"), host=1, code=1) as lines:
        with Clients("127.0.0.1:8000", 2, hosts.all[1].enter) as clients:
            more(clients, 100)
            hosts.all[0].off()
            assert until(lambda: any("was lost" in line for line in lines)), lines
        assert not clients.wrong and clients.right > 100, clients.said()
        assert all("ConnectionRefused" in each or "nothing but refusals" in each for each in clients.lost), (
            clients.said()
        )
    [line] = [line for line in lines if "was lost" in line]
    assert line.startswith("exporter: the head of the Ray cluster at ")


def more(clients: Clients, count: int) -> None:
    """Wait for so many answers from now on."""
    wanted = clients.right + count
    assert until(lambda: clients.right >= wanted or clients.wrong or clients.lost), clients.said()


def work(number: int) -> float:
    """Seconds that a process has computed."""
    user, system = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
