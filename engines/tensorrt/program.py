"""What a request enqueues: parts, copies and waits, in order, each on its stream. Pure.

A network that is whole is one part, whose copies go by the same stream: there is nothing for them to overlap with.

A program is written once for each choice of which of the caller's arrays lie in GPU memory; a lane runs it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from ..schedule import Place, Schedule

Value = tuple[int | None, str]
"""What is read and written: the step that makes it, None for an input of the network, and its name."""


class Slot(NamedTuple):
    """Where a value lies: in the memory of a CUDA device, or for None in page-locked memory of the host.

    `passed`: an input of the network once more, as the caller's array for an output.
    """

    value: Value
    device: int | None
    passed: bool = False


class Track(NamedTuple):
    """A stream: the CUDA device it is of, and what is its own, a place of the plan or a way from memory to memory."""

    device: int
    place: Place | None
    way: tuple[int | None, int | None] | None = None


class Work(NamedTuple):
    """What is enqueued on a track: the part of a step, a copy from slot to slot, or nothing but the wait.

    `after` are the positions of the work of other tracks that it waits for.
    """

    track: Track
    after: tuple[int, ...]
    step: int | None = None
    copy: tuple[int, int] | None = None


@dataclass(frozen=True)
class Program:
    """All that a request enqueues, in order; the first and the last work are of one track, where it begins and ends.

    `ends` says where each input of the network, then each output, lies; `bound` where the tensors of each step do.
    `marked` is the work that other tracks wait for.
    """

    slots: tuple[Slot, ...]
    works: tuple[Work, ...]
    ends: tuple[int, ...]
    bound: tuple[Mapping[str, int], ...]
    marked: frozenset[int]


@dataclass(frozen=True)
class Layout:
    """What the programs of a split have in common.

    `devices` are the CUDA devices of the plan's; `direct` the ordered pairs of them between which memory is copied
    without the host.
    """

    schedule: Schedule
    devices: tuple[int, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    direct: frozenset[tuple[int, int]] | None = None

    @property
    def home(self) -> int:
        """The CUDA device of the caller's arrays."""
        return self.devices[0]

    @property
    def home_track(self) -> Track:
        """Where a request begins and ends: a stream that runs parts, if one of that device does."""
        place = next((place for place in self.schedule.places if place[0] == 0), (0, 0))
        return Track(self.home, place)

    def track(self, step: int) -> Track:
        """Where a step runs."""
        place = self.schedule.steps[step].place
        return Track(self.devices[place[0]], place)

    def way(self, source: int | None, target: int | None) -> Track:
        """Where is copied: on the device that it comes from, as to write elsewhere is faster than to read there."""
        if len(self.schedule.steps) == 1:
            return self.home_track
        device = target if source is None else source
        assert device is not None, "the host copies nothing to itself"
        return Track(device, None, (source, target))

    def ways(self) -> list[tuple[int, int]]:
        """The ordered pairs of CUDA devices between which something is to be copied, wherever the caller's arrays are.

        Only of a layout in which all are `direct`.
        """
        program = Writer(self, (True,) * (len(self.inputs) + len(self.outputs))).program()
        ways = [work.track.way for work in program.works if work.track.way]
        return sorted({(a, b) for a, b in ways if a is not None and b is not None and a != b})


