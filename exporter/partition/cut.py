"""Units in their places as the parts of a plan: as few as possible, unless a part would wait or make others wait."""

from collections.abc import Sequence
from dataclasses import dataclass

from .plan import Part, Plan
from .predict import Machine, tasks_of_plan, world_of
from .search import Found, Place
from .simulate import Task, Timeline, World, score_of, simulate
from .units import Unit
from .wiring import Wiring

SWEEPS = 3
"""How often every two neighbours are tried as one."""


@dataclass(frozen=True)
class _Draft:
    """Units that run one after another in one place: seconds alone and of all of the device, values in and out."""

    place: Place
    units: tuple[int, ...]
    alone: float
    busy: float
    reads: frozenset[str]
    writes: frozenset[str]

    def joined(self, other: "_Draft") -> "_Draft":
        """Both as one, `other` after this one."""
        return _Draft(
            self.place,
            self.units + other.units,
            self.alone + other.alone,
            self.busy + other.busy,
            self.reads | (other.reads - self.writes),
            self.writes | other.writes,
        )


def plan_of_placement(found: Found, units: Sequence[Unit], wiring: Wiring, machine: Machine) -> Plan:
    """The plan with the units as they were placed.

    Each stretch of units in one place is one part, unless joining two makes the end later: one of them could send
    earlier what it makes, or start before what the other waits for. Devices are numbered without gaps, 0 stays 0.
    """
    world = world_of(wiring, machine)
    drafts, timeline = _joined(_drafts(found, units), world, machine.device.part)
    order = sorted(range(len(drafts)), key=lambda at: (timeline.finish[at], timeline.start[at], at))
    plan = _plan([drafts[at] for at in order], wiring)
    part = machine.device.part
    tasks = [Task(t.place, t.alone + part, t.busy, t.reads, t.writes) for t in tasks_of_plan(plan, wiring, machine)]
    final = simulate(tasks, world)
    assert final is not None, "parts in the order in which they end do not wait for each other"
    return _numbered(_sorted(plan, final))


def _drafts(found: Found, units: Sequence[Unit]) -> list[_Draft]:
    """The tasks in the order in which they end, those as one that follow each other with nothing coming or going."""
    timeline = found.timeline
    order = sorted(range(len(found.tasks)), key=lambda t: (timeline.finish[t], timeline.start[t], t))
    sent = {(copy.source, copy.value) for copy in timeline.copies}
    homes: dict[str, set[Place]] = {}
    for at, place in found.tasks:
        for value in units[at].reads:
            homes.setdefault(value, set()).add(place)
    drafts: list[_Draft] = []
    last: dict[Place, int] = {}
    leaving: dict[Place, bool] = {}
    for task in order:
        at, place = found.tasks[task]
        unit = units[at]
        draft = _Draft(place, (at,), unit.alone, unit.busy, frozenset(unit.reads), frozenset(unit.writes))
        before = last.get(place)
        if before is not None and not leaving[place] and draft.reads <= drafts[before].reads | drafts[before].writes:
            drafts[before] = drafts[before].joined(draft)
        else:
            last[place] = len(drafts)
            drafts.append(draft)
        leaving[place] = any((task, v) in sent or homes.get(v, {place}) != {place} for v in unit.writes)
    return drafts


def _joined(drafts: list[_Draft], world: World, part: float) -> tuple[list[_Draft], Timeline]:
    """As few drafts as the score of their timeline allows."""
    best = _timeline(drafts, world, part)
    assert best is not None, "a placement that ends makes drafts that end"
    score = score_of(best, world, len(drafts))
    for _ in range(SWEEPS):
        last: dict[Place, int] = {}
        at, going = 0, False
        while at < len(drafts):
            one = last.get(drafts[at].place)
            if one is not None:
                trial = [*drafts[:one], *drafts[one + 1 : at], drafts[one].joined(drafts[at]), *drafts[at + 1 :]]
                timeline = _timeline(trial, world, part)
                if timeline is not None and score_of(timeline, world, len(trial)) <= score:
                    best, score, drafts, going = timeline, score_of(timeline, world, len(trial)), trial, True
                    last = {place: n - (n > one) for place, n in last.items()}
                    at -= 1
            last[drafts[at].place] = at
            at += 1
        if not going:
            break
    return drafts, best


def _timeline(drafts: Sequence[_Draft], world: World, part: float) -> Timeline | None:
    """None where drafts wait for each other."""
    tasks = [Task(d.place, d.alone + part, d.busy, tuple(sorted(d.reads)), tuple(sorted(d.writes))) for d in drafts]
    first = {value: at for at, draft in reversed(list(enumerate(drafts))) for value in draft.writes}
    if any(first.get(value, -1) >= at for at, draft in enumerate(drafts) for value in draft.reads):
        return None
    return simulate(tasks, world)


def _plan(drafts: Sequence[_Draft], wiring: Wiring) -> Plan:
    """The parts of the drafts, each writing what another part or the network's user gets from it."""
    bare = Plan(
        tuple(
            Part(str(at), *draft.place, tuple(sorted(draft.reads)), tuple(sorted(draft.writes)))
            for at, draft in enumerate(drafts)
        ),
        1,
    )
    wanted: list[set[str]] = [set() for _ in drafts]
    for reader, draft in enumerate(drafts):
        for value in draft.reads - set(wiring.inputs):
            source = bare.writer(value, reader)
            if source is not None:
                wanted[source].add(value)
    for value in wiring.outputs:
        source = bare.source(value, 0)
        if source is not None:
            wanted[source].add(value)
    parts = []
    for part, values in zip(bare.parts, wanted, strict=True):
        _, ends = wiring.needed(values, part.reads)
        used = tuple(v for v in part.reads if v in ends)
        parts.append(Part(part.name, part.device, part.stream, used, tuple(sorted(values))))
    return Plan(tuple(part for part in parts if part.writes), 1)


def _sorted(plan: Plan, timeline: Timeline) -> Plan:
    """The parts in the order in which they end."""
    order = sorted(range(len(plan.parts)), key=lambda at: (timeline.finish[at], timeline.start[at], at))
    return Plan(tuple(plan.parts[at] for at in order), plan.devices, plan.streams)


def _numbered(plan: Plan) -> Plan:
    """Devices and streams without gaps, the parts named after them and their order there."""
    devices = {device: n for n, device in enumerate(sorted({0, *(part.device for part in plan.parts)}))}
    streams = {stream: n for n, stream in enumerate(sorted({0, *(part.stream for part in plan.parts)}))}
    count: dict[Place, int] = {}
    parts = []
    for part in plan.parts:
        device, stream = devices[part.device], streams[part.stream]
        number = count[device, stream] = count.get((device, stream), -1) + 1
        name = f"device{device}" + (f".stream{stream}" if len(streams) > 1 else "") + f".{number}"
        parts.append(Part(name, device, stream, part.reads, part.writes))
    return Plan(tuple(parts), len(devices), len(streams))
