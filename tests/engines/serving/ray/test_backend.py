"""Replicas on a Ray cluster of this machine, of two processors; and what holds without one."""

import importlib.util
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plainconv import engines
from plainconv.engines.serving.model import open_model
from plainconv.engines.serving.options import ServeOptions
from plainconv.engines.serving.ray import backend as ray_backend
from plainconv.engines.serving.ray.backend import RayBackend, RayCluster
from plainconv.engines.serving.ray.options import RayOptions
from plainconv.engines.serving.refusals import UnavailableError
from plainconv.exporter.bundle import Bundle
from plainconv.exporter.errors import EngineError

LONG_S = 60.0
OPTIONS = ServeOptions(max_batch=8, engine="onnxruntime", timeout_s=LONG_S)
real_class = ray_backend._replica_class


def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given no Ray -> one line with the remedy."""
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(EngineError, match=r"^Ray Serve cannot be imported \(.*\); pip install 'plainconv\[ray\]'$"):
        RayCluster(RayOptions())


@pytest.fixture(scope="module")
def ray() -> Any:
    """Ray, imported as the server imports it."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed")
    return ray_backend._import_ray()[0]


@pytest.fixture(scope="module")
def cluster(ray: Any) -> Iterator[Any]:
    """A cluster of two processors, begun by somebody else."""
    folder = tempfile.mkdtemp(prefix="ray")  # its sockets want a short path
    patch = pytest.MonkeyPatch()
    patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))  # else Ray writes one into the user's home
    try:
        with ray_backend._same_signals():
            ray.init(
                address="local",
                num_cpus=2,
                object_store_memory=100 * 2**20,
                include_dashboard=False,
                log_to_driver=False,
                _temp_dir=folder,
            )
        yield ray
    finally:
        ray.shutdown()
        patch.undo()
        end = time.monotonic() + LONG_S
        while Path(folder).exists() and time.monotonic() < end:
            shutil.rmtree(folder, ignore_errors=True)  # the last of its processes may still write there


@pytest.fixture(scope="module")
def two(cluster: Any) -> Iterator[RayCluster]:
    """A connection that loads into two replicas."""
    with RayCluster(RayOptions(replicas=2, start_s=4 * LONG_S)) as connection:
        yield connection
    assert cluster.is_initialized()  # it was there before


def telling_class() -> type[Any]:
    """A replica that says which process it is."""
    base = real_class()

    class Telling(base):  # type: ignore[misc,valid-type]
        async def __call__(self, inputs: Any) -> Any:
            return {**await super().__call__(inputs), "process": np.array([os.getpid()] * len(inputs["x"]))}

    return Telling


def free_processors(ray: Any, wanted: float) -> float:
    """How many there are, as soon as it is `wanted` or a long time has passed."""
    end = time.monotonic() + LONG_S
    while (found := ray.available_resources().get("CPU", 0.0)) != wanted and time.monotonic() < end:
        time.sleep(0.1)
    return float(found)


def random_x(seed: int, rows: int) -> Any:
    return np.random.default_rng(seed).standard_normal((rows, 4), np.float32)


