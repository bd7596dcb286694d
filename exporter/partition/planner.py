"""A network → the plan by which it ends soonest on so many devices, or so many streams of one; or why it should not."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from ..errors import PlanError
from .cost import A100, LINKS, Cost, Device, Link, costs_of_nodes, sizes_of_values, works_of_model
from .cut import plan_of_placement
from .plan import Part, Plan
from .predict import Machine, Prediction, predict, whole_cost, world_of
from .problems import problems_of_plan
from .search import EFFORT, Found, Search
from .units import Unit, units_of_wiring
from .wiring import Wiring, wiring_of

PLACEMENTS = ("auto", "recompute", "transfer")
SCALES = (1.0, 8.0, 64.0, 1024.0)
"""How many times slower a device is tried with, where the one there is too fast for any split to pay."""
PATH = 0.98
"""The share of a network's time on one path from which on it is a chain."""


@dataclass(frozen=True)
class Proposal:
    """The best plan found and what it takes. `plan` is None where the network has nothing to run side by side.

    `refusal` says in one line why it does not pay; None where it does.
    """

    plan: Plan | None
    prediction: Prediction | None
    refusal: str | None

    def accepted(self, *, force: bool = False) -> Plan:
        """The plan. Raises PlanError where it does not pay, unless forced, and where there is none."""
        if self.plan is None or (self.refusal and not force):
            raise PlanError(str(self.refusal))
        return self.plan


@dataclass(frozen=True)
class Network:
    """A prepared model, who reads what in it, and what each node takes on a machine."""

    wiring: Wiring
    machine: Machine


def network_of_model(
    model: ir.Model,
    *,
    link: Link = LINKS["pcie"],
    device: Device = A100,
    profile: Mapping[str, float] | None = None,
    axes: Mapping[str, int] | None = None,
) -> Network:
    """What the planner goes by. Raises PlanError where the profile is not of this network.

    Args:
        model: `prepared`; it stays as it is.
        link: between any two devices.
        device: of which all are.
        profile: node → seconds where it was measured.
        axes: the size of each open axis; 1 where it is not given.

    """
    wiring = wiring_of(model)
    sizes = sizes_of_values(wiring, axes)
    costs = costs_of_nodes(works_of_model(model, wiring, sizes), device, profile)
    return Network(wiring, Machine(device, link, costs, sizes))


WORTH = 0.1
"""What one more copy, event or part must save, in the mean time of a unit."""


def propose(
    network: Network,
    *,
    devices: int = 1,
    streams: int = 1,
    placement: str = "auto",
    every: bool = False,
    effort: int = EFFORT,
) -> Proposal:
    """The best plan for `devices`, or for `streams` of one device.

    Args:
        network: from `network_of_model`.
        devices: that may be used, one stream each.
        streams: of device 0, where `devices` is 1. They share its multiprocessors and memory, so that beside each other
            two kernels gain what one alone leaves idle; no copies, and nothing computed twice.
        placement: "transfer": nothing is computed twice; "recompute": whatever several devices read, with all it takes,
            is computed on each; "auto": what ends sooner, value by value.
        every: all of the `devices` are used, if any plan uses them all, even where fewer end sooner.
        effort: tasks that the simulations may run, for each number of places.

    Raises:
        PlanError: the arguments make no sense, or the network's outputs are not computed from its inputs.

    """
    if devices < 1 or streams < 1 or (devices > 1 and streams > 1):
        found = f"{devices} devices of {streams} streams"
        raise PlanError(f"{found}; wanted several devices of one stream each, or several streams of one device")
    if placement not in PLACEMENTS:
        raise PlanError(f"placement {placement!r}; wanted one of {', '.join(PLACEMENTS)}")
    whole = whole_plan(network)
    problems = problems_of_plan(whole, network.wiring)
    if problems:
        raise PlanError(f"the network cannot be split: {problems[0]}; simplify it first")
    if devices * streams == 1:
        return Proposal(whole, predict(whole, network.wiring, network.machine), None)
    machine = network.machine
    hop = 2 * machine.device.part + (machine.link.latency if devices > 1 else 2 * machine.device.event)
    plan: Plan | None = None
    scales = SCALES if devices > 1 else SCALES[:1] if _fills(network) else SCALES[:2]
    for scale in scales:
        slower = _slower(network, scale)
        units = units_of_wiring(network.wiring, slower.machine.costs, hop)
        plans = _plans(slower, units, devices, streams, placement, effort, every=every)
        full = [each for each in plans if each.devices == devices] if every else plans
        plan = next(iter(full), plan or next(iter(plans), None))
        if full:
            break
    if plan is None:
        return Proposal(None, None, _nothing(network, streams))
    prediction = predict(plan, network.wiring, machine)
    return Proposal(plan, prediction, _refusal(prediction))


