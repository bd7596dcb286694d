"""The builder's phases as percents, and Ctrl-C."""

import threading

import pytest

from plainconv.engines.tensorrt.builder_progress import Phases, interruptible


class Bar:
    def __init__(self):
        self.percents, self.notes = [0.0], []

    def advance(self, steps=1, note=""):
        self.percents.append(self.percents[-1] + steps)
        self.notes.append(note)


def test_phases_within_phases():
    """Given phases as a builder reports them -> percents of the outermost one, which never fall back."""
    bar = Bar()
    phases = Phases(bar)
    phases.start("build", None, 4)
    phases.step("build", 0)
    phases.start("optimize", "build", 2)
    phases.step("optimize", 0)
    phases.start("time tactics", "optimize", 5)
    phases.step("time tactics", 4)
    phases.finish("time tactics")
    phases.step("optimize", 1)
    phases.finish("optimize")
    phases.step("build", 1)
    phases.step("build", 3)
    phases.finish("build")

    assert bar.percents == pytest.approx([0, 25, 37.5, 50, 100])
    assert bar.notes == ["build", "optimize", "time tactics", "build"]


def test_complete_fills_the_bar():
    """Given a builder that leaves its last step unsaid -> the bar still ends at 100."""
    bar = Bar()
    phases = Phases(bar)
    phases.start("build", None, 6)
    phases.step("build", 4)
    phases.finish("build")
    phases.complete()
    assert bar.percents == pytest.approx([0, 500 / 6, 100])


def test_reports_out_of_order():
    """Given steps of a phase never begun, and an end without a start -> ignored."""
    bar = Bar()
    phases = Phases(bar)
    phases.step("x", 3)
    phases.finish("x")
    phases.start("empty", None, 0)
    assert bar.percents == [0.0]


def test_interruptible_hands_on_results_and_errors():
    assert interruptible(lambda: threading.current_thread() is threading.main_thread()) is False
    with pytest.raises(ZeroDivisionError):
        interruptible(lambda: 1 / 0)


def test_interruptible_stops_the_work_and_waits(monkeypatch):
    """Given Ctrl-C while work runs in its thread -> the work is told to stop, and has ended when the error arrives."""
    told, ended = threading.Event(), threading.Event()

    def work():
        told.wait(10)
        ended.set()

    def interrupted(futures, timeout):
        raise KeyboardInterrupt

    monkeypatch.setattr("concurrent.futures.wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        interruptible(work, stop=told.set)
    assert ended.is_set()
