"""Dealing cores to places, and binding threads to them."""

import os
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plainconv.engines.onnxruntime.cores import bind, cores_of_places, dealt, usable_cores

binds = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="threads are not bound on this system")


def in_thread(work):
    """What `work` gives on a thread of its own."""
    found = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]


@given(count=st.integers(1, 40), hands=st.integers(1, 40))
def test_dealt(count, hands):
    """Given cores and hands -> each has neighbours, as many as another or one more; all are dealt, none twice."""
    cores = tuple(range(3, 3 + 2 * count, 2))
    found = dealt(cores, hands)
    assert len(found) == hands
    if count >= hands:
        assert sum(found, ()) == cores
        assert {len(hand) for hand in found} <= {count // hands, count // hands + 1}
    else:
        shares = [found.count((core,)) for core in cores]
        assert sum(shares) == hands
        assert max(shares) - min(shares) <= 1


@pytest.mark.parametrize(
    ("places", "groups", "wanted"),
    [
        ([(0, 0)], [0], {(0, 0): (0, 1, 2, 3, 4, 5, 6, 7)}),
        ([(0, 0), (1, 0)], [0, 1], {(0, 0): (0, 1, 2, 3), (1, 0): (4, 5, 6, 7)}),
        ([(0, 0), (1, 0)], [5, 2], {(0, 0): (4, 5, 6, 7), (1, 0): (0, 1, 2, 3)}),
        ([(0, 0), (0, 1), (1, 0)], [0, 1], {(0, 0): (0, 1), (0, 1): (2, 3), (1, 0): (4, 5, 6, 7)}),
        ([(0, 0), (1, 0)], [0, 0], {(0, 0): (0, 1, 2, 3, 4, 5, 6, 7), (1, 0): (0, 1, 2, 3, 4, 5, 6, 7)}),
        ([(0, 0), (2, 0)], [0, 1, 0], {(0, 0): (0, 1, 2, 3), (2, 0): (0, 1, 2, 3)}),
    ],
    ids=["one", "two", "by number", "streams", "the same", "one idle"],
)
def test_cores_of_places(places, groups, wanted):
    """Given eight cores -> those of each place."""
    assert cores_of_places(places, groups, tuple(range(8))) == wanted


def test_fewer_cores_than_places():
    """Given two cores for three devices, one of two streams -> every place has one."""
    found = cores_of_places([(0, 0), (1, 0), (1, 1), (2, 0)], [0, 1, 2], (4, 7))
    assert found == {(0, 0): (4,), (1, 0): (4,), (1, 1): (4,), (2, 0): (7,)}


@binds
def test_bind():
    """Given a thread that binds itself -> it, and what it starts, are bound; who started it is not."""
    before = os.sched_getaffinity(0)
    core = max(before)

    def work():
        return bind((core,)), usable_cores(), in_thread(usable_cores)

    assert in_thread(work) == (None, (core,), (core,))
    assert os.sched_getaffinity(0) == before
    assert usable_cores() == tuple(sorted(before))


@binds
def test_cores_that_there_are_not():
    """Given a core that the system refuses -> why, in words, and the thread is where it was."""
    why, cores = in_thread(lambda: (bind((1000,)), usable_cores()))
    assert why.startswith("the system does not let a thread be bound to cores 1000 (")
    assert cores == usable_cores()


def test_system_that_cannot_bind(monkeypatch):
    """Given a Python without the calls, as on macOS -> all cores, and why no thread is bound."""
    for name in ("sched_getaffinity", "sched_setaffinity"):
        monkeypatch.delattr(os, name, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    monkeypatch.setattr("sys.platform", "darwin")
    assert usable_cores() == (0, 1, 2)
    assert bind((0,)) == "Python on darwin cannot bind a thread to cores"
