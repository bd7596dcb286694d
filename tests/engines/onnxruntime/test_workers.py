"""Steps on threads: when each runs, what it is given, and what becomes of the rest when one fails or takes too long."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from types import SimpleNamespace

import pytest

from plainconv.engines.onnxruntime.board import Request
from plainconv.engines.onnxruntime.workers import Workers
from plainconv.engines.schedule import schedule_of
from plainconv.exporter.bundle import PartRecord, SplitRecord, TensorSpec
from plainconv.exporter.errors import EngineError, PlainconvWarning

LIMIT = 60.0  # seconds that nothing here takes
HOME, AWAY = (0, 0), (1, 0)
DIAMOND = {
    "stem": (HOME, {"x": None}),
    "left": (HOME, {"stem": "stem"}),
    "right": (AWAY, {"stem": "stem"}),
    "tail": (HOME, {"left": "left", "right": "right"}),
}


class Value:
    """What a step makes, which says by a weak reference whether someone still holds it."""

    def __init__(self, text):
        self.text = text


class Steps:
    """A schedule of steps that write a value of their own name: "name(what it read)". `act` has what a step does more.

    An act is given the values that the step reads and its request's stop.
    """

    def __init__(self, steps, results=("tail",), **act):
        self.act, self.log, self.threads, self.lock = act, [], {}, threading.Lock()
        self.names = list(steps)
        self.changed = threading.Condition(self.lock)
        parts = tuple(
            PartRecord(name, "", "", *place, _specs(reads), _specs([name]), reads)
            for name, (place, reads) in steps.items()
        )
        ends = {name: name if name in steps else None for name in results}
        self.schedule = schedule_of(SplitRecord("fp32", "", 2, 2, parts, ends))

    def start(self, place):
        self.threads[place] = threading.current_thread()
        return self.run

    def run(self, position, inputs, stop):
        name = self.names[position]
        with self.lock:
            self.log.append((name, *(value.text for value in inputs.values())))
            self.changed.notify_all()
        assert threading.current_thread() is self.threads[self.schedule.steps[position].place]
        if name in self.act:
            self.act[name](inputs, stop)
        return [Value(f"{name}({','.join(value.text for value in inputs.values())})")]

    def wait_for(self, *entry):
        """Until a step has begun."""
        with self.lock:
            assert self.changed.wait_for(lambda: entry in self.log, LIMIT)


def _specs(names):
    return tuple(TensorSpec(name, "float32", (1,)) for name in names)


def call(workers, text="x", timeout=LIMIT):
    """One request: the texts of its results, by name."""
    results = workers.run({"x": Value(text)}, SimpleNamespace(terminate=False), timeout)
    return {name: value.text for name, value in results.items()}


class Calls:
    """Requests on threads of their own: each leaves its results, or its error."""

    def __init__(self, workers):
        self.workers, self.found, self.threads = workers, {}, []

    def begin(self, text, timeout=LIMIT):
        def work():
            try:
                self.found[text] = call(self.workers, text, timeout)
            except Exception as error:
                self.found[text] = error

        self.threads.append(threading.Thread(target=work))
        self.threads[-1].start()

    def join(self):
        for thread in self.threads:
            thread.join(LIMIT)
            assert not thread.is_alive()
        return self.found


def until_stopped(inputs, stop):
    """What a run does that ends when it is told to."""
    end = time.monotonic() + LIMIT
    while not stop.terminate:
        assert time.monotonic() < end
        time.sleep(0.001)
    raise RuntimeError("told to stop")


def stuck_call(workers):
    """The error of a request "1" that came as far as its part `right`, which does not stop."""
    for timeout in (0.05, 0.5, 5, LIMIT):
        with pytest.raises(EngineError) as raised:
            call(workers, "1", timeout)
        if "part right still runs" in str(raised.value):
            return str(raised.value)
    raise AssertionError(f"it never began: {raised.value}")


def places():
    return sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("place "))


@pytest.fixture(autouse=True)
def no_thread_left():
    yield
    gc.collect()
    end = time.monotonic() + LIMIT
    while places():
        assert time.monotonic() < end
        time.sleep(0.001)


@pytest.fixture
def no_gc():
    """No garbage collector: what goes, goes by itself."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def running():
    """Workers for steps, closed in the end."""
    made = []

    def make(steps, **options):
        made.append(Workers(steps.schedule, steps.start, **options))
        return made[-1]

    yield make
    for workers in made:
        workers.close(LIMIT)


