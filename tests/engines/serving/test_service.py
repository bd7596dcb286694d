"""What both protocols call, on a model whose runs a test holds up and lets go."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plainconv.engines.serving.access_log import facts
from plainconv.engines.serving.backend import Loaded
from plainconv.engines.serving.model import open_model
from plainconv.engines.serving.options import ServeOptions
from plainconv.engines.serving.places import places_of
from plainconv.engines.serving.refusals import (
    BadRequestError,
    DeadlineError,
    FailedError,
    ForbiddenError,
    RefusedError,
    TooManyError,
    UnknownError,
)
from plainconv.engines.serving.requests import InferRequest, WantedOutput
from plainconv.engines.serving.service import Service, check_version
from plainconv.engines.serving.store import Store
from plainconv.exporter.bundle import ShapeRange

LONG_S = 60.0
OPTIONS = ServeOptions(max_batch=4, max_queue=2, max_pending=100, timeout_s=LONG_S, max_delay_us=0)
X = np.array([[1, 2, 3, 4]], np.float32)


class Sums:
    """What the bundle computes, when it may."""

    def __init__(self) -> None:
        self.go, self.entered, self.fails = threading.Event(), threading.Semaphore(0), False
        self.go.set()

    def predict(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        self.entered.release()
        assert self.go.wait(LONG_S)
        if self.fails:
            raise RuntimeError("/secret/path")
        return {"y": inputs["x"].reshape(-1, 2, 2).sum(2)}

    def close(self) -> None:
        """Nothing is held."""


class Counts:
    """Metrics that keep what they are told."""

    def __init__(self) -> None:
        self.failures: list[tuple[str, str]] = []
        self.successes: list[str] = []

    def failed(self, model: str, reason: str, seconds: float) -> None:
        self.failures.append((model, reason))

    def succeeded(self, model: str, *seconds: float) -> None:
        assert all(each >= 0 for each in seconds)
        self.successes.append(model)


class Here:
    """A service of the bundle `b`."""

    def __init__(self, folder: Path, options: ServeOptions, profiles: Any = ()) -> None:
        self.backend, self.counts = Sums(), Counts()
        loaded = Loaded(self.backend, "onnxruntime", "fp32", profiles)
        self.store = Store(
            places_of(folder, "b"), lambda name, path: open_model(path, options, loader=lambda *_: loaded)
        )
        self.store.load_all()
        assert self.backend.entered.acquire(timeout=LONG_S)  # it was run once
        self.service = Service(self.store, options, self.counts)  # type: ignore[arg-type]

    def infer(self, request: InferRequest | None = None, name: str = "b") -> Any:
        return self.service.infer(name, request or InferRequest({"x": X}))

    async def enters(self) -> None:
        assert await asyncio.to_thread(self.backend.entered.acquire, timeout=LONG_S)


@pytest.fixture
def service_of(make: Callable[..., Path], tmp_path: Path) -> Iterator[Callable[..., Here]]:
    made: list[Here] = []

    def new(options: ServeOptions = OPTIONS, **more: Any) -> Here:
        made.append(Here(make(tmp_path / "b"), options, **more))
        return made[-1]

    yield new
    for here in made:
        here.backend.go.set()
        here.store.close()


def test_an_answer(service_of: Callable[..., Here]) -> None:
    """Given a request -> the outputs that it wants, its id; it is counted, and what is known of it noted."""
    here = service_of()
    request = InferRequest({"x": np.concatenate([X, X + 1])}, (WantedOutput("y", True),), "r7")
    with facts() as known:
        response = asyncio.run(here.infer(request))
    assert (response.model, response.version, response.id, response.binary) == ("b", "1", "r7", {"y"})
    assert response.outputs["y"].tolist() == [[3, 7], [5, 9]]
    assert here.counts.successes == ["b"] and not here.counts.failures
    assert {"model": "b", "id": "r7", "rows": 2, "batch_rows": 2}.items() <= known.items()


@pytest.mark.parametrize(
    ("request_", "name", "error", "label"),
    [
        (InferRequest({"x": X}), "c", UnknownError, ""),
        (InferRequest({"x": X}, version="2"), "b", UnknownError, "b"),
        (InferRequest({"z": X}), "b", BadRequestError, "b"),
        (InferRequest({"x": X}, (WantedOutput("z"),)), "b", BadRequestError, "b"),
        (InferRequest({"x": np.zeros((5, 4), np.float32)}), "b", BadRequestError, "b"),
    ],
)
def test_a_bad_request(
    service_of: Callable[..., Here], request_: InferRequest, name: str, error: type[RefusedError], label: str
) -> None:
    """Given what cannot be answered -> refused and counted, under no name that a sender made up."""
    here = service_of()
    with pytest.raises(error):
        asyncio.run(here.infer(request_, name))
    assert here.counts.failures == [(label, "OTHER")]
    assert asyncio.run(here.infer()).outputs["y"].tolist() == [[3, 7]]


def test_an_engine_for_other_shapes(service_of: Callable[..., Here]) -> None:
    """Given rows that no optimization profile covers -> refused before they are in the queue."""
    here = service_of(profiles=({"x": ShapeRange((1, 4), (1, 4), (2, 4))},))
    assert asyncio.run(here.infer(InferRequest({"x": np.zeros((2, 4), np.float32)}))).outputs["y"].shape == (2, 2)
    with pytest.raises(BadRequestError, match="is in no optimization profile of the engine"):
        asyncio.run(here.infer(InferRequest({"x": np.zeros((3, 4), np.float32)})))


def test_a_model_that_fails(service_of: Callable[..., Here]) -> None:
    here = service_of()
    here.backend.fails = True
    with pytest.raises(FailedError, match=r"^the model could not be run on this request$"):
        asyncio.run(here.infer())
    assert here.counts.failures == [("b", "BACKEND")]


def held(here: Here, steps: Callable[[], Awaitable[None]]) -> None:
    """Take the steps while a request is computed; that one is answered in the end."""

    async def taken() -> None:
        here.backend.go.clear()
        first = asyncio.create_task(here.infer())
        await here.enters()
        await steps()
        here.backend.go.set()
        assert (await first).outputs["y"].tolist() == [[3, 7]]

    asyncio.run(taken())


def test_a_full_queue(service_of: Callable[..., Here]) -> None:
    """Given as many requests as may wait -> the next is refused, though the event loop goes on."""
    here = service_of()

    async def steps() -> None:
        waiting = [asyncio.create_task(here.infer()) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(TooManyError, match="2 requests wait for this model already"):
            await here.infer()
        here.backend.go.set()
        assert [response.outputs["y"].tolist() for response in await asyncio.gather(*waiting)] == [[[3, 7]]] * 2

    held(here, steps)
    assert here.counts.failures == [("b", "REJECTED")] and len(here.counts.successes) == 3


def test_one_who_leaves(service_of: Callable[..., Here]) -> None:
    """Given requests that are cancelled, one in the queue and one that is computed -> its place is free."""
    here = service_of()

    async def steps() -> None:
        for _ in range(10):
            leaves = asyncio.create_task(here.infer())
            await asyncio.sleep(0)
            assert here.store.waiting() == {"b": 1}
            leaves.cancel()
            await asyncio.wait({leaves})
            assert leaves.cancelled() and here.store.waiting() == {"b": 0}

    held(here, steps)
    assert here.counts.failures == [("b", "CANCELED")] * 10 and here.counts.successes == ["b"]


@pytest.mark.parametrize(
    ("asked", "offered", "said"), [(0.02, LONG_S, "0.02"), (None, 0.02, "0.02"), (LONG_S, 0.02, "0.02")]
)
def test_time_is_up(service_of: Callable[..., Here], asked: float | None, offered: float, said: str) -> None:
    """Given a sender's and a server's limit -> the shorter one holds."""
    here = service_of(replace(OPTIONS, timeout_s=offered))

    async def steps() -> None:
        here.backend.go.clear()
        with pytest.raises(DeadlineError, match=rf"the answer was not there within {said} s"):
            await here.infer(InferRequest({"x": X}, timeout_s=asked))
        here.backend.go.set()

    asyncio.run(steps())
    assert here.counts.failures == [("b", "CANCELED")]
    until = time.monotonic() + LONG_S
    while here.store.waiting() != {"b": 0}:
        assert time.monotonic() < until


def test_room(service_of: Callable[..., Here]) -> None:
    """Given 100 bytes for all requests -> one alone may have more, several may not; each gives its room back."""
    service = service_of().service
    with service.pending(70, "a"), service.pending(30, "b") as room:
        full = pytest.raises(TooManyError, match="the requests under way fill this server's memory")
        with full, service.pending(1, "c"):
            pass
        with pytest.raises(TooManyError):
            room.grow(1)
        room.hold(50)
        assert service.pending_bytes == {"a": 70, "b": 80}
    assert not service.pending_bytes
    with service.pending(1000) as room:
        room.grow(1000)
        with pytest.raises(TooManyError), service.pending(1):
            pass
    assert not service.pending_bytes


def test_the_share_of_one_peer(service_of: Callable[..., Here]) -> None:
    """Given a peer with three quarters of the room -> the rest is another's."""
    service = service_of().service
    with service.pending(70, "a"), service.pending(5, "a"):
        with pytest.raises(TooManyError, match="from this address fill its share"), service.pending(1, "a"):
            pass
        with service.pending(25, "b"):
            assert service.pending_bytes.total() == 100


def test_the_repository_is_off(service_of: Callable[..., Here]) -> None:
    """Given a server that does not offer it -> nothing is loaded or unloaded."""
    service = service_of().service
    for call in (service.load, service.unload):
        with pytest.raises(ForbiddenError, match="this server does not offer the repository API"):
            asyncio.run(call("b"))
    assert service.ready() and service.store.ready() == ("b",)


def test_the_repository(service_of: Callable[..., Here]) -> None:
    service = service_of(replace(OPTIONS, repository=True)).service
    asyncio.run(service.unload("b"))
    assert not service.ready()
    asyncio.run(service.load("b"))
    assert service.ready()
    service.draining = True
    assert not service.ready()


def test_what_is_under_way(service_of: Callable[..., Here]) -> None:
    service = service_of().service
    with service.request(), service.request():
        assert (service.under_way, service.handled) == (2, 0)
    assert (service.under_way, service.handled) == (0, 2)


def test_versions() -> None:
    for version in ("", "1"):
        check_version(version)
    with pytest.raises(UnknownError, match=r"there is no version '01'"):
        check_version("01")
