"""A graph as the few units that are worth placing: a stretch between a fork and its join is one where it is too short.

A region has one way in, u, and one way out, w: u dominates w, and w all that u leads to. Beside each other its
branches save at most

    gain = Σ seconds of the region − seconds of its longest path

and a branch that runs elsewhere costs a hop at least. Where the gain is smaller, the region is one unit; so is a chain,
whose gain is 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .cost import Cost
from .wiring import Wiring


@dataclass(frozen=True)
class Unit:
    """Ops, by their positions, that run in one place, and the values that go in and out.

    `reads` are values of other units and inputs of the network; `writes` what other units or the network's user reads.
    """

    ops: tuple[int, ...]
    alone: float
    busy: float
    macs: int
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    random: bool = False


def units_of_wiring(wiring: Wiring, costs: Mapping[str, Cost], hop: float) -> tuple[Unit, ...]:
    """The units of a graph in an order in which they can run, where to use another place costs `hop` seconds."""
    groups, reads = _groups_of_ops(wiring)
    seconds = [sum(costs[wiring.ops[at].name].alone for at in group) for group in groups]
    while True:
        edges = _edges(wiring, groups, reads)
        regions = _regions(edges, seconds, hop)
        if not regions:
            return _units(wiring, costs, groups, reads)
        groups, seconds = _merged(groups, seconds, regions, edges)


def _groups_of_ops(wiring: Wiring) -> tuple[list[tuple[int, ...]], dict[int, set[str]]]:
    """Each op that makes a value worth sending, with those before it that make what is not; what each group reads.

    `reads` is by the last op of a group, which no other group has.
    """
    groups, reads = [], {}
    for at, op in enumerate(wiring.ops):
        if at not in wiring.folded and not set(op.writes) <= wiring.soft:
            behind, ends = _behind(at, wiring)
            groups.append((*sorted(behind), at))
            reads[at] = ends
    return groups, reads


def _behind(at: int, wiring: Wiring) -> tuple[set[int], set[str]]:
    """The ops that an op reads soft values of, directly or not, and what all of them read that is not soft."""
    found, ends = set[int](), set[str]()
    stack = list(wiring.ops[at].reads)
    while stack:
        value = stack.pop()
        if value not in wiring.soft:
            ends.add(value)
        elif wiring.maker[value] not in found and wiring.maker[value] not in wiring.folded:
            found.add(wiring.maker[value])
            stack.extend(wiring.ops[wiring.maker[value]].reads)
    return found, ends


@dataclass(frozen=True)
class _Edges:
    """Who comes after and before each group; the last two are the network's inputs (-2) and its user (-1)."""

    after: list[set[int]]
    before: list[set[int]]


def _edges(wiring: Wiring, groups: Sequence[tuple[int, ...]], reads: Mapping[int, set[str]]) -> _Edges:
    count = len(groups)
    root, user = count, count + 1
    group_of = {at: number for number, group in enumerate(groups) for at in group if at in reads}
    after: list[set[int]] = [set() for _ in range(count + 2)]
    before: list[set[int]] = [set() for _ in range(count + 2)]
    ends = [(number, at) for number, group in enumerate(groups) for at in group if at in reads]
    for number, at in ends:
        for value in reads[at]:
            source = group_of[wiring.maker[value]] if value in wiring.maker else root
            if source != number:
                after[source].add(number)
                before[number].add(source)
    made = {group_of[wiring.maker[v]] for v in wiring.outputs if v in wiring.maker}
    for number in range(count):
        if not before[number]:
            after[root].add(number)
            before[number].add(root)
        if number in made or not after[number]:
            after[number].add(user)
            before[user].add(number)
    return _Edges(after, before)