def test_diamond(running):
    """Given a stem, branches on two places, a tail -> each step once, on its place's thread, after what it reads."""
    steps = Steps(DIAMOND, results=("tail", "x", "left"))
    found = call(running(steps), "1")
    assert found == {"tail": "tail(left(stem(1)),right(stem(1)))", "x": "1", "left": "left(stem(1))"}
    assert [steps.log[0][0], steps.log[3][0]] == ["stem", "tail"]
    assert {steps.log[1][0], steps.log[2][0]} == {"left", "right"}
    assert set(steps.threads) == {HOME, AWAY}
    assert threading.current_thread() not in steps.threads.values()


def test_both_places_at_once(running):
    """Given branches that each wait for the other to begin -> they do."""
    both = threading.Barrier(2)

    def meet(inputs, stop):
        both.wait(LIMIT)

    assert "tail" in call(running(Steps(DIAMOND, left=meet, right=meet)))


def test_no_step(running):
    """Given results that are all inputs -> the inputs."""
    assert call(running(Steps({}, results=("x",))), "7") == {"x": "7"}


def test_waiting_step_blocks_no_other_request(running):
    """Given a first request whose step waits for another place -> that step's place runs the second request."""
    go = threading.Event()

    def gate(inputs, stop):
        if inputs["x"].text == "1":
            assert go.wait(LIMIT)

    steps = Steps(
        {"slow": (HOME, {"x": None}), "own": (AWAY, {"x": None}), "tail": (AWAY, {"own": "own", "slow": "slow"})},
        slow=gate,
    )
    calls = Calls(running(steps))
    calls.begin("1")
    steps.wait_for("slow", "1")
    calls.begin("2")
    steps.wait_for("own", "2")
    assert ("tail", "own(1)", "slow(1)") not in steps.log
    go.set()
    assert {text: found["tail"] for text, found in calls.join().items()} == {
        "1": "tail(own(1),slow(1))",
        "2": "tail(own(2),slow(2))",
    }


def test_oldest_request_first(running):
    """Given a place with steps of three requests ready -> the oldest request's, the first of these, first."""
    go = threading.Event()

    def gate(inputs, stop):
        if inputs["stem"].text == "stem(1)":
            assert go.wait(LIMIT)

    steps = Steps(
        {
            "stem": (HOME, {"x": None}),
            "a": (AWAY, {"stem": "stem"}),
            "b": (AWAY, {"stem": "stem"}),
            "tail": (AWAY, {"a": "a", "b": "b"}),
            "end": (HOME, {"stem": "stem"}),
        },
        a=gate,
        results=("tail", "end"),
    )
    calls = Calls(running(steps))
    for text in "123":
        calls.begin(text)
        steps.wait_for("end", f"stem({text})")
    go.set()
    calls.join()
    order = [(name, reads[0][-2]) for name, *reads in steps.log if name in "ab"]
    assert order == [(name, text) for text in "123" for name in "ab"]


def test_values_go_when_they_are_read(running):
    """Given a chain -> what a step made is gone when the one after its last reader runs; results stay."""
    made, alive = [], []

    def remember(inputs, stop):
        made.extend(weakref.ref(value) for value in inputs.values())
        alive.append([ref() is not None for ref in made])

    steps = Steps(
        {
            "a": (HOME, {"x": None}),
            "b": (HOME, {"a": "a"}),
            "c": (AWAY, {"b": "b"}),
            "d": (AWAY, {"c": "c"}),
            "tail": (AWAY, {"d": "d"}),
        },
        results=("b", "tail"),
        b=remember,
        d=remember,
        tail=remember,
    )
    assert call(running(steps))["b"] == "b(a(x))"
    assert alive == [[True], [False, True], [False, False, True]]  # a; c; d
    assert [ref() for ref in made] == [None] * 3


def test_step_that_raises(running):
    """Given a step that raises while another runs -> its error; the other is stopped, none begins, the next works."""
    begun = threading.Event()

    def left(inputs, stop):
        if inputs["stem"].text == "stem(1)":
            begun.set()
            until_stopped(inputs, stop)

    def right(inputs, stop):
        if inputs["stem"].text == "stem(1)":
            assert begun.wait(LIMIT)
            raise EngineError("part right: no")

    steps = Steps(DIAMOND, left=left, right=right)
    workers = running(steps)
    with pytest.raises(EngineError, match=r"^part right: no$"):
        call(workers, "1")
    assert "tail" not in [name for name, *_ in steps.log]
    assert call(workers, "2")["tail"] == "tail(left(stem(2)),right(stem(2)))"


def test_wrong_number_of_outputs(running):
    """Given a run that gives too few values -> that, and not a place that is gone."""
    steps = Steps({"tail": (HOME, {"x": None})})
    steps.run = lambda *step: []
    workers = running(steps)
    for _ in range(2):
        with pytest.raises(ValueError, match="shorter"):
            call(workers)


