"""How long a plan takes, before anything of it is built: its timeline, and what decides it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from .cost import Cost, Device, Link, Sizes
from .plan import Plan
from .simulate import HOME, Copy, Task, Timeline, World, score_of, simulate
from .wiring import Wiring

FREE = Link(math.inf, 0.0, "free")


@dataclass(frozen=True)
class PartTime:
    """One part: `share` is its part of the whole network's multiply-accumulates; times in seconds from the start."""

    name: str
    device: int
    stream: int
    share: float
    start: float
    finish: float
    critical: bool


@dataclass(frozen=True)
class Edge:
    """A value on its way from a part, or as an input of the network from device 0 (`source` None), to a device."""

    value: str
    source: str | None
    device: int
    bytes: float
    begin: float
    arrival: float
    critical: bool


@dataclass(frozen=True)
class Prediction:
    """What a plan is expected to take, in seconds, against the `whole` network as one part on one device.

    `bound` is the speed-up with copies, launches and waits for free; `mac_path` the share of the whole's
    multiply-accumulates on the longest path of such a run, streams sharing nothing; `break_even` the seconds that the
    whole must take for the plan to be as fast, all else being equal (infinite: it never is); `work` all parts'
    multiply-accumulates over the whole's: beyond 1 what is computed again; `score` what plans are compared by
    (`simulate.score_of`).
    """

    seconds: float
    whole: float
    parts: tuple[PartTime, ...]
    edges: tuple[Edge, ...]
    critical: tuple[str, ...]
    bound: float
    mac_path: float
    break_even: float
    work: float
    score: float

    @property
    def speedup(self) -> float:
        """The whole's seconds over the plan's."""
        return self.whole / self.seconds if self.seconds else 1.0

    @property
    def sent(self) -> float:
        """Bytes over links."""
        return sum(edge.bytes for edge in self.edges)


def prediction_of_json(data: Mapping[str, Any]) -> Prediction:
    """The prediction that a manifest holds as `plain_json` made it. Raises KeyError or TypeError for anything else."""
    if not isinstance(data, Mapping):
        raise TypeError("a prediction is an object")
    numbers = {key: float(value) for key, value in data.items() if key not in ("parts", "edges", "critical")}
    return Prediction(
        parts=tuple(PartTime(**part) for part in data["parts"]),
        edges=tuple(Edge(**edge) for edge in data["edges"]),
        critical=tuple(data["critical"]),
        **numbers,
    )


@dataclass(frozen=True)
class Machine:
    """What a plan runs on, what each node and value of the network is there, and `World.worth`."""

    device: Device
    link: Link
    costs: Mapping[str, Cost]
    sizes: Sizes
    worth: float = 0.0


def predict(plan: Plan, wiring: Wiring, machine: Machine) -> Prediction:
    """The prediction for a plan without problems."""
    tasks = tasks_of_plan(plan, wiring, machine)
    whole = whole_cost(wiring, machine)
    timeline = _timeline(tasks, wiring, machine, 1.0, machine.link)
    seconds = whole.alone + machine.device.part
    macs = [_macs(plan, at, wiring, machine) for at in range(len(tasks))]
    steps = timeline.critical()
    return Prediction(
        seconds=timeline.end,
        whole=seconds,
        parts=tuple(
            PartTime(
                part.name, part.device, part.stream, macs[at] / (whole.macs or 1),
                timeline.start[at], timeline.finish[at], at in [s for s in steps if isinstance(s, int)],
            )
            for at, part in enumerate(plan.parts)
        ),
        edges=tuple(_edge(copy, plan, machine, any(copy is step for step in steps)) for copy in timeline.copies),
        critical=tuple(_name(step, plan) for step in steps),
        bound=_bound(tasks, wiring, machine, whole),
        mac_path=_mac_path(tasks, macs, wiring, machine, whole),
        break_even=_break_even(tasks, wiring, machine, whole),
        work=sum(macs) / (whole.macs or 1),
        score=score_of(timeline, world_of(wiring, machine), len(tasks)),
    )  # fmt: skip


