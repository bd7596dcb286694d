"""When each task of a network runs, on devices with streams, and when each value that crosses is there.

A place is one stream of one device: it runs one task at a time. Tasks on streams of one device share it: together they
run at full speed while the shares of the device that each fills add up to at most 1, else all are slowed down alike. A
copy leaves when its value is there, and one after another through each device's way out and each one's way in; latency
comes on top and overlaps. Inputs lie on device 0 at the start, and the end is when all outputs lie there.
"""

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count

from .cost import Link

HOME = 0
"""The device where inputs lie and outputs are wanted."""


@dataclass(frozen=True)
class Task:
    """`alone` seconds on `place` (device, stream), using up `busy` seconds of all of the device."""

    place: tuple[int, int]
    alone: float
    busy: float
    reads: tuple[str, ...]
    writes: tuple[str, ...]


@dataclass(frozen=True)
class World:
    """What lies around the tasks: bytes of each value, the network's inputs and outputs, the link, an event's wait.

    `worth` are seconds that one more copy, event or part must save: less is no finding of a model like this one.
    """

    bytes: Mapping[str, float]
    inputs: frozenset[str]
    outputs: tuple[str, ...]
    link: Link
    event: float = 0.0
    worth: float = 0.0

    def seconds(self, value: str) -> float:
        """That `value` keeps a link busy; infinite for one that no part may send."""
        size = self.bytes.get(value, math.inf)
        return size / self.link.bandwidth if size < math.inf else math.inf


@dataclass
class Copy:
    """A value on its way to a device: made by a task (None: an input), `begin` to `arrival` in seconds."""

    value: str
    source: int | None
    device: int
    target: int
    begin: float
    arrival: float
    behind: "Copy | None" = None


@dataclass
class Timeline:
    """Seconds at which each task starts and ends, the copies, the end, and what each task waited for last.

    `events` counts the waits of one stream for a task on another of the same device.
    """

    start: list[float]
    finish: list[float]
    copies: list[Copy] = field(default_factory=list)
    end: float = 0.0
    cause: "list[int | Copy | None]" = field(default_factory=list)
    last: "int | Copy | None" = None
    events: int = 0

    def critical(self) -> "list[int | Copy]":
        """Tasks and copies of which each waited for the one before it, up to the end."""
        steps: list[int | Copy] = []
        step = self.last
        while step is not None:
            steps.append(step)
            if isinstance(step, Copy):
                step = step.behind if step.behind is not None else step.source
            else:
                step = self.cause[step]
        return steps[::-1]


def score_of(timeline: Timeline, world: World, parts: int = 0) -> float:
    """Seconds to the end, with what each copy, event and part must save on top."""
    return timeline.end + world.worth * (len(timeline.copies) + timeline.events + parts)


_FREE: tuple[float, Copy | None] = (0.0, None)


def simulate(tasks: Sequence[Task], world: World, ranks: Sequence[float] | None = None) -> Timeline | None:
    """The timeline of `tasks`; None where they wait for each other.

    With `ranks` a place runs, of the tasks that can start, the one of the highest; without, its tasks in the order of
    the list. A value that several devices make goes to others from the first in the list, with `ranks` from the first
    that has it.
    """
    return _Run(tasks, world, ranks).timeline()


