"""What the threads of a split network share: the requests under way, and what is ready at each place."""

import heapq
import itertools
import os
import threading
from collections.abc import Iterable, Mapping
from queue import SimpleQueue
from typing import Any, Protocol

from plainconv.exporter.errors import EngineError

from ..schedule import Place, Schedule


class Stop(Protocol):
    """What the runs of one request look at: where it is set, they end as soon as they can."""

    terminate: bool


_MOST_NAMES = 8  # in one message


class Request:
    """One request: which steps are left and running, what they made that is still to be read, how often."""

    def __init__(self, board: "Board", inputs: Mapping[str, Any], stop: Stop) -> None:
        steps = board.schedule.steps
        self.number, self.inputs, self.stop = next(board.numbers), inputs, stop
        self.left, self.running = set(range(len(steps))), set[int]()
        self.missing = list(board.missing)
        self.readers = [dict(step.readers) for step in steps]
        self.made: list[dict[str, Any]] = [{} for _ in steps]
        self.failed = self.settled = False
        self.error: Exception | None = None
        self.done = threading.Lock()  # free when it is settled: nothing wakes a waiting thread faster
        self.done.acquire()

    def taken_error(self) -> Exception:
        """The error, for the caller alone: raised and kept here, it would keep all this by its traceback."""
        error, self.error = self.error, None
        assert error is not None
        return error


class Board:
    """What the threads share: what is ready at each place, and the requests under way.

    `close` may come from the garbage collector, in the middle of anything on any thread: hence a lock that a thread may
    take twice, and a `stop` that takes none.
    """

    def __init__(self, schedule: Schedule, grace: float) -> None:
        steps = schedule.steps
        sources = [{source for source in step.sources.values() if source is not None} for step in steps]
        self.schedule, self.grace, self.pid = schedule, grace, os.getpid()
        self.missing = [len(each) for each in sources]
        self.numbers = itertools.count()
        self._followers = [[at for at, each in enumerate(sources) if source in each] for source in range(len(steps))]
        self._lock = threading.RLock()
        self._ready: dict[Place, list[tuple[int, int, Request]]] = {place: [] for place in schedule.places}
        self._calls: dict[Place, SimpleQueue[None]] = {place: SimpleQueue() for place in schedule.places}
        self._active: set[Request] = set()
        self._closing = self._over = False

    def submit(self, request: Request) -> None:
        """Make the steps ready that read inputs alone. Raises EngineError where no request is taken any more."""
        if os.getpid() != self.pid:
            raise EngineError(
                "the runner was loaded in another process, and a fork has no threads; load the bundle here"
            )
        with self._lock:
            if self._closing or self._over:
                raise EngineError("the runner is closed; load the bundle again")
            self._active.add(request)
            for position, missing in enumerate(request.missing):
                if not missing:
                    self._make_ready(request, position)
            self._settle(request)

    def next(self, place: Place) -> bool:
        """Wait until there may be something to do at a place; False where there never will be."""
        self._calls[place].get()
        return not self._over

    def take(self, place: Place) -> tuple[Request, int, dict[str, Any]] | None:
        """The next step of a place, now running, and its inputs; None where none is ready."""
        with self._lock:
            if not self._ready[place]:
                return None
            _, position, request = heapq.heappop(self._ready[place])
            request.running.add(position)
            return (
                request,
                position,
                {
                    name: request.inputs[name] if source is None else request.made[source][name]
                    for name, source in self.schedule.steps[position].sources.items()
                },
            )

    def ended(self, request: Request, position: int, outputs: Mapping[str, Any]) -> None:
        """Hand over what a step made, and drop what no step reads any more."""
        step, made = self.schedule.steps[position], request.made
        with self._lock:
            request.running.discard(position)
            request.left.discard(position)
            if not request.failed:
                readers = request.readers[position]
                made[position] = {name: value for name, value in outputs.items() if readers[name]}
                for follower in self._followers[position]:
                    request.missing[follower] -= 1
                    if not request.missing[follower]:
                        self._make_ready(request, follower)
                for name, source in step.sources.items():
                    if source is not None:
                        request.readers[source][name] -= 1
                        if not request.readers[source][name]:
                            del made[source][name]
            self._settle(request)

    def failed(self, request: Request, position: int, error: Exception) -> None:
        """End a request for what a step of it raised."""
        with self._lock:
            request.running.discard(position)
            request.left.discard(position)
            self._fail(request, error)
            self._settle(request)

    def give_up(self, request: Request, timeout: float) -> None:
        """End a request that has taken too long, and wait for what runs of it, with patience."""
        with self._lock:
            if request.settled:
                return
            self._fail(
                request,
                EngineError(
                    f"the request took longer than {timeout:g} s, {self._called(request.left)} had not ended; "
                    "give it more time, or the runner fewer requests at a time"
                ),
            )
            self._settle(request)
        if request.done.acquire(timeout=self.grace):
            return
        with self._lock:
            if not request.settled:
                request.error = EngineError(
                    f"{request.error}; told to stop, {self._called(request.running)} still runs {self.grace:g} s "
                    "later, and other requests wait for it"
                )

    def cancel(self, request: Request) -> None:
        """End a request that nobody waits for, and wait for what runs of it, with patience."""
        with self._lock:
            if request.settled:
                return
            self._fail(request, EngineError("the request was interrupted"))
            self._settle(request)
        request.done.acquire(timeout=self.grace)

    def close(self) -> None:
        """Take no further request, and stop when those under way have ended."""
        with self._lock:
            self._closing = True
            if not self._active:
                self.stop()

    def end(self) -> None:
        """End all requests under way, take no further one, and stop."""
        with self._lock:
            self._closing = True
            for request in tuple(self._active):
                self._fail(request, EngineError("the program ends, and the runner with it"))
                self._settle(request)
            self.stop()

    def stop(self) -> None:
        """Let all threads end."""
        self._over = True
        for calls in self._calls.values():
            calls.put(None)

    def _make_ready(self, request: Request, position: int) -> None:
        place = self.schedule.steps[position].place
        heapq.heappush(self._ready[place], (request.number, position, request))
        self._calls[place].put(None)

    def _fail(self, request: Request, error: Exception) -> None:
        if not request.failed:
            request.failed, request.error = True, error
            request.stop.terminate = True
            for place, ready in self._ready.items():
                self._ready[place] = [entry for entry in ready if entry[2] is not request]
                heapq.heapify(self._ready[place])

    def _settle(self, request: Request) -> None:
        """Wake who waits for a request if it has come to its end."""
        waits_for = request.running if request.failed else request.left
        if not waits_for and not request.settled:
            request.settled = True
            self._active.discard(request)
            request.done.release()
            if self._closing and not self._active:
                self.stop()

    def _called(self, positions: Iterable[int]) -> str:
        names = [self.schedule.steps[position].part.name for position in sorted(positions)]
        more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
        return f"part{'s' if len(names) > 1 else ''} {', '.join(names[:_MOST_NAMES])}{more}"
