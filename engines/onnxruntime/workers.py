"""The steps of a schedule on threads, one a place: each runs when what it reads is there, in many requests at once."""

import atexit
import os
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from queue import SimpleQueue
from typing import Any

from plainconv.exporter.errors import PlainconvWarning

from ..schedule import Place, Schedule
from .board import Board, Request, Stop

Run = Callable[[int, dict[str, Any], Stop], Sequence[Any]]
"""Runs the step at a position, on its inputs by name, until the request's `Stop` is set: its outputs, in order."""

_GRACE = 5.0  # seconds in which a run that is told to stop should have stopped


class Workers:
    """One thread for each place of a schedule. Any number of threads may ask them to run it.

    A place takes, of the steps that are ready there, the one of the oldest request, of these the first in the order of
    the schedule. A step that waits for another place keeps no place busy.

    Threads end with `close`, when this object is collected, and at the end of the program.
    """

    def __init__(self, schedule: Schedule, start: Callable[[Place], Run], *, grace: float = _GRACE) -> None:
        """Call `start` for each place on the thread of that place. Raises what it raises, of the first such place.

        `grace` is how long a run may go on when it has been told to stop, in seconds.
        """
        self._board = board = Board(schedule, grace)
        weakref.finalize(self, board.stop).atexit = False
        started: SimpleQueue[tuple[Place, Exception | None]] = SimpleQueue()
        self._threads = [
            threading.Thread(target=_work, args=(board, place, start, started), name=f"place {place}", daemon=True)
            for place in schedule.places
        ]
        _OPEN.add(self)
        try:
            for thread in self._threads:
                thread.start()
            failed: dict[Place, Any] = dict(started.get() for _ in self._threads)
            for place in schedule.places:
                if failed[place] is not None:
                    raise failed.pop(place)
        except BaseException:
            board.stop()
            self._threads = [thread for thread in self._threads if thread.ident is not None]
            self._join(grace)
            raise

    def run(self, inputs: Mapping[str, Any], stop: Stop, timeout: float) -> dict[str, Any]:
        """The results of the schedule on `inputs`, those of its results that are inputs among them; waits for them.

        The first step to raise ends the request, and so does the calling thread where it is interrupted: no further
        step begins, `stop` is set, and none is running any more when this raises (but see `grace`). `timeout`, in
        seconds, counts from here: what the steps of other requests take on the same places is in it.

        Raises EngineError after `timeout` and after `close`, and what a step raised.
        """
        board = self._board
        request = Request(board, inputs, stop)
        try:
            board.submit(request)
            if not request.done.acquire(timeout=min(timeout, threading.TIMEOUT_MAX)):
                board.give_up(request, timeout)
        except BaseException:
            board.cancel(request)
            raise
        if request.failed:
            raise request.taken_error()
        return {
            name: inputs[name] if source is None else request.made[source][name]
            for name, source in board.schedule.results.items()
        }

    def close(self, timeout: float) -> None:
        """End the threads, once the requests under way have ended. `timeout` is the longest of these.

        Warns of a thread that is not free even then, and leaves it behind.
        """
        if os.getpid() != self._board.pid:
            return  # a fork has none of the threads
        self._board.close()
        self._join(timeout + self._board.grace)

    def end(self) -> None:
        """End the threads and all requests under way."""
        if os.getpid() == self._board.pid:
            self._board.end()
            self._join(self._board.grace)

    def _join(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        if threading.current_thread() in self._threads:
            return  # the garbage collector closes it from there
        for thread in self._threads:
            thread.join(min(max(0.0, deadline - time.monotonic()), threading.TIMEOUT_MAX))
        left = [thread.name for thread in self._threads if thread.is_alive()]
        self._threads = []
        if left:
            warnings.warn(
                f"{', '.join(left)} of a split network did not end in {timeout:g} s, its thread is left behind; "
                "end the program to be rid of it",
                PlainconvWarning,
                stacklevel=3,
            )


_OPEN: "weakref.WeakSet[Workers]" = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    """No thread may be in a runtime when the interpreter goes."""
    for workers in tuple(_OPEN):
        workers.end()


def _work(
    board: Board,
    place: Place,
    start: Callable[[Place], Run],
    started: "SimpleQueue[tuple[Place, Exception | None]]",
) -> None:
    """What a thread does. Only its frame holds what `start` gave, so that this goes with the thread."""
    try:
        run = start(place)
    except Exception as error:
        started.put((place, error))
        return
    started.put((place, None))
    while board.next(place):
        _run_next(board, place, run)


def _run_next(board: Board, place: Place, run: Run) -> None:
    """Run a step that is ready. What it reads is held by no thread that waits: all of it goes on leaving here."""
    taken = board.take(place)
    if taken is None:
        return
    request, position, inputs = taken
    try:
        names = [spec.name for spec in board.schedule.steps[position].part.outputs]
        outputs = dict(zip(names, run(position, inputs, request.stop), strict=True))
    except Exception as error:
        board.failed(request, position, error)
    else:
        board.ended(request, position, outputs)