def test_two_replicas(
    two: RayCluster, cluster: Any, make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given two replicas -> both answer, as the runner here does; one killed, the other does; unloaded, all is free."""
    monkeypatch.setattr(ray_backend, "_replica_class", telling_class)
    folder = make(tmp_path / "sums")
    model = open_model(folder, OPTIONS, loader=two.load)
    assert (model.backend, model.precision, model.platform) == ("onnxruntime", "fp32", "onnxruntime_onnx")
    assert free_processors(cluster, 0) == 0
    processes: set[int] = set()
    with engines.load(folder) as runner, ThreadPoolExecutor(8) as clients:

        def ask(seed: int) -> None:
            x = random_x(seed, 1 + seed % 3)
            outputs = model.batcher.submit({"x": x}, time.monotonic() + LONG_S).result(LONG_S).outputs
            np.testing.assert_array_equal(outputs["y"], runner({"x": x})["y"])
            processes.update(map(int, outputs["process"]))

        end = time.monotonic() + LONG_S
        seeds = iter(range(10**6))
        while len(processes) < 2 and time.monotonic() < end:
            list(clients.map(ask, [next(seeds) for _ in range(16)]))
        assert len(processes) == 2
        killed = processes.pop()
        os.kill(killed, signal.SIGKILL)
        processes.clear()
        list(clients.map(ask, [next(seeds) for _ in range(64)]))
        assert processes and killed not in processes
    model.retire()
    assert model.closed.wait(LONG_S)
    assert free_processors(cluster, 2) == 2


@pytest.mark.slow
def test_what_a_replica_raises(two: RayCluster, make: Any, tmp_path: Path) -> None:
    """Given inputs that the runner refuses -> its own line, and the next batch is answered, read where it lies."""
    loaded = two.load(Bundle.open(make(tmp_path / "sums")), OPTIONS)
    assert loaded.workers == 4 and loaded.profiles == ()
    with pytest.raises(EngineError, match=r"^input x is dtype\('float64'\), wanted float32") as raised:
        loaded.backend.predict({"x": np.ones((1, 4))})
    assert "\n" not in str(raised.value)
    large = np.ones((2**16, 4), np.float32)
    given = loaded.backend.predict({"x": large})["y"]
    assert given.shape == (2**16, 2) and (given == 2).all() and not given.flags.writeable
    loaded.backend.close()


@pytest.mark.slow
def test_another_version(two: RayCluster, make: Any, tmp_path: Path) -> None:
    """Given a folder that holds another version than it did -> one line, and nothing is left on the cluster."""
    folder = make(tmp_path / "sums")
    bundle = Bundle.open(folder)
    make(folder, scale=2.0, force=True)
    with pytest.raises(
        EngineError, match=r"is another version on .*, wanted [0-9a-f]{12}; let every machine"
    ) as raised:
        two.load(bundle, OPTIONS)
    assert "\n" not in str(raised.value)
    shutil.rmtree(folder)
    with pytest.raises(EngineError, match=r"is no bundle on .*; every machine of the cluster must see it"):
        two.load(bundle, OPTIONS)


@pytest.mark.slow
def test_no_place(cluster: Any, make: Any, tmp_path: Path) -> None:
    """Given replicas larger than any machine -> an error once their time is up, or they are given up."""
    bundle = Bundle.open(make(tmp_path / "sums"))
    with (
        RayCluster(RayOptions(cpus=64.0, start_s=0.5)) as large,
        pytest.raises(EngineError, match=r"0 of its replicas are ready after 0.5 s, .* \(64 CPUs and 0 GPUs each\)"),
    ):
        large.load(bundle, OPTIONS)
    with RayCluster(RayOptions(cpus=64.0, start_s=10 * LONG_S)) as large:
        timer = threading.Timer(0.5, large.give_up)
        timer.start()
        with pytest.raises(EngineError, match="were not ready yet when the server was told to stop"):
            large.load(bundle, OPTIONS)
        timer.join()
    assert free_processors(cluster, 2) == 2


@pytest.mark.slow
def test_autoscaling(cluster: Any, make: Any, tmp_path: Path) -> None:
    """Given bounds that begin at none -> the first batch brings a replica, and as many runs as the most may have."""
    options = RayOptions(autoscale=(0, 2), autoscaling={"upscale_delay_s": 0.0}, start_s=4 * LONG_S)
    with RayCluster(options) as scaling:
        loaded = scaling.load(Bundle.open(make(tmp_path / "sums")), OPTIONS)
        assert loaded.workers == 4
        np.testing.assert_array_equal(
            loaded.backend.predict({"x": np.ones((3, 4), np.float32)})["y"], np.full((3, 2), 2)
        )
        loaded.backend.close()


def test_no_cluster(ray: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given an address where nothing listens -> one line at once, and SIGTERM is whose it was."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    handler = signal.getsignal(signal.SIGTERM)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(EngineError, match=rf"^no Ray cluster at {address} \(.*refused\); give a cluster") as raised:
            RayCluster(RayOptions(address=address)).__enter__()
    assert "\n" not in str(raised.value) and signal.getsignal(signal.SIGTERM) == handler


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"up_delay": 1}, r"Ray's autoscaling has no 'up_delay'; wanted one of .*upscale_delay_s"),
        ({"max_replicas": 9}, "Ray's autoscaling has no 'max_replicas'"),
        ({"upscale_delay_s": -1}, "Ray's autoscaling refuses its options: .*upscale_delay_s"),
    ],
)
def test_autoscaling_options_that_ray_lacks(ray: Any, given: Any, said: str) -> None:
    with pytest.raises(EngineError, match=said) as raised:
        RayCluster(RayOptions(autoscale=(1, 2), autoscaling=given))
    assert "\n" not in str(raised.value)


class Handle:
    """A handle whose answers a test gives: what is an exception is raised."""

    def __init__(self, *answers: Any) -> None:
        self.answers, self.cancelled = list(answers), 0

    def remote(self, inputs: Any) -> Any:
        return self

    def result(self, timeout_s: float) -> Any:
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def cancel(self) -> None:
        self.cancelled += 1


def test_a_lost_replica(ray: Any) -> None:
    """Given a replica that dies in a run -> the batch is run once more; given two -> 503, by one sentence."""
    died = ray.exceptions.ActorDiedError()
    backend = RayBackend("a", Handle(died, {"y": 1}), LONG_S)
    assert backend.predict({}) == {"y": 1}
    handle = Handle(died, died, {"y": 1})
    with pytest.raises(UnavailableError, match=r"^the replicas that ran this request were lost; try again later$"):
        RayBackend("a", handle, LONG_S).predict({})
    assert handle.answers == [{"y": 1}]


def test_a_silent_replica(ray: Any) -> None:
    """Given no answer in half of the time -> the batch is run beside it, the first answer counts, the other is told."""
    silent = ray.exceptions.GetTimeoutError()
    handle = Handle(silent, silent, {"y": 1})
    assert RayBackend("a", handle, LONG_S).predict({}) == {"y": 1}
    assert (handle.answers, handle.cancelled) == ([], 1)


def test_no_replica_answers(ray: Any) -> None:
    """Given no answer in time -> 503, and the replicas are told."""

    class Silent(Handle):
        def result(self, timeout_s: float) -> Any:
            time.sleep(timeout_s)
            raise ray.exceptions.GetTimeoutError

    handle = Silent()
    with pytest.raises(UnavailableError, match=r"^no replica answered within 0\.5 s; try again later$"):
        RayBackend("a", handle, 0.5).predict({})
    assert handle.cancelled == 2
