"""Timelines worked out by hand, and what holds for any."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plainconv.exporter.partition import Link
from plainconv.exporter.partition.simulate import Task, World, simulate


def task(device, seconds, reads, writes, stream=0, busy=None):
    return Task((device, stream), seconds, seconds if busy is None else busy, tuple(reads), tuple(writes))


def world(outputs, *, bandwidth=1.0, latency=0.0, event=0.0, sizes=None, inputs="x"):
    sizes = {v: 1.0 for v in "abcdxyz"} if sizes is None else sizes
    return World(sizes, frozenset(inputs), tuple(outputs), Link(bandwidth, latency), event)


def test_one_after_another_on_one_device():
    """Given two independent tasks of one place → in the order of the list, nothing sent."""
    found = simulate([task(0, 2, "x", "a"), task(0, 3, "x", "b"), task(0, 1, "ab", "y")], world("y"))
    assert (found.start, found.finish, found.end, found.copies) == ([0, 2, 5], [2, 5, 6], 6, [])
    assert found.critical() == [0, 1, 2]


def test_a_branch_elsewhere_waits_for_its_input_and_is_waited_for():
    """Given a branch on device 1, a second to send each value and one of latency → 2 there, 2 back, on the path."""
    tasks = [task(0, 3, "x", "a"), task(1, 3, "x", "b"), task(0, 1, "ab", "y")]
    found = simulate(tasks, world("y", latency=1.0))
    assert found.start == [0, 2, 7]
    assert [(c.value, c.device, c.target, c.begin, c.arrival) for c in found.copies] == [
        ("x", 0, 1, 0, 2),
        ("b", 1, 0, 5, 7),
    ]
    path = found.critical()
    assert [step if isinstance(step, int) else step.value for step in path] == ["x", 1, "b", 2]
    assert found.end == 8


def test_output_made_elsewhere_comes_home():
    found = simulate([task(1, 1, "x", "y")], world("y", latency=0.5))
    assert (found.start[0], found.end) == (1.5, 4.0)


def test_value_made_on_the_device_is_not_sent():
    """Given `a` computed on both devices → its reader on device 1 takes its own; only the input and b go."""
    tasks = [
        task(0, 1, "x", "a"),
        task(1, 1, "x", "a"),
        task(1, 1, "a", "b"),
        task(0, 5, "a", "c"),
        task(0, 1, "bc", "y"),
    ]
    found = simulate(tasks, world("y"))
    assert sorted(c.value for c in found.copies) == ["b", "x"]


def test_copies_leave_a_device_one_after_another():
    """Given one input for two devices → the second waits for the first and names it as its cause; latency overlaps."""
    tasks = [task(1, 1, "x", "a"), task(2, 1, "x", "b"), task(0, 1, "ab", "y")]
    found = simulate(tasks, world("y", latency=5.0))
    first, second = [c for c in found.copies if c.value == "x"]
    assert (first.begin, second.begin) == (0, 1)
    assert (first.arrival, second.arrival) == (6, 7)
    assert second.behind is first


def test_streams_share_a_device():
    """Given two tasks that fill the device → each at half speed; two that fill half of it → both at full speed."""
    both = [task(0, 4, "x", "a"), task(0, 4, "x", "b", stream=1), task(0, 0, "ab", "y")]
    assert simulate(both, world("y")).end == pytest.approx(8)
    half = [task(0, 4, "x", "a", busy=2), task(0, 4, "x", "b", stream=1, busy=2), task(0, 0, "ab", "y")]
    assert simulate(half, world("y")).end == pytest.approx(4)


def test_stream_goes_on_faster_when_the_other_is_done():
    """Given 2 and 6 seconds that each fill the device → 4 seconds both, then 4 alone: 8 in all."""
    tasks = [task(0, 2, "x", "a"), task(0, 6, "x", "b", stream=1), task(0, 0, "ab", "y")]
    found = simulate(tasks, world("y"))
    assert found.finish[:2] == pytest.approx([4, 8])


def test_event_between_streams_takes_its_time():
    tasks = [task(0, 1, "x", "a"), task(0, 1, "a", "b", stream=1), task(0, 1, "b", "y")]
    found = simulate(tasks, world("y", event=0.25))
    assert found.end == pytest.approx(3.5)
    assert found.events == 2 and found.copies == []


def test_tasks_that_wait_for_each_other_never_end():
    assert simulate([task(0, 1, "xb", "a"), task(1, 1, "a", "b")], world("b")) is None
    assert simulate([task(0, 1, "x", "a")], world("y")) is None


def test_ranks_choose_among_what_can_start():
    """Given ranks → the place starts the highest, without → the first in the list, even if it has to wait."""
    tasks = [task(0, 1, "c", "a"), task(0, 2, "x", "b"), task(1, 1, "x", "c"), task(0, 1, "ab", "y")]
    assert simulate(tasks, world("y"), [2.0, 1.0, 3.0, 0.0]).start[:2] == [3, 0]
    assert simulate(tasks, world("y")).start[:2] == [3, 4]


def test_value_of_unknown_size_never_arrives():
    found = simulate([task(0, 1, "x", "a"), task(1, 1, "a", "y")], world("y", sizes={"x": 1.0, "y": 1.0}))
    assert found.end == math.inf


@st.composite
def layered(draw):
    """Tasks that each read up to three values of earlier ones, on two devices of two streams."""
    tasks = []
    for at in range(draw(st.integers(1, 12))):
        reads = draw(
            st.lists(st.sampled_from(["x", *(f"v{n}" for n in range(at))]), min_size=1, max_size=3, unique=True)
        )
        seconds = draw(st.floats(0.125, 4.0))
        share = draw(st.floats(0.0, 1.0))
        place = (draw(st.integers(0, 1)), draw(st.integers(0, 1)))
        tasks.append(Task(place, seconds, seconds * share, tuple(reads), (f"v{at}",)))
    return tasks


@given(layered(), st.booleans())
def test_any_timeline_respects_what_it_waits_for(tasks, ranked):
    """Given any tasks → none starts before its reads are there, none overlaps in its place, and the path adds up."""
    outputs = (tasks[-1].writes[0],)
    around = World({f"v{n}": 0.5 for n in range(12)} | {"x": 0.5}, frozenset("x"), outputs, Link(1.0, 0.25), 0.125)
    found = simulate(tasks, around, [-float(n) for n in range(len(tasks))] if ranked else None)
    assert found is not None
    maker = {task.writes[0]: at for at, task in enumerate(tasks)}
    arrival = {(c.value, c.target): c.arrival for c in found.copies}
    for at, one in enumerate(tasks):
        assert found.finish[at] >= found.start[at] + one.alone - 1e-9
        for value in one.reads:
            source = maker.get(value)
            if source is not None and tasks[source].place[0] == one.place[0]:
                delay = 0.125 if tasks[source].place != one.place else 0.0
                assert found.start[at] >= found.finish[source] + delay - 1e-9
            elif source is not None or one.place[0] != 0:
                assert found.start[at] >= arrival[value, one.place[0]] - 1e-9
    for place in {task.place for task in tasks}:
        spans = sorted((found.start[at], found.finish[at]) for at, task in enumerate(tasks) if task.place == place)
        assert all(a[1] <= b[0] + 1e-9 for a, b in itertools.pairwise(spans))
    steps = found.critical()
    ends = [found.finish[s] if isinstance(s, int) else s.arrival for s in steps]
    assert ends == sorted(ends) and ends[-1] == pytest.approx(found.end)
    assert found.end >= max(task.alone for task in tasks if task.writes[0] in outputs)