def test_failed_request_of_several(running):
    """Given four threads that call, one of whose requests fail -> each its own outcome, every time."""

    def right(inputs, stop):
        if inputs["stem"].text.startswith("stem(bad"):
            raise EngineError(f"part right: {inputs['stem'].text}")

    workers = running(Steps(DIAMOND, right=right))
    wrong: list[object] = []

    def work(kind):
        for number in range(100):
            text = f"{kind}{number}"
            try:
                found = call(workers, text)["tail"]
            except EngineError as error:
                found = str(error)
            wanted = f"part right: stem({text})" if kind == "bad" else f"tail(left(stem({text})),right(stem({text})))"
            if found != wanted:
                wrong.append((found, wanted))

    threads = [threading.Thread(target=work, args=(kind,)) for kind in ("bad", "a", "b", "c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert wrong == []


def test_timeout(running):
    """Given a step that does not end -> the parts that had not, what runs is stopped, and the next request works."""

    def right(inputs, stop):
        if inputs["stem"].text == "stem(1)":
            until_stopped(inputs, stop)

    steps = Steps(DIAMOND, right=right)
    workers = running(steps)
    wanted = r"^the request took longer than 0.05 s, parts (stem, )?(left, )?right, tail had not ended; give it more"
    with pytest.raises(EngineError, match=wanted):
        call(workers, "1", timeout=0.05)
    assert "tail" not in [name for name, *_ in steps.log]
    assert call(workers, "2")["tail"] == "tail(left(stem(2)),right(stem(2)))"


def test_timeout_names_so_many_parts(running):
    """Given more parts than a line holds -> the first of them, and how many more."""
    chain = {"s0": (HOME, {"x": None})} | {f"s{n}": (HOME, {f"s{n - 1}": f"s{n - 1}"}) for n in range(1, 20)}
    workers = running(Steps(chain, results=("s19",), s0=until_stopped))
    with pytest.raises(EngineError, match="parts s0, s1, s2, s3, s4, s5, s6, s7 and 12 more had not ended"):
        call(workers, timeout=0.05)


def test_step_that_does_not_stop(running):
    """Given a step that goes on when told to stop -> said so; once it ends, nothing of its request follows it."""

    def right(inputs, stop):
        if inputs["stem"].text == "stem(1)":
            assert go.wait(LIMIT)

    go, steps = threading.Event(), Steps(DIAMOND, right=right)
    workers = running(steps, grace=0.05)
    why = stuck_call(workers)
    assert why.endswith("; told to stop, part right still runs 0.05 s later, and other requests wait for it")
    assert "\n" not in why
    with pytest.raises(EngineError, match="right, tail had not ended"):
        call(workers, "2", timeout=0.05)
    go.set()
    assert call(workers, "3")["tail"] == "tail(left(stem(3)),right(stem(3)))"
    assert [entry for entry in steps.log if entry[0] == "tail"] == [("tail", "left(stem(3))", "right(stem(3))")]


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no signal can be sent to a thread")
def test_interrupted(running):
    """Given Ctrl-C while the main thread waits -> KeyboardInterrupt, nothing runs any more, the next request works."""
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("signals go to the main thread, which runs no test here")

    def interrupt(inputs, stop):
        if inputs["stem"].text == "stem(1)":
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            try:
                until_stopped(inputs, stop)
            finally:
                ended.set()

    ended, steps = threading.Event(), Steps(DIAMOND, right=interrupt)
    workers = running(steps)
    with pytest.raises(KeyboardInterrupt):
        call(workers, "1")
    assert ended.is_set()
    assert "tail" not in [name for name, *_ in steps.log]
    assert call(workers, "2")["tail"] == "tail(left(stem(2)),right(stem(2)))"


def test_start_that_fails():
    """Given two places that cannot start -> the error of the first of them, and no thread."""
    steps = Steps(DIAMOND | {"more": ((1, 1), {"x": None})}, results=("tail", "more"))

    def start(place):
        if place != HOME:
            raise EngineError(f"no {place}")
        return steps.run

    with pytest.raises(EngineError, match=r"no \(1, 0\)"):
        Workers(steps.schedule, start)
    assert places() == []


def test_close_waits(running):
    """Given a request under way -> close waits for it, and takes no other; a second one does nothing."""
    go, steps = threading.Event(), Steps(DIAMOND, right=lambda inputs, stop: go.wait(LIMIT))
    workers = running(steps)
    calls = Calls(workers)
    calls.begin("1")
    steps.wait_for("right", "stem(1)")
    closing = threading.Thread(target=workers.close, args=(LIMIT,))
    closing.start()
    end = time.monotonic() + LIMIT
    while True:
        try:
            workers._board.submit(Request(workers._board, {"x": Value("2")}, SimpleNamespace(terminate=False)))
        except EngineError as error:
            assert str(error) == "the runner is closed; load the bundle again"
            break
        assert time.monotonic() < end
    assert closing.is_alive()
    go.set()
    closing.join(LIMIT)
    assert calls.join()["1"] == {"tail": "tail(left(stem(1)),right(stem(1)))"}
    assert places() == []
    workers.close(LIMIT)
    with pytest.raises(EngineError, match="the runner is closed; load the bundle again"):
        call(workers)


def test_close_with_a_stuck_step(running):
    """Given a step that no one can stop -> close gives up with a warning that names its place, once."""
    go, steps = threading.Event(), Steps(DIAMOND, right=lambda inputs, stop: go.wait(LIMIT))
    workers = running(steps, grace=0.05)
    stuck_call(workers)
    with pytest.warns(PlainconvWarning, match=r"place \(1, 0\) .* did not end in 0.1 s, its thread is left behind"):
        workers.close(0.05)
    workers.close(LIMIT)
    go.set()


def test_collected_without_close():
    """Given workers that nobody closed and nobody has any more -> their threads end."""
    steps = Steps(DIAMOND)
    workers = Workers(steps.schedule, steps.start)
    call(workers)
    gone = weakref.ref(workers)
    del workers
    gc.collect()
    assert gone() is None  # and `no_thread_left` waits for the threads


def test_closed_on_a_thread_of_its_own(running):
    """Given a close from within a step, as the garbage collector may do -> it waits for no thread; the call ends."""
    steps = Steps(DIAMOND, right=lambda inputs, stop: workers.close(LIMIT))
    workers = running(steps)
    assert "tail" in call(workers)
    with pytest.raises(EngineError, match="closed"):
        call(workers)


def test_thousands_of_requests(running, no_gc):
    """Given 2,000 requests, a fourth of which fail -> as many threads, nothing left for the garbage collector."""

    def right(inputs, stop):
        if int(inputs["stem"].text[5:-1]) % 4 == 0:
            raise EngineError("part right: no")

    workers = running(Steps(DIAMOND, right=right))
    before, failed, values = threading.active_count(), 0, []
    for number in range(2000):
        value = Value(str(number))
        values.append(weakref.ref(value))
        try:
            workers.run({"x": value}, SimpleNamespace(terminate=False), LIMIT)
        except EngineError:
            failed += 1
    del value
    assert failed == 500
    assert threading.active_count() == before
    assert workers._board._active == set()
    call(workers, "1")  # the threads have let go of what came before
    assert sum(ref() is not None for ref in values) == 0
    assert sum(type(thing) is Request for thing in gc.get_objects()) <= 1


SCRIPT = """
import os, sys, threading, time
sys.path[:0] = {paths}
from types import SimpleNamespace
from plainconv.engines.onnxruntime.workers import Workers
from plainconv.exporter.errors import EngineError
from plainconv.engines.schedule import schedule_of
from plainconv.exporter.bundle import PartRecord, SplitRecord, TensorSpec

begun = threading.Event()
def run(position, inputs, stop):
    if inputs["x"] == "slow":
        begun.set()
        while not stop.terminate:
            time.sleep(0.001)
    return [inputs["x"]]

x, y = (TensorSpec(name, "float32", (1,)) for name in "xy")
part = PartRecord("p", "", "", 0, 0, (x,), (y,), {{"x": None}})
schedule = schedule_of(SplitRecord("fp32", "", 1, 1, (part,), {{"y": "p"}}))
workers = Workers(schedule, lambda place: run)
def call(x):
    return workers.run({{"x": x}}, SimpleNamespace(terminate=False), 60)
print(call("fast")["y"], flush=True)
"""


def ended_program(then):
    """What a program prints that makes workers, runs them once, does `then`, and comes to its end."""
    script = SCRIPT.format(paths=[path for path in sys.path if path]) + then
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=LIMIT, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split("\n")[1:-1]


def test_program_that_ends():
    """Given a program that ends with workers open -> it ends, silently."""
    assert ended_program("") == []


def test_program_that_ends_in_a_request():
    """Given a program that ends while a thread of it waits for a request -> that is stopped, and the program ends."""
    then = """
def wait():
    try:
        call("slow")
    except EngineError:
        pass
threading.Thread(target=wait, daemon=True).start()
begun.wait()
"""
    assert ended_program(then) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_fork():
    """Given a fork of the program -> the child is told to load again, closes and ends; the parent goes on."""
    then = """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of forks with threads
child = os.fork()
if not child:
    try:
        call("fast")
    except EngineError as error:
        print(error, flush=True)
    workers.close(60)
    sys.exit(0)
print(os.waitpid(child, 0)[1], call("again")["y"])
"""
    told = "the runner was loaded in another process, and a fork has no threads; load the bundle here"
    assert ended_program(then) == [told, "0 again"]
