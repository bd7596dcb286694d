"""The cheapest way to compute some values of one component, each by one of its options.

A way to a value is a choice for it, and ways to what that reads. Its cost is carried along; that of several values,
which may have much in common, is counted back from them to the one value through which all of them go.
"""

import heapq
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_

from .choices import Choice, Cost, Keep

Rank = Callable[[Cost], tuple[int, int]]


@dataclass(frozen=True)
class Option:
    """One choice for a value: its own cost, and the positions in the component of the values it reads."""

    choice: Choice
    cost: Cost
    reads: tuple[int, ...]


@dataclass(frozen=True)
class _Way:
    """The option taken; cost and number of choices of it and of all behind it that is not there anyway."""

    option: Option
    cost: Cost
    count: int


@dataclass(frozen=True)
class Found:
    """The option of each value that is computed, by its position, and what they cost together."""

    options: Mapping[int, Option]
    cost: Cost


def search(options: Sequence[Sequence[Option]], needed: Sequence[int], shared: Iterable[int], rank: Rank) -> Found:
    """Plan the needed values; then see whether computing a shared one once, for all its readers, is cheaper.

    `options` are those of every value of the component, in an order in which they can be computed. What is computed
    whichever options are taken may as well be there for all its readers: between two such values, a plan is short.
    """
    shared = list(shared)
    in_every = _in_every_plan(options, needed)
    best = _planned(options, needed, rank)
    fixed = sorted({*needed, *(value for value in shared if in_every >> value & 1)})
    if len(fixed) > len(needed):
        tried = _planned(options, fixed, rank)
        if rank(tried.cost) <= rank(best.cost):
            needed, best = fixed, tried
    there = set(needed)
    for value in shared:
        if value in there:
            continue
        tried = _planned(options, sorted({*needed, value}), rank)
        if rank(tried.cost) < rank(best.cost):
            needed, best = [*needed, value], tried
    return best


def _in_every_plan(options: Sequence[Sequence[Option]], needed: Iterable[int]) -> int:
    """The values that are computed whichever options the needed ones take, as bits: N(v) = {v} ∪ ⋂_o ⋃_r N(r)."""
    behind: list[int] = []
    for value, choices in enumerate(options):
        common = -1
        for option in choices:
            common &= reduce(or_, (behind[at] for at in option.reads), 0)
        behind.append(common | 1 << value)
    return reduce(or_, (behind[value] for value in needed), 0)


def _planned(options: Sequence[Sequence[Option]], needed: Sequence[int], rank: Rank) -> Found:
    """The needed values one after another, what is computed for one being there for the next."""
    targets, chosen, cost = set(needed), dict[int, Option](), Cost()
    for value in needed:
        if value in chosen:
            continue
        targets.discard(value)
        there = _There(targets, chosen)
        ways = _ways(options, value, there, rank)
        targets.add(value)
        cost += ways[value].cost
        chosen |= {at: ways[at].option for at in sorted(_behind(value, ways, there))}
    return Found(chosen, cost)


class _There:
    """The values that are there anyway."""

    def __init__(self, *sets: Collection[int]) -> None:
        self.sets = sets

    def __contains__(self, value: int) -> bool:
        return any(value in each for each in self.sets)


def _ways(options: Sequence[Sequence[Option]], value: int, there: _There, rank: Rank) -> dict[int, _Way]:
    """The cheapest way to `value` and to whatever it may be computed from."""
    wanted, stack = {value}, [value]
    while stack:
        for option in options[stack.pop()]:
            more = [at for at in option.reads if at not in wanted and at not in there]
            wanted.update(more)
            stack += more
    ways: dict[int, _Way] = {}
    for at in sorted(wanted):
        found = (_way(option, ways) for option in options[at])
        # Of two as cheap, what is there already, else that of fewer ops.
        ways[at] = min(found, key=lambda w: (rank(w.cost), not isinstance(w.option.choice, Keep), w.count))
    return ways


def _way(option: Option, ways: Mapping[int, _Way]) -> _Way:
    """`option` with the ways to what it reads, each choice counted once."""
    cost, count = option.cost, 1
    left = [-at for at in {*option.reads} if at in ways]  # the last value first: nothing before it needs it
    heapq.heapify(left)
    while len(left) > 1:
        way = ways[-heapq.heappop(left)]
        cost, count = cost + way.option.cost, count + 1
        for at in way.option.reads:
            if at in ways and -at not in left:
                heapq.heappush(left, -at)
    for at in left:
        cost, count = cost + ways[-at].cost, count + ways[-at].count
    return _Way(option, cost, count)


def _behind(value: int, ways: Mapping[int, _Way], there: _There) -> set[int]:
    """`value` and all that its way computes."""
    found, stack = {value}, [value]
    while stack:
        more = [at for at in ways[stack.pop()].option.reads if at not in found and at not in there]
        found.update(more)
        stack += more
    return found
