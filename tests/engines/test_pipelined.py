"""Several requests at a time through one runner, answered in order."""

import threading

import numpy as np
import pytest

from plainconv.engines.pipelined import pipelined
from plainconv.engines.runner import Runner
from plainconv.exporter.errors import EngineError

LIMIT = 60.0  # seconds that nothing here takes


class Doubling(Runner):
    """y = 2·x. It counts the calls it is in; `held` names an x whose call waits for `go`."""

    def __init__(self, held=None):
        self.held, self.go = held, threading.Event()
        self.lock, self.inside, self.most, self.begun = threading.Lock(), 0, 0, []
        self.together = threading.Condition(self.lock)

    def __call__(self, inputs, outputs=None):
        x = int(inputs["x"])
        with self.lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
            self.begun.append(x)
            self.together.notify_all()
        try:
            if x == self.held:
                assert self.go.wait(LIMIT)
            if x < 0:
                raise EngineError(f"no {x}")
            return {"y": np.array(2 * x)}
        finally:
            with self.lock:
                self.inside -= 1

    def close(self):
        pass


def request(x):
    return {"x": np.array(x)}


def values(answers):
    return [int(answer["y"]) for answer in answers]


@pytest.fixture(autouse=True)
def no_thread_left():
    before = threading.active_count()
    yield
    assert threading.active_count() == before


@pytest.mark.parametrize("in_flight", [1, 2, 4, 50])
def test_order(in_flight):
    """Given ten requests -> ten answers in their order, never more under way than asked for."""
    runner = Doubling()
    assert values(pipelined(runner, map(request, range(10)), in_flight=in_flight)) == list(range(0, 20, 2))
    assert runner.most <= in_flight


def test_no_request():
    assert values(pipelined(Doubling(), [])) == []


def test_later_ones_run_while_the_first_does():
    """Given a first request that takes long -> the others of its four run meanwhile, and its answer is the first."""
    runner = Doubling(held=0)
    answers = pipelined(runner, map(request, range(6)), in_flight=4)
    first: list[int] = []
    reader = threading.Thread(target=lambda: first.append(int(next(answers)["y"])))
    reader.start()
    with runner.lock:
        assert runner.together.wait_for(lambda: set(runner.begun) == {0, 1, 2, 3}, LIMIT)
        assert not first
    runner.go.set()
    reader.join(LIMIT)
    assert first == [0]
    assert values(answers) == [2, 4, 6, 8, 10]


def test_reads_no_further_than_it_runs():
    """Given answers taken one by one -> no request is read before there is room for it."""
    read = []

    def requests():
        for x in range(20):
            read.append(x)
            yield request(x)

    answers = pipelined(Doubling(), requests(), in_flight=3)
    assert read == []
    for taken in range(1, 18):
        next(answers)
        assert len(read) <= taken + 2
    answers.close()


def test_error_in_its_turn():
    """Given a request that fails -> the answers before it, then its error, and nothing goes on."""
    runner = Doubling()
    answers = pipelined(runner, map(request, [1, 2, -3, 4, 5, 6, 7, 8]), in_flight=2)
    assert int(next(answers)["y"]) == 2
    assert int(next(answers)["y"]) == 4
    with pytest.raises(EngineError, match="no -3"):
        next(answers)
    assert runner.inside == 0
    assert 8 not in runner.begun
    assert list(answers) == []


def test_error_of_the_requests():
    """Given an iterable that breaks -> the answers to what it gave, then its error."""

    def requests():
        yield request(1)
        yield request(2)
        raise OSError("the disk is gone")

    runner = Doubling()
    answers = pipelined(runner, requests())
    assert [int(next(answers)["y"]), int(next(answers)["y"])] == [2, 4]
    with pytest.raises(OSError, match="the disk is gone"):
        next(answers)
    assert runner.inside == 0


def test_left_early():
    """Given a reader that leaves -> what is under way ends, what waits does not begin."""
    runner = Doubling()
    answers = pipelined(runner, map(request, range(1000)), in_flight=4)
    assert int(next(answers)["y"]) == 0
    answers.close()
    assert runner.inside == 0
    assert len(runner.begun) <= 5


@pytest.mark.parametrize("in_flight", [0, -1])
def test_none_in_flight(in_flight):
    """Given no room for any -> said at once, before a request is read."""
    with pytest.raises(EngineError, match=f"in_flight is {in_flight}; wanted 1 or more"):
        pipelined(Doubling(), iter([]), in_flight=in_flight)