def whole_cost(wiring: Wiring, machine: Machine) -> Cost:
    """All nodes, one after another."""
    each = [machine.costs[op.name] for op in wiring.ops]
    return Cost(sum(c.alone for c in each), sum(c.busy for c in each), sum(c.macs for c in each))


def tasks_of_plan(plan: Plan, wiring: Wiring, machine: Machine) -> list[Task]:
    """A task for each part: the nodes that its writes take, one after another."""
    tasks = []
    for part in plan.parts:
        each = [machine.costs[wiring.ops[at].name] for at in wiring.needed(part.writes, part.reads)[0]]
        alone, busy = sum(c.alone for c in each), sum(c.busy for c in each)
        tasks.append(Task((part.device, part.stream), alone, busy, part.reads, part.writes))
    return tasks


def _macs(plan: Plan, at: int, wiring: Wiring, machine: Machine) -> int:
    ops, _ = wiring.needed(plan.parts[at].writes, plan.parts[at].reads)
    return sum(machine.costs[wiring.ops[n].name].macs for n in ops)


def world_of(wiring: Wiring, machine: Machine) -> World:
    """What lies around the parts of a plan; a value of unknown size counts as empty."""
    sizes = {value: 0.0 for value in machine.sizes.unknown} | dict(machine.sizes.bytes)
    return World(sizes, frozenset(wiring.inputs), wiring.outputs, machine.link, machine.device.event, machine.worth)


def _timeline(tasks: list[Task], wiring: Wiring, machine: Machine, scale: float, link: Link) -> Timeline:
    """The timeline with all computing taking `scale` times as long."""
    part = machine.device.part
    scaled = [replace(t, alone=t.alone * scale + part, busy=t.busy * scale) for t in tasks]
    timeline = simulate(scaled, replace(world_of(wiring, machine), link=link))
    assert timeline is not None, "a plan without problems ends"
    return timeline


def _bound(tasks: list[Task], wiring: Wiring, machine: Machine, whole: Cost) -> float:
    free = replace(machine, device=replace(machine.device, part=0.0, event=0.0))
    end = _timeline(tasks, wiring, free, 1.0, FREE).end
    return whole.alone / end if end else 1.0


def _mac_path(tasks: list[Task], macs: list[int], wiring: Wiring, machine: Machine, whole: Cost) -> float:
    free = replace(machine, device=replace(machine.device, part=0.0, event=0.0))
    products = [replace(t, alone=float(m), busy=0.0) for t, m in zip(tasks, macs, strict=True)]
    return _timeline(products, wiring, free, 1.0, FREE).end / (whole.macs or 1)


def _break_even(tasks: list[Task], wiring: Wiring, machine: Machine, whole: Cost) -> float:
    """The whole's seconds at which end(s) = whole(s), where computing takes s times as long: end is convex in s."""

    def loss(scale: float) -> float:
        return _timeline(tasks, wiring, machine, scale, machine.link).end - whole.alone * scale - machine.device.part

    low, high = 1e-6, 1e6
    if len(tasks) == 1 or not whole.alone or loss(high) >= 0:
        return math.inf
    if loss(low) <= 0:
        return 0.0
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if loss(middle) > 0 else (low, middle)
    return whole.alone * high + machine.device.part


def _edge(copy: Copy, plan: Plan, machine: Machine, critical: bool) -> Edge:
    source = None if copy.source is None else plan.parts[copy.source].name
    size = machine.sizes.bytes.get(copy.value, 0.0)
    return Edge(copy.value, source, copy.target, size, copy.begin, copy.arrival, critical)


def _name(step: int | Copy, plan: Plan) -> str:
    if isinstance(step, Copy):
        return f"{step.value} → {'home' if step.target == HOME else f'device {step.target}'}"
    return plan.parts[step].name