def _regions(edges: _Edges, seconds: Sequence[float], hop: float) -> list[set[int]]:
    """Disjoint regions of two groups and more whose gain is at most `hop`, the smallest first."""
    count = len(seconds)
    root, user = count, count + 1
    order = [root, *range(count), user]
    dominator = _dominators(order, edges.before)
    follower = _dominators(order[::-1], edges.after)
    found = []
    for at in order[:-1]:
        end = follower[at]
        if dominator[end] == at:
            region = _between(at, end, edges.after) | {at, end}
            region -= {root, user}
            if len(region) > 1:
                found.append(region)
    taken, chosen = set[int](), []
    for region in sorted(found, key=lambda r: (len(r), min(r))):
        if not taken & region and _gain(region, edges.before, seconds) <= hop:
            taken |= region
            chosen.append(region)
    return chosen


def _dominators(order: Sequence[int], before: Sequence[set[int]]) -> dict[int, int]:
    """Of each in `order`, the last before it that every way to it passes; of the first, itself."""
    first = order[0]
    dominator, depth = {first: first}, {first: 0}
    for at in order[1:]:
        common: int | None = None
        for other in before[at]:
            common = other if common is None else _meet(common, other, dominator, depth)
        dominator[at] = first if common is None else common
        depth[at] = depth[dominator[at]] + 1
    return dominator


def _meet(a: int, b: int, dominator: Mapping[int, int], depth: Mapping[int, int]) -> int:
    while a != b:
        if depth[a] >= depth[b]:
            a = dominator[a]
        else:
            b = dominator[b]
    return a


def _between(start: int, end: int, after: Sequence[set[int]]) -> set[int]:
    """What `start` leads to before `end`."""
    found, stack = set[int](), [start]
    while stack:
        new = after[stack.pop()] - found - {end}
        found |= new
        stack.extend(new)
    return found


def _gain(region: set[int], before: Sequence[set[int]], seconds: Sequence[float]) -> float:
    longest: dict[int, float] = {}
    for at in sorted(region):
        longest[at] = seconds[at] + max((longest[b] for b in before[at] if b in longest), default=0.0)
    return sum(seconds[at] for at in region) - max(longest.values())


def _merged(
    groups: Sequence[tuple[int, ...]], seconds: Sequence[float], regions: Sequence[set[int]], edges: _Edges
) -> tuple[list[tuple[int, ...]], list[float]]:
    """Each region as one group, in an order in which the groups can run."""
    of = {at: min(region) for region in regions for at in region}
    members: dict[int, list[int]] = {}
    for at in range(len(groups)):
        members.setdefault(of.get(at, at), []).append(at)
    before = {
        key: {of.get(b, b) for at in ats for b in edges.before[at] if b < len(groups)} - {key}
        for key, ats in members.items()
    }
    order, placed = [], set[int]()
    stack = sorted(members, reverse=True)
    while stack:
        key = stack[-1]
        waits = sorted(before[key] - placed, reverse=True)
        if waits and key not in placed:
            stack.extend(waits)
        else:
            stack.pop()
            if key not in placed:
                placed.add(key)
                order.append(key)
    merged = [tuple(sorted({op for at in members[key] for op in groups[at]})) for key in order]
    return merged, [sum(seconds[at] for at in members[key]) for key in order]


def _units(
    wiring: Wiring, costs: Mapping[str, Cost], groups: Sequence[tuple[int, ...]], reads: Mapping[int, set[str]]
) -> tuple[Unit, ...]:
    taken: list[set[str]] = []
    made: list[set[str]] = []
    for group in groups:
        own = {v for at in group if at in reads for v in wiring.ops[at].writes}
        made.append(own)
        taken.append({v for at in group if at in reads for v in reads[at]} - own)
    wanted = {v for values in taken for v in values} | set(wiring.outputs)
    units = []
    for group, inward, own in zip(groups, taken, made, strict=True):
        each = [costs[wiring.ops[at].name] for at in group]
        units.append(
            Unit(
                group,
                sum(c.alone for c in each),
                sum(c.busy for c in each),
                sum(c.macs for c in each),
                tuple(sorted(inward)),
                tuple(v for at in group if at in reads for v in wiring.ops[at].writes if v in own & wanted),
                any(wiring.ops[at].random for at in group),
            )
        )
    return tuple(units)