class _Run:
    """One simulation. Events are (time, number, kind, what); all of one time come before anything starts at it."""

    def __init__(self, tasks: Sequence[Task], world: World, ranks: Sequence[float] | None) -> None:
        self.tasks, self.world, self.strict = tasks, world, ranks is None
        self.ranks = ranks if ranks is not None else [-float(at) for at in range(len(tasks))]
        self.result = Timeline([0.0] * len(tasks), [0.0] * len(tasks), cause=[None] * len(tasks))
        self.events: list[tuple[float, int, int, object]] = []
        self.number = count()
        self.waiting = [0] * len(tasks)
        self.ready: dict[tuple[int, int], list[tuple[float, int]]] = {t.place: [] for t in tasks}
        self.running: dict[tuple[int, int], int] = {}
        self.ran: dict[tuple[int, int], int] = {}
        self.ready_at = [0.0] * len(tasks)
        self.local: dict[int, list[tuple[int, float]]] = {}  # task → tasks that wait for it, and seconds on top
        self.wanted: dict[str, dict[int, list[int]]] = {}  # value → device → tasks there that wait for a copy
        self.sources: dict[str, int] = {}
        self.copied: dict[str, dict[int, list[int]]] = {}  # the same, once its copies are on their way
        self.way_out: dict[int, tuple[float, Copy | None]] = {}  # device → when its way is free, and who was on it
        self.way_in: dict[int, tuple[float, Copy | None]] = {}
        self.missing = set[str]()
        self.shared = {d for d, s in self.ready if s > 0}
        self.left: dict[int, tuple[float, float, float, int]] = {}  # task → seconds left, share, since, version
        self.speed: dict[int, float] = {}
        self._connect()

    def _connect(self) -> None:
        made: dict[tuple[int, str], int] = {}
        for at, task in enumerate(self.tasks):
            for value in task.writes:
                made.setdefault((task.place[0], value), at)
                self.sources.setdefault(value, at)
        last: dict[tuple[int, int], int] = {}
        events = set[tuple[int, tuple[int, int]]]()
        for at, task in enumerate(self.tasks):
            device = task.place[0]
            for value in task.reads:
                maker = made.get((device, value))
                if maker is not None and not (self.strict and maker >= at):
                    delay = 0.0
                    if self.tasks[maker].place != task.place:
                        delay = self.world.event
                        events.add((maker, task.place))
                    self.local.setdefault(maker, []).append((at, delay))
                    self.waiting[at] += 1
                elif value not in self.world.inputs or device != HOME:
                    self.wanted.setdefault(value, {}).setdefault(device, []).append(at)
                    self.waiting[at] += 1
            if self.strict and task.place in last:
                self.local.setdefault(last[task.place], []).append((at, 0.0))
                self.waiting[at] += 1
            last[task.place] = at
        self.result.events = len(events)
        for value in self.world.outputs:
            if value not in self.world.inputs:
                self.missing.add(value)
                if (HOME, value) not in made:
                    self.wanted.setdefault(value, {}).setdefault(HOME, [])
        self.made_home = {value: at for (device, value), at in made.items() if device == HOME}

    def timeline(self) -> Timeline | None:
        for at, number in enumerate(self.waiting):
            if number == 0:
                self._push(at)
        self._send([v for v in self.wanted if v in self.world.inputs], None, HOME, 0.0)
        self._dispatch(0.0)
        done = 0
        while self.events:
            now = self.events[0][0]
            while self.events and self.events[0][0] == now:
                _, _, kind, what = heapq.heappop(self.events)
                if kind == 0:
                    done += self._finished(what, now)  # type: ignore[arg-type]
                else:
                    self._arrived(what, now)  # type: ignore[arg-type]
            self._dispatch(now)
        return self.result if done == len(self.tasks) and not self.missing else None

    def _push(self, at: int) -> None:
        heapq.heappush(self.ready[self.tasks[at].place], (-self.ranks[at], at))

    def _dispatch(self, now: float) -> None:
        for place, ready in self.ready.items():
            if ready and place not in self.running:
                _, at = heapq.heappop(ready)
                self.running[place] = at
                self.result.start[at] = now
                if now > self.ready_at[at] and place in self.ran:
                    self.result.cause[at] = self.ran[place]
                task = self.tasks[at]
                if place[0] not in self.shared:
                    heapq.heappush(self.events, (now + task.alone, next(self.number), 0, (at, 0)))
                else:
                    share = task.busy / task.alone if task.alone else 0.0
                    self.left[at] = (task.alone, share, now, 0)
                    self._reshare(place[0], now)

    def _reshare(self, device: int, now: float) -> None:
        """Let what runs on `device` go on at the speed that is there for it now."""
        own = [at for at in self.left if self.tasks[at].place[0] == device]
        speed = 1.0 / max(1.0, sum(self.left[at][1] for at in own))
        for at in own:
            left, share, since, version = self.left[at]
            left = max(0.0, left - (now - since) * self.speed.get(device, 1.0))
            self.left[at] = (left, share, now, version + 1)
            heapq.heappush(self.events, (now + left / speed, next(self.number), 0, (at, version + 1)))
        self.speed[device] = speed

    def _finished(self, what: tuple[int, int], now: float) -> int:
        at, version = what
        task = self.tasks[at]
        if task.place[0] in self.shared:
            if at not in self.left or self.left[at][3] != version:
                return 0  # said before others came or went
            del self.left[at]
            self._reshare(task.place[0], now)
        del self.running[task.place]
        self.ran[task.place] = at
        self.result.finish[at] = now
        for other, delay in self.local.get(at, ()):
            if delay:
                heapq.heappush(self.events, (now + delay, next(self.number), 1, (at, other)))
            else:
                self._release(other, at, now)
        mine = []
        for value in task.writes:
            if value in self.missing and self.made_home.get(value) == at:
                self._output(value, at, now)
            if value in self.wanted and (not self.strict or self.sources[value] == at):
                mine.append(value)
        self._send(mine, at, task.place[0], now)
        return 1

    def _send(self, values: list[str], source: int | None, device: int, now: float) -> None:
        """Put copies of `values` on their way to all devices that want them, the most urgent first."""
        copies = [
            (-max((self.ranks[at] for at in tasks), default=float("-inf")), target, value)
            for value in values for target, tasks in self.wanted[value].items() if target != device
        ]  # fmt: skip
        for _, target, value in sorted(copies):
            free, behind = max(self.way_in.get(target, _FREE), self.way_out.get(device, _FREE), key=lambda way: way[0])
            begin = max(now, free)
            moved = self.world.seconds(value)
            arrival = begin + moved + self.world.link.latency
            copy = Copy(value, source, device, target, begin, arrival, behind if free > now else None)
            self.way_in[target] = self.way_out[device] = (begin + moved, copy)
            self.result.copies.append(copy)
            heapq.heappush(self.events, (copy.arrival, next(self.number), 1, copy))
        for value in values:
            self.copied[value] = self.wanted.pop(value)

    def _arrived(self, what: "Copy | tuple[int, int]", now: float) -> None:
        if isinstance(what, tuple):
            self._release(what[1], what[0], now)
            return
        for at in self.copied[what.value].get(what.target, ()):
            self._release(at, what, now)
        if what.target == HOME and what.value in self.missing and what.value not in self.made_home:
            self._output(what.value, what, now)

    def _release(self, at: int, cause: "int | Copy", now: float) -> None:
        self.waiting[at] -= 1
        self.result.cause[at] = cause
        if self.waiting[at] == 0:
            self.ready_at[at] = now
            self._push(at)

    def _output(self, value: str, cause: "int | Copy", now: float) -> None:
        self.missing.discard(value)
        if now >= self.result.end:
            self.result.end, self.result.last = now, cause
