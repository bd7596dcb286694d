"""The queue of one model, on backends that a test holds up and lets go."""

import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest

from plainconv.engines.serving import batcher as module
from plainconv.engines.serving.batch_axis import Covering
from plainconv.engines.serving.batcher import Answer, Batcher, BatchRules
from plainconv.engines.serving.refusals import (
    DeadlineError,
    FailedError,
    TooManyError,
    UnavailableError,
)

LONG_S = 60.0
OPEN = BatchRules(Covering(("x",), 4), max_delay_s=0.0, max_queue=8)


class Doubler:
    """y = 2x. Waits for `go` in each run where it is told to; keeps the shapes that it ran, and when it was closed."""

    def __init__(self, held: bool = False, fails_at: float | None = None) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.entered, self.go = threading.Semaphore(0), threading.Semaphore(0 if held else 10**6)
        self.fails_at, self.closed = fails_at, 0

    def predict(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        self.entered.release()
        assert self.go.acquire(timeout=LONG_S)
        self.shapes.append(inputs["x"].shape)
        if self.fails_at is not None and self.fails_at in inputs["x"]:
            raise RuntimeError("/secret/path")
        return {"y": inputs["x"] * 2}

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def make() -> Iterator[Any]:
    """Makes batchers; they are closed with the test."""
    made: list[tuple[Batcher, Doubler]] = []

    def new(rules: BatchRules = OPEN, **options: Any) -> tuple[Batcher, Doubler]:
        backend = Doubler(**options)
        made.append((Batcher(backend, rules), backend))
        return made[-1]

    yield new
    for batcher, backend in made:
        backend.go.release(10**6)
        batcher.close()


def soon() -> float:
    return time.monotonic() + LONG_S


def send(batcher: Batcher, value: float, rows: int = 1, size: int = 3) -> "Future[Answer]":
    return batcher.submit({"x": np.full((rows, size), value, np.float32)}, soon())


def value(future: "Future[Answer]") -> Any:
    return future.result(LONG_S).outputs["y"]


def test_requests_that_wait_share_a_run(make: Any) -> None:
    """Given requests while a run is under way -> the next run has as many rows as it may, each gets its own back."""
    batcher, backend = make(held=True)
    first = send(batcher, 1)
    assert backend.entered.acquire(timeout=LONG_S)
    rest = [send(batcher, v, rows) for v, rows in ((2, 1), (3, 2), (4, 1), (5, 3))]
    assert batcher.waiting == 4
    backend.go.release(10)
    for future, (wanted, rows) in zip([first, *rest], [(1, 1), (2, 1), (3, 2), (4, 1), (5, 3)], strict=True):
        np.testing.assert_array_equal(value(future), np.full((rows, 3), 2 * wanted))
    assert backend.shapes == [(1, 3), (4, 3), (3, 3)]
    assert rest[1].result().batch_rows == 4 and rest[3].result().batch_rows == 3


def test_a_request_that_does_not_fit_is_not_overtaken(make: Any) -> None:
    """Given 3 rows, then 2, then 1 -> the 1 waits behind the 2, though it would fit."""
    batcher, backend = make(held=True)
    futures = [send(batcher, 0)]
    assert backend.entered.acquire(timeout=LONG_S)
    futures += [send(batcher, i, rows) for i, rows in enumerate((3, 2, 1), 1)]
    backend.go.release(10)
    assert [value(f)[0, 0] for f in futures] == [0, 2, 4, 6]
    assert backend.shapes == [(1, 3), (3, 3), (3, 3)]


def test_other_shapes_run_apart(make: Any) -> None:
    """Given requests of two sizes -> runs of one size each."""
    batcher, backend = make(held=True)
    futures = [send(batcher, 0)]
    assert backend.entered.acquire(timeout=LONG_S)
    futures += [send(batcher, i, size=size) for i, size in enumerate((5, 6, 5, 6), 1)]
    backend.go.release(10)
    assert [value(f).shape[1] for f in futures] == [3, 5, 6, 5, 6]
    assert backend.shapes == [(1, 3), (2, 5), (2, 6)]


def test_it_waits_for_others(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a long delay, and others about -> one waits until its batch is full, however late the others come."""
    monkeypatch.setattr(module, "_ALONE_S", LONG_S)
    batcher, backend = make(BatchRules(Covering(("x",), 2), max_delay_s=LONG_S), held=True)
    futures = [send(batcher, 1)]
    assert backend.entered.acquire(timeout=LONG_S)
    futures.append(send(batcher, 2))
    backend.go.release(10)
    assert value(futures[0])[0, 0] == 2
    time.sleep(0.05)
    assert backend.shapes == [(1, 3)]
    assert value(send(batcher, 3))[0, 0] == 6 and value(futures[1])[0, 0] == 4
    assert backend.shapes == [(1, 3), (2, 3)]


def test_one_that_is_alone_does_not_wait(make: Any) -> None:
    """Given a long delay and one request after the other -> none waits for others."""
    batcher, backend = make(BatchRules(Covering(("x",), 2), max_delay_s=2 * LONG_S))
    for number in range(3):
        assert value(send(batcher, number))[0, 0] == 2 * number
    assert backend.shapes == [(1, 3)] * 3


def test_it_does_not_wait_for_ever(make: Any) -> None:
    """Given a short delay and nobody else -> a run of one."""
    batcher, backend = make(BatchRules(Covering(("x",), 2), max_delay_s=0.001))
    assert value(send(batcher, 1))[0, 0] == 2 and backend.shapes == [(1, 3)]


def test_without_a_batch_axis(make: Any) -> None:
    """Given a model of one batch size -> every request runs alone."""
    batcher, backend = make(BatchRules(max_queue=8), held=True)
    futures = [send(batcher, i) for i in range(3)]
    backend.go.release(10)
    assert [value(f)[0, 0] for f in futures] == [0, 2, 4]
    assert backend.shapes == [(1, 3)] * 3


def test_a_full_queue(make: Any) -> None:
    """Given as many requests as may wait -> the next is refused at once, and those are answered."""
    batcher, backend = make(held=True)
    futures = [send(batcher, 0)]
    assert backend.entered.acquire(timeout=LONG_S)
    futures += [send(batcher, i) for i in range(1, 9)]
    with pytest.raises(TooManyError, match="8 requests wait for this model already"):
        send(batcher, 9)
    backend.go.release(10)
    assert [value(f)[0, 0] for f in futures] == [2 * i for i in range(9)]


def test_cancelling_makes_room(make: Any) -> None:
    """Given a request that its sender gave up -> it never runs, and its place is free."""
    batcher, backend = make(held=True)
    first = send(batcher, 0)
    assert backend.entered.acquire(timeout=LONG_S)
    given_up, kept = send(batcher, 1), send(batcher, 2)
    assert given_up.cancel() and batcher.waiting == 1
    backend.go.release(10)
    assert value(first)[0, 0] == 0 and value(kept)[0, 0] == 4
    assert backend.shapes == [(1, 3)] * 2


def test_a_request_under_way_cannot_be_cancelled(make: Any) -> None:
    batcher, backend = make(held=True)
    first = send(batcher, 1)
    assert backend.entered.acquire(timeout=LONG_S)
    assert not first.cancel()
    backend.go.release(10)
    assert value(first)[0, 0] == 2


def test_a_deadline(make: Any) -> None:
    """Given a request whose time is up before its turn -> DeadlineError, and nobody computes it."""
    batcher, backend = make(held=True)
    first = send(batcher, 0)
    assert backend.entered.acquire(timeout=LONG_S)
    late = batcher.submit({"x": np.ones((1, 3), np.float32)}, time.monotonic())
    kept = send(batcher, 2)
    backend.go.release(10)
    with pytest.raises(DeadlineError, match=r"the request waited .* s, until its time was up"):
        late.result(LONG_S)
    assert value(first)[0, 0] == 0 and value(kept)[0, 0] == 4
    assert backend.shapes == [(1, 3)] * 2


def test_one_that_fails_fails_alone(make: Any) -> None:
    """Given a run that fails for one of its requests -> the others are answered, its sender is told so."""
    batcher, backend = make(held=True, fails_at=7)
    futures = [send(batcher, 0)]
    assert backend.entered.acquire(timeout=LONG_S)
    futures += [send(batcher, v) for v in (1, 7, 2)]
    backend.go.release(10)
    with pytest.raises(FailedError, match=r"^the model could not be run on this request$"):
        futures[2].result(LONG_S)
    assert [value(f)[0, 0] for f in (futures[0], futures[1], futures[3])] == [0, 2, 4]
    assert backend.shapes == [(1, 3), (3, 3), (1, 3), (1, 3), (1, 3)]


class Merging(Doubler):
    """Gives one row whatever it gets: what a model does that mixes the batch."""

    def predict(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"y": super().predict(inputs)["y"][:1]}


def test_a_model_that_mixes_the_batch() -> None:
    """Given outputs that have other rows than the inputs -> each request alone, never another's row."""
    backend = Merging(held=True)
    batcher = Batcher(backend, OPEN)
    futures = [send(batcher, 0)]
    assert backend.entered.acquire(timeout=LONG_S)
    futures += [send(batcher, v) for v in (1, 2)]
    backend.go.release(10)
    assert [value(f)[0, 0] for f in futures] == [0, 2, 4]
    batcher.close()


def test_close_answers_what_it_has(make: Any) -> None:
    """Given requests in the queue -> close waits for their answers, then closes the backend once, and takes no more."""
    batcher, backend = make(held=True)
    futures = [send(batcher, i) for i in range(5)]
    closing = threading.Thread(target=batcher.close)
    closing.start()
    assert backend.closed == 0
    backend.go.release(10)
    closing.join(LONG_S)
    batcher.close()
    assert backend.closed == 1
    assert [f.result(0).outputs["y"][0, 0] for f in futures] == [0, 2, 4, 6, 8]
    with pytest.raises(UnavailableError, match="is being unloaded"):
        send(batcher, 1)


def test_several_threads(make: Any) -> None:
    """Given two threads -> two runs at a time."""
    batcher, backend = make(BatchRules(threads=2, max_queue=8), held=True)
    futures = [send(batcher, i) for i in range(3)]
    assert backend.entered.acquire(timeout=LONG_S) and backend.entered.acquire(timeout=LONG_S)
    backend.go.release(10)
    assert [value(f)[0, 0] for f in futures] == [0, 2, 4]


def test_many_clients(make: Any) -> None:
    """Given requests from many threads at once -> each gets the answer to its own."""
    batcher, _ = make(BatchRules(Covering(("x",), 8), max_delay_s=0.0005, max_queue=64, threads=2))
    wrong: list[float] = []

    def client(number: int) -> None:
        for i in range(50):
            wanted = number * 1000.0 + i
            if (value(send(batcher, wanted, rows=1 + i % 3)) != 2 * wanted).any():
                wrong.append(wanted)

    clients = [threading.Thread(target=client, args=(n,)) for n in range(8)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join(LONG_S)
    assert not wrong and not any(thread.is_alive() for thread in clients)


def test_runs_are_observed() -> None:
    """Given three requests, two of them in one run -> two runs are told of, with their rows."""
    backend, seen = Doubler(held=True), []
    batcher = Batcher(backend, OPEN, lambda rows, seconds: seen.append((rows, seconds >= 0)))
    futures = [send(batcher, 0)]
    assert backend.entered.acquire(timeout=LONG_S)
    futures += [send(batcher, 1), send(batcher, 2)]
    backend.go.release(10)
    batcher.close()
    assert all(f.done() for f in futures) and seen == [(1, True), (2, True)]


class Here(Doubler):
    """A doubler of this process, which says who ran it."""

    is_here = True

    def predict(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        self.thread = threading.get_ident()
        return super().predict(inputs)


def test_one_that_is_alone_runs_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a run that was short and nobody else -> the next is in the thread of who asks, and is observed."""
    seen: list[int] = []
    backend = Here(fails_at=7)
    batcher = Batcher(backend, OPEN, lambda rows, seconds: seen.append(rows))
    x = {"x": np.ones((1, 3), np.float32)}
    try:
        assert not batcher.is_short(x)  # it is not known yet
        assert value(batcher.submit(x, soon()))[0, 0] == 2 and backend.thread != threading.get_ident()
        monkeypatch.setattr(module, "_SHORT_S", LONG_S)
        assert batcher.is_short(x)
        answer = batcher.run_alone(x, soon())
        assert answer is not None and answer.outputs["y"][0, 0] == 2 and answer.batch_rows == 1
        assert backend.thread == threading.get_ident() and seen == [1, 1]
        with pytest.raises(FailedError):
            batcher.run_alone({"x": np.full((1, 3), 7, np.float32)}, soon())
        with pytest.raises(DeadlineError):
            batcher.run_alone(x, time.monotonic())
        monkeypatch.setattr(module, "_SHORT_S", 0.0)
        assert not batcher.is_short(x)
        assert value(batcher.submit(x, soon()))[0, 0] == 2 and backend.thread != threading.get_ident()
    finally:
        batcher.close()
    with pytest.raises(UnavailableError):
        batcher.run_alone(x, soon())


def test_one_that_is_not_alone_waits_its_turn() -> None:
    """Given another request under way, or a moment ago -> no run here; given a run here -> others wait for its end."""
    backend = Here(held=True)
    batcher = Batcher(backend, OPEN)
    x = {"x": np.ones((1, 3), np.float32)}
    first = batcher.submit(x, soon())
    assert backend.entered.acquire(timeout=LONG_S)
    assert batcher.run_alone(x, soon()) is None
    second = batcher.submit(x, soon())
    backend.go.release(2)
    assert value(first)[0, 0] == value(second)[0, 0] == 2
    assert batcher.run_alone(x, soon()) is None  # there were two a moment ago
    time.sleep(2 * module._ALONE_S)
    answers: list[Answer | None] = []
    here = threading.Thread(target=lambda: answers.append(batcher.run_alone(x, soon())))
    backend.entered = threading.Semaphore(0)
    here.start()
    assert backend.entered.acquire(timeout=LONG_S)
    third = batcher.submit(x, soon())
    closing = threading.Thread(target=batcher.close)
    closing.start()
    time.sleep(0.05)
    assert batcher.waiting == 1 and not backend.closed
    backend.go.release(2)
    closing.join(LONG_S)
    here.join(LONG_S)
    assert answers[0] is not None and value(third)[0, 0] == 2 and backend.closed == 1
