"""How a lane waits for its streams, and what it says of what does not end."""

import contextlib
import time
from collections.abc import Iterable, Sequence

from plainconv.exporter.errors import EngineError

from ..cuda.runtime import CudaRuntime
from .parts import PartEngine
from .placement import Ready
from .program import Track
from .resources import Resources

_SPIN, _MOST_SPIN = 100e-6, 10e-3  # seconds of asking without a pause, at least and at most
_SHORTEST, _LONGEST = 5e-6, 50e-6  # of the pauses after that, each at least as long again as the system likes
_LOOK = 0.01  # seconds after which every stream is asked: the end of one may wait for a GPU that is lost


class LostError(EngineError):
    """Work on a GPU that has not ended in time, or a GPU that fails: nothing can be run there any more."""


class Waits:
    """The waits of a lane. What has not ended `timeout` seconds after the wait began is given up.

    `enqueued` says how much of which program is under way, `launched` that it is a graph instead: for the words.
    """

    def __init__(self, cuda: CudaRuntime, resources: Resources, parts: Sequence[PartEngine], timeout: float) -> None:
        self._cuda, self._resources, self._parts, self._timeout = cuda, resources, parts, timeout
        self.enqueued: tuple[Ready, int] | None = None
        self.launched = False
        self._took = 0.0  # seconds, of the last wait for a request

    def for_end(self, stream: int) -> None:
        """Wait for a request, which ends on `stream`: without a pause for as long as the last one lets expect.

        A sleep of microseconds takes fifty and more; where calls take longer than `_MOST_SPIN` that is nothing.
        """
        expected = 1.5 * self._took + _SPIN
        begun = time.monotonic()
        self._wait((stream,), expected if expected < _MOST_SPIN else _SPIN)
        self._took = time.monotonic() - begun

    def for_all(self) -> None:
        """Wait until no stream of the lane has anything left."""
        self._wait(self._resources.streams.values(), _SPIN)

    def clear_up(self, error: BaseException) -> None:
        """Wait for what was enqueued before an error, as the lane is to be used again."""
        try:
            self.for_all()
        except LostError as lost:
            raise LostError(f"{str(error) or type(error).__name__}; after that, {lost}") from error

    def check_alive(self) -> None:
        """Raise LostError where a GPU of the lane fails. Does not wait."""
        for stream in [*self._resources.streams.values()]:
            try:
                self._cuda.idle(stream)
            except EngineError as error:
                raise LostError(self._failed(error)) from error

    def ended(self, seconds: float) -> bool:
        """Whether nothing is under way any more, for which at most that time is waited; on a lost GPU nothing is."""
        deadline = time.monotonic() + seconds
        streams = [*self._resources.streams.values()]
        while streams := [stream for stream in streams if self._under_way(stream)]:
            if time.monotonic() > deadline:
                return False
            time.sleep(_LONGEST)
        return True

    def _wait(self, streams: Iterable[int], spin: float) -> None:
        """Raises LostError where that takes too long, and where CUDA fails."""
        begun = time.monotonic()
        pause, look = _SHORTEST, begun + _LOOK
        try:
            for stream in streams:
                while not self._cuda.idle(stream):
                    now = time.monotonic()
                    if now > begun + self._timeout:
                        raise LostError(self._overdue())
                    if now > look:
                        for other in self._resources.streams.values():
                            self._cuda.idle(other)
                        look = now + _LOOK
                    if now > begun + spin:
                        time.sleep(pause)
                        pause = min(2 * pause, _LONGEST)
        except LostError:
            raise
        except EngineError as error:
            raise LostError(self._failed(error)) from error

    def _overdue(self) -> str:
        """Which parts have not ended in time, as far as their events say."""
        if self.launched:
            names = [part.words for part in self._parts]
            several = len(names) > 1
            what = f"no end of {'one of ' * several}{', '.join(names)}, a CUDA graph"
            what += ", which does not say of which" * several
        elif self.enqueued is not None:
            late = [f"{part.words} on GPU {part.device}" for part in self._late(*self.enqueued)]
            what = f"no end of {', '.join(late)}" if late else "its parts have ended, a copy has not"
        else:
            what = "what it waits for has not ended, and no part has begun"
        return (
            f"the request did not end within {self._timeout:g} s: {what}; "
            "load the bundle again, in a new process if the GPU still hangs"
        )

    def _late(self, ready: Ready, count: int) -> list[PartEngine]:
        """The parts of the first `count` pieces of work that are not known to have ended."""
        ended: set[Track] = set()
        late: list[PartEngine] = []
        for work, event in zip(ready.program.works[count - 1 :: -1], ready.events[count - 1 :: -1], strict=True):
            if event and work.track not in ended:
                with contextlib.suppress(EngineError):
                    if self._cuda.passed(event):
                        ended.add(work.track)
            if work.step is not None and work.track not in ended:
                late.append(self._parts[work.step])
        return late[::-1]

    def _failed(self, error: EngineError) -> str:
        """Which GPUs fail, and what runs there."""
        lost: set[int] = set()
        for track, stream in self._resources.streams.items():
            try:
                self._cuda.idle(stream)
            except EngineError:
                lost.add(track.device)
        parts = [part for part in self._parts if part.device in lost or not lost]
        names = ("" if any(not part.name for part in parts) else "parts ") + ", ".join(part.words for part in parts)
        where = f"GPU {' and '.join(map(str, sorted(lost)))} failed" if lost else "a GPU failed"
        return f"{where} while {names or 'nothing'} ran there ({error}); load the bundle again, in a new process"

    def _under_way(self, stream: int) -> bool:
        try:
            return not self._cuda.idle(stream)
        except EngineError:
            return False