def judged(plan: Plan, network: Network) -> Proposal:
    """A plan that someone else made, as a proposal. Raises PlanError with everything wrong with it."""
    problems = problems_of_plan(plan, network.wiring)
    if problems:
        raise PlanError(f"the plan does not fit the network: {'; '.join(problems)}; mend it, or give --devices")
    prediction = predict(plan, network.wiring, network.machine)
    return Proposal(plan, prediction, _refusal(prediction))


def _fills(network: Network) -> bool:
    """Whether the kernels, one after another, leave next to nothing of the device idle."""
    whole = whole_cost(network.wiring, network.machine)
    return whole.busy >= PATH * whole.alone


def whole_plan(network: Network) -> Plan:
    """All of the network as one part."""
    wiring = network.wiring
    writes = tuple(v for v in dict.fromkeys(wiring.outputs) if v not in wiring.inputs)
    _, ends = wiring.needed(writes, ())
    return Plan((Part("whole", 0, 0, tuple(v for v in wiring.inputs if v in ends), writes),), 1)


def _plans(
    network: Network,
    units: Sequence[Unit],
    devices: int,
    streams: int,
    placement: str,
    effort: int,
    *,
    every: bool = False,
) -> list[Plan]:
    """The plans that the searches end at, less those on one device in one stream; what ends soonest comes first.

    `every`: one on all of the devices is looked for too, from the best on fewer.
    """
    if len(units) == 1:
        return []
    machine = replace(network.machine, worth=WORTH * sum(unit.alone for unit in units) / len(units))
    world = world_of(network.wiring, machine)
    world = replace(world, bytes={v: s for v, s in machine.sizes.bytes.items() if v not in network.wiring.soft})
    found: list[Found] = []
    both = devices > 1 and placement == "auto"
    share = effort // (1 + both)
    for count in range(2, devices * streams + 1):  # what is best on fewer places is where the search for more begins
        places = [(n, 0) if devices > 1 else (0, n) for n in range(count)]
        for duplicate in (False, True) if both else (False,):
            search = Search(units, places, world, share, recompute=placement == "recompute")
            best = search.best(duplicate, [each.placement for each in found[-2:]])
            if best is not None:
                found.append(best)
    plans = [plan for each in found for plan in _spread(plan_of_placement(each, units, network.wiring, machine))]
    if every and plans and max(plan.devices for plan in plans) < devices:
        search = Search(units, places, world, share, recompute=placement == "recompute")
        all_used = search.best_on_all(min(found, key=lambda each: each.score).placement, both)
        if all_used is not None:
            plans.append(plan_of_placement(all_used, units, network.wiring, machine))
    times = [predict(plan, network.wiring, machine) for plan in plans]
    ranked = sorted(range(len(plans)), key=lambda n: (times[n].score, times[n].sent, n))
    return [plans[n] for n in ranked]


def _spread(plan: Plan) -> list[Plan]:
    """The plan, unless all of it is in one place."""
    return [plan] if len({(part.device, part.stream) for part in plan.parts}) > 1 else []


def _slower(network: Network, scale: float) -> Network:
    """The network on a device that takes `scale` times as long for each node."""
    costs = {name: Cost(c.alone * scale, c.busy * scale, c.macs) for name, c in network.machine.costs.items()}
    return replace(network, machine=replace(network.machine, costs=costs))


def _refusal(prediction: Prediction) -> str | None:
    """Why a plan does not pay."""
    if prediction.speedup > 1.0:
        return None
    found = f"the split takes {micro(prediction.seconds)}, the whole {micro(prediction.whole)}"
    if prediction.break_even == math.inf:
        return f"{found}, and no network of this shape gains by it; leave it whole, or force it"
    return f"{found}; it pays from {micro(prediction.break_even)} on: leave it whole, or force it"


def _nothing(network: Network, streams: int) -> str:
    """Why there is nothing worth running side by side."""
    wiring = network.wiring
    costs = network.machine.costs
    longest: list[float] = []
    for op in wiring.ops:
        behind = [longest[wiring.maker[v]] for v in op.reads if v in wiring.maker]
        longest.append(costs[op.name].alone + max(behind, default=0.0))
    whole = whole_cost(wiring, network.machine)
    path = max(longest, default=0.0)
    if path >= PATH * whole.alone:
        reason = "the network is a chain, each value waiting for the one before it"
    elif streams > 1 and _fills(network):
        reason = f"its kernels fill {whole.busy / whole.alone:.0%} of the device as it is, which streams would share"
    else:
        reason = "no branch is worth running elsewhere"
    share = path / whole.alone if whole.alone else 1.0
    return f"{reason}: {share:.1%} of its {micro(whole.alone)} lies on one path; leave it whole"


def micro(seconds: float) -> str:
    """Seconds as a person reads them."""
    return f"{seconds * 1e6:.0f} µs" if seconds < 1e-3 else f"{seconds * 1e3:.2f} ms"
