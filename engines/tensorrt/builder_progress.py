"""A builder's progress on a bar, and Ctrl-C while it builds."""

import concurrent.futures
import contextlib
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeVar

from plainconv.exporter.progress import Bar

T = TypeVar("T")


class Phases:
    """A builder's phases within phases, as percents of the outermost one."""

    def __init__(self, bar: Bar) -> None:
        self._bar = bar
        self._lock = threading.Lock()  # a builder reports from several threads
        self._phases: dict[str, tuple[str | None, int, int]] = {}  # name → parent, steps, steps done
        self._shown = 0.0

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase of so many steps has begun, within a step of `parent`."""
        with self._lock:
            self._phases[name] = (parent, max(steps, 1), 0)
            self._show(name)

    def step(self, name: str, step: int) -> None:
        """Step number `step`, counted from 0, is done."""
        with self._lock:
            if name in self._phases:
                parent, steps, _ = self._phases[name]
                self._phases[name] = (parent, steps, step + 1)
                self._show(name)

    def finish(self, name: str) -> None:
        """A phase has ended, complete or not."""
        with self._lock:
            self._phases.pop(name, None)

    def complete(self) -> None:
        """The build is done, whatever the last phase left unsaid."""
        self._advance_to(100.0, "done")

    def _show(self, note: str) -> None:
        roots = (self._done(name) for name, (parent, _, _) in self._phases.items() if parent is None)
        self._advance_to(100 * max(roots, default=0.0), note)

    def _advance_to(self, percent: float, note: str) -> None:
        if percent > self._shown:
            self._bar.advance(percent - self._shown, note)
            self._shown = percent

    def _done(self, name: str) -> float:
        """How much of a phase is done, 0 to 1: its own steps, and of the one at work the part that is done."""
        _, steps, done = self._phases[name]
        inner = (self._done(child) for child, (parent, _, _) in self._phases.items() if parent == name)
        return min((done + max(inner, default=0.0)) / steps, 1.0)


def monitor_of(trt: ModuleType, phases: Phases) -> Any:
    """An IProgressMonitor that reports to `phases`; after its `end_build()` the build ends at its next step."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._ended = False

        def end_build(self) -> None:
            self._ended = True

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with contextlib.suppress(Exception):  # C++ called: nothing may be raised, and no bar is worth a build
                phases.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            with contextlib.suppress(Exception):
                phases.step(phase_name, step)
            return not self._ended

        def phase_finish(self, phase_name: str) -> None:
            with contextlib.suppress(Exception):
                phases.finish(phase_name)

    return Monitor()


def interruptible(work: Callable[[], T], stop: Callable[[], None] = lambda: None) -> T:
    """`work()` in a thread of its own, so that Ctrl-C is heard in this one: it calls `stop`, and waits.

    In the thread that calls TensorRT, Ctrl-C would be raised through the C++ that calls a logger or a monitor back,
    which ends the process.
    """
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        try:
            future = pool.submit(work)
            while not future.done():
                concurrent.futures.wait([future], timeout=0.2)
        except BaseException:
            stop()
            raise  # once the thread has ended, which leaving the block waits for
        return future.result()