class Writer:
    """Writes the program of a layout, for calls whose inputs and outputs are in GPU memory where `on_gpu` says so."""

    def __init__(self, layout: Layout, on_gpu: tuple[bool, ...]) -> None:
        self._layout, self._on_gpu = layout, on_gpu
        self._slots: dict[Slot, int] = {}
        self._works: list[Work] = []
        self._filled: dict[Slot, int] = {}  # by which work
        self._made: dict[Value, Slot] = {}
        self._tails: dict[Track, int] = {}
        self._waited: dict[Track, dict[Track, int]] = {}

    def program(self) -> Program:
        """Each value goes where it is wanted as soon as it is made, so that it is there when it is read."""
        layout, home = self._layout, self._layout.home
        self._enqueue(layout.home_track, ())
        wanted = self._wanted()
        for name, on_gpu in zip(layout.inputs, self._on_gpu, strict=False):
            self._make((None, name), home if on_gpu else None, 0, wanted)
        ends = [self._slots[self._made[None, name]] for name in layout.inputs]
        results = layout.schedule.results
        bound = []
        for at, step in enumerate(layout.schedule.steps):
            track = layout.track(at)
            reads = {name: Slot((source, name), track.device) for name, source in step.sources.items()}
            position = self._enqueue(track, [self._filled[slot] for slot in reads.values()], step=at)
            for spec in step.part.outputs:
                self._make((at, spec.name), track.device, position, wanted)
            writes = {spec.name: Slot((at, spec.name), track.device) for spec in step.part.outputs}
            bound.append({name: self._slots[slot] for name, slot in (reads | writes).items()})
        for name, on_gpu in zip(layout.outputs, self._on_gpu[len(layout.inputs) :], strict=True):
            slot = Slot((results[name], name), home if on_gpu else None)
            if on_gpu and results[name] is None:
                slot = slot._replace(passed=True)
                self._copy(self._made[slot.value], slot)
            ends.append(self._slots[slot])
        self._enqueue(layout.home_track, self._tails.values())
        marked = frozenset(at for work in self._works for at in work.after)
        return Program(tuple(self._slots), tuple(self._works), tuple(ends), tuple(bound), marked)

    def _wanted(self) -> dict[Value, dict[int | None, None]]:
        """The memories in which each value is read, in order."""
        layout, wanted = self._layout, dict[Value, dict[int | None, None]]()
        for at, step in enumerate(layout.schedule.steps):
            for name, source in step.sources.items():
                wanted.setdefault((source, name), {})[layout.track(at).device] = None
        for name, on_gpu in zip(layout.outputs, self._on_gpu[len(layout.inputs) :], strict=True):
            source = layout.schedule.results[name]
            if source is not None or not on_gpu:
                wanted.setdefault((source, name), {})[layout.home if on_gpu else None] = None
        return wanted

    def _make(
        self, value: Value, device: int | None, position: int, wanted: Mapping[Value, Iterable[int | None]]
    ) -> None:
        """A value that work at a position makes on a device, and its way to all others."""
        self._made[value] = slot = Slot(value, device)
        self._slots[slot] = len(self._slots)
        self._filled[slot] = position
        for other in wanted.get(value, ()):
            self._bring(value, other)

    def _bring(self, value: Value, device: int | None) -> None:
        source, slot = self._made[value], Slot(value, device)
        if slot in self._filled:
            return
        ends, direct = (source.device, device), self._layout.direct
        if None not in ends and direct is not None and ends not in direct:
            self._bring(value, None)
            source = Slot(value, None)
        self._copy(source, slot)

    def _copy(self, source: Slot, target: Slot) -> None:
        self._slots[target] = len(self._slots)
        copy = (self._slots[source], self._slots[target])
        track = self._layout.way(source.device, target.device)
        self._filled[target] = self._enqueue(track, [self._filled[source]], copy=copy)

    def _enqueue(
        self, track: Track, needs: Iterable[int], step: int | None = None, copy: tuple[int, int] | None = None
    ) -> int:
        """Work that waits for what it needs of other tracks, and does not already wait for; a new one for the first."""
        waited, latest = self._waited.setdefault(track, {}), dict[Track, int]()
        for at in needs if track in self._tails or not self._works else (0, *needs):
            other = self._works[at].track
            if other != track and at > waited.get(other, -1):
                latest[other] = waited[other] = at
        self._tails[track] = len(self._works)
        self._works.append(Work(track, tuple(sorted(latest.values())), step, copy))
        return self._tails[track]
