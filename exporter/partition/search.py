"""Where to run each unit so that the network ends soonest: list scheduling with recomputation, then local search.

A first placement takes the units in the order of what is still to come after them, each to the place where it ends
soonest, computing again there what would arrive later. Then the search changes what the end waits for, one change at a
time, and keeps each that ends sooner, or as soon with fewer bytes sent. Nothing is random.
"""

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass

from .simulate import HOME, Copy, Task, Timeline, World, score_of, simulate
from .units import Unit

Place = tuple[int, int]
Placement = tuple[tuple[Place, ...], ...]
"""For each unit the places that run it, one or more."""
EFFORT = 100_000
"""Tasks that the simulations of one search for a plan may run, all together: about 2 seconds."""


@dataclass(frozen=True)
class Found:
    """A placement, its tasks as (unit, place), and their timeline."""

    placement: Placement
    tasks: tuple[tuple[int, Place], ...]
    timeline: Timeline
    score: float
    sent: float

    def beats(self, other: "Found") -> bool:
        """Whether it scores better, or as well and sends less, or sends as much and computes less."""
        if self.score < other.score * (1 - 1e-6):
            return True
        as_well = self.score <= other.score * (1 + 1e-9)
        return as_well and (self.sent, len(self.tasks)) < (other.sent, len(other.tasks))


class Search:
    """The units of one network, the places there are, and the tasks that may still be simulated."""

    def __init__(
        self,
        units: Sequence[Unit],
        places: Sequence[Place],
        world: World,
        effort: int = EFFORT,
        *,
        recompute: bool = False,
    ) -> None:
        self.units, self.places, self.world, self.left = units, places, world, effort
        self.hop = max(world.link.latency if len({p[0] for p in places}) > 1 else 0.0, world.event)
        self.recompute = recompute
        self.random = frozenset(at for at, unit in enumerate(units) if unit.random)
        self.maker = {value: at for at, unit in enumerate(units) for value in unit.writes}
        self.before = [sorted({self.maker[v] for v in unit.reads if v in self.maker}) for unit in units]
        self.after: list[list[int]] = [[] for _ in units]
        for at, others in enumerate(self.before):
            for other in others:
                self.after[other].append(at)
        self.ranks = [0.0] * len(units)
        for at in reversed(range(len(units))):
            self.ranks[at] = units[at].alone + max((self.ranks[n] for n in self.after[at]), default=0.0)
        self.branches = _branches(self.before)
        self.cones: list[frozenset[int]] = []
        for others in self.before:
            self.cones.append(frozenset(others).union(*(self.cones[n] for n in others)))

    def best(self, duplicate: bool, known: Sequence[Placement] = ()) -> Found | None:
        """The best placement found, from those `known` too.

        Units are computed on several devices only where `duplicate` says so.
        """
        starts = [tuple((self.places[0],) for _ in self.units), self.greedy(False), *known]
        if duplicate:
            starts.append(self.greedy(True))
        best: Found | None = None
        for start in sorted(set(starts), key=starts.index, reverse=True):
            found = self.tried(start)
            if found is not None:
                found = self._improved(found, duplicate)
                best = found if best is None or found.beats(best) else best
        return best

    def best_on_all(self, placement: Placement, duplicate: bool) -> Found | None:
        """The best found that uses every place, from a placement that may use fewer; None for want of units."""
        found: Found | None = None
        for place in self.places:
            used = _used(placement)
            if place not in used:
                trials = (self.tried(_with(placement, {at}, place)) for at in range(len(self.units)))
                more = [each for each in trials if each is not None and _used(each.placement) > used]
                found = min(more, key=lambda each: (each.score, each.sent), default=None)
                if found is None:
                    return None
                placement = found.placement
        return None if found is None else self._improved(found, duplicate, least=len(self.places))

    def tried(self, placement: Placement) -> Found | None:
        """What becomes of a placement, less the copies of units that nothing needs; None where it cannot end."""
        placement = self._recomputing(placement) if self.recompute else self._pruned(placement)
        tasks = tuple((at, place) for at, places in enumerate(placement) for place in places)
        self.left -= len(tasks)
        made = [
            Task(place, self.units[at].alone, self.units[at].busy, self.units[at].reads, self.units[at].writes)
            for at, place in tasks
        ]
        timeline = simulate(made, self.world, [self.ranks[at] for at, _ in tasks])
        if timeline is None or timeline.end == float("inf"):
            return None
        sent = sum(self.world.bytes.get(copy.value, 0.0) for copy in timeline.copies)
        return Found(placement, tasks, timeline, score_of(timeline, self.world), sent)

    def _recomputing(self, placement: Placement) -> Placement:
        """The placement with whatever is read on several devices computed on each, with all that it takes."""
        places = [set(each) for each in placement]
        for at in reversed(range(len(self.units))):
            readers = {p for n in self.after[at] for p in places[n]}
            if len({p[0] for p in readers}) > 1 and not self.random & (self.cones[at] | {at}):
                for n in (at, *self.cones[at]):
                    places[n] |= readers
        return self._pruned(tuple(tuple(sorted(each)) for each in places))

    def greedy(self, duplicate: bool) -> Placement:
        """Each unit where it ends soonest, in the order of rank; `duplicate`: with what it waits for computed again."""
        placed: list[dict[Place, float]] = [{} for _ in self.units]  # unit → place → when it ends there
        free = dict.fromkeys(self.places, 0.0)
        for at in sorted(range(len(self.units)), key=lambda n: (-self.ranks[n], n)):
            options = []
            for place in self.places:
                again: tuple[int, ...] = ()
                end = self._end(at, place, placed, free[place])
                if duplicate:
                    for cone in self._late_cones(at, place, placed):
                        trial = [dict(each) if n in cone else each for n, each in enumerate(placed)]
                        now = free[place]
                        for n in cone:
                            now = trial[n][place] = self._end(n, place, trial, now)
                        other = self._end(at, place, trial, now)
                        if other < end:
                            end, again = other, cone
                home = (
                    self._seconds(self.units[at].writes, place) if set(self.units[at].writes) & self._outputs else 0.0
                )
                options.append((end + home, place, end, again))
            _, place, end, again = min(options, key=lambda option: option[:2])
            for n in again:
                free[place] = placed[n][place] = self._end(n, place, placed, free[place])
            placed[at][place] = free[place] = end
        return tuple(tuple(sorted(each)) for each in placed)

    def _end(self, at: int, place: Place, placed: Sequence[dict[Place, float]], free: float) -> float:
        return max([free, *self._arrivals(at, place, placed).values()]) + self.units[at].alone

    def _arrivals(self, at: int, place: Place, placed: Sequence[dict[Place, float]]) -> dict[str, float]:
        """When each value that a unit reads can be at `place`."""
        found = {}
        for value in self.units[at].reads:
            if value in self.maker:
                ends = placed[self.maker[value]].items()
                found[value] = min(end + self._hop(value, other, place) for other, end in ends)
            else:
                found[value] = self._hop(value, (HOME, 0), place)
        return found

    def _hop(self, value: str, source: Place, target: Place) -> float:
        if source[0] != target[0]:
            return self.world.seconds(value) + self.world.link.latency
        return 0.0 if source == target or value not in self.maker else self.world.event

    def _seconds(self, values: Sequence[str], place: Place) -> float:
        return max((self._hop(v, place, (HOME, 0)) for v in values if v in self._outputs), default=0.0)

    @property
    def _outputs(self) -> frozenset[str]:
        return frozenset(self.world.outputs)

    def _late_cones(self, at: int, place: Place, placed: Sequence[dict[Place, float]]) -> list[tuple[int, ...]]:
        """What to compute again at `place`: all that the latest value, or that every value, from elsewhere takes."""
        late = sorted(
            (-when, self.maker[value]) for value, when in self._arrivals(at, place, placed).items()
            if value in self.maker and not any(p[0] == place[0] for p in placed[self.maker[value]])
        )  # fmt: skip
        if not late:
            return []
        one = self.cones[late[0][1]] | {late[0][1]}
        every = {n for _, maker in late for n in (*self.cones[maker], maker)}
        cones = []
        for cone in (one, every):
            missing = tuple(sorted(n for n in cone if place not in placed[n]))
            if sum(self.units[n].alone for n in missing) < -late[0][0] and not any(
                self.units[n].random for n in missing
            ):
                cones.append(missing)
        return cones

    def _pruned(self, placement: Placement) -> Placement:
        """The placement without copies that no reader on their device needs; one of each unit stays."""
        kept: list[tuple[Place, ...]] = [()] * len(placement)
        for at in reversed(range(len(placement))):
            places = placement[at]
            if len(places) > 1:
                wanted = {p[0] for n in self.after[at] for p in kept[n]}
                if self._outputs & set(self.units[at].writes):
                    wanted.add(HOME)
                by_device = {p[0]: p for p in reversed(places)}
                places = tuple(sorted(p for d, p in by_device.items() if d in wanted)) or places[:1]
            kept[at] = places
        return tuple(kept)

    def _improved(self, best: Found, duplicate: bool, least: int = 1) -> Found:
        """`best`, changed for as long as a change makes it better and leaves `least` places in use."""
        seen = {best.placement}
        going = True
        while going and self.left > 0:
            going = False
            for placement in self._changes(best, duplicate):
                pruned = self._pruned(placement)
                if pruned in seen:
                    continue
                seen.add(pruned)
                found = self.tried(pruned) if least == 1 or len(_used(pruned)) >= least else None
                if found is not None and found.beats(best):
                    best, going = found, True
                    break
                if self.left <= 0:
                    break
        return best

    def _changes(self, found: Found, duplicate: bool) -> Iterator[Placement]:
        """Placements one change away, first those that touch what the end waits for."""
        steps = found.timeline.critical()
        critical = [found.tasks[step] for step in steps if not isinstance(step, Copy)]
        copies = [step for step in steps if isinstance(step, Copy)] + found.timeline.copies
        if duplicate:
            yield from self._recomputed(found, copies)
        yield from self._gathered(found, copies)
        units = [at for at, _ in critical]
        units += [n for at in dict.fromkeys(units) for n in (*self.before[at], *self.after[at])]
        for copy in found.timeline.copies:
            if copy.value in self.maker:
                maker = self.maker[copy.value]
                units += [maker, *self.after[maker]]
        for at in dict.fromkeys(units):
            for place in self.places:
                yield _with(found.placement, self.branches[at], place)
                yield _with(found.placement, {at}, place)
                if duplicate and not self.units[at].random and place not in found.placement[at]:
                    yield _with(found.placement, {at}, place, add=True)
            for place in found.placement[at]:
                if len(found.placement[at]) > 1:
                    yield _with(found.placement, {at}, None, drop=place)
        for n, one in enumerate(self.places):
            for other in self.places[n + 1 :]:
                swap = {one: other, other: one}
                yield tuple(tuple(sorted(swap.get(p, p) for p in places)) for places in found.placement)

    def _gathered(self, found: Found, copies: Sequence[Copy]) -> Iterator[Placement]:
        """With the small units around a copy, which are not worth it, all in one place."""
        for copy in copies:
            if copy.value in self.maker:
                maker = self.maker[copy.value]
                for at in (maker, *self.after[maker]):
                    group = self._small_around(at)
                    near = {n for n in group if found.placement[n] == found.placement[at]}
                    for units in (group, near):
                        for place in self.places:
                            yield _with(found.placement, units, place)

    def _small_around(self, at: int) -> set[int]:
        """The unit, and the units shorter than a hop that are linked to it by such units."""
        found, stack = {at}, [at]
        while stack:
            n = stack.pop()
            new = {m for m in (*self.before[n], *self.after[n]) if self.units[m].alone < self.hop} - found
            found |= new
            stack.extend(new)
        return found

    def _recomputed(self, found: Found, copies: Sequence[Copy]) -> Iterator[Placement]:
        """With what the end waits for on its way computed where it is read instead, alone or with all it takes."""
        for copy in copies:
            if copy.value not in self.maker:
                continue
            maker = self.maker[copy.value]
            readers = {p for n in self.after[maker] for p in found.placement[n] if p[0] == copy.target}
            for place in sorted(readers):
                for cone in ({maker}, {maker, *self.before[maker]}, {maker, *self.cones[maker]}):
                    if not any(self.units[n].random for n in cone):
                        yield _with(found.placement, cone, place, add=True)


def _used(placement: Placement) -> set[Place]:
    return {place for places in placement for place in places}


def _with(
    placement: Placement, units: Set[int], place: Place | None, *, add: bool = False, drop: Place | None = None
) -> Placement:
    """The placement with `units` at `place`: there alone, or (`add`) there too; or without `drop`."""
    changed = list(placement)
    for at in units:
        if place is None:
            changed[at] = tuple(p for p in placement[at] if p != drop)
        else:
            changed[at] = tuple(sorted({*placement[at], place})) if add else (place,)
    return tuple(changed)


def _branches(before: Sequence[Sequence[int]]) -> list[set[int]]:
    """For each unit, the units that cannot be reached but through it, and itself: a branch up to its join."""
    dominators: list[set[int]] = []
    for at, others in enumerate(before):
        common = set.intersection(*(dominators[n] for n in others)) if others else set[int]()
        dominators.append(common | {at})
    branches: list[set[int]] = [set() for _ in before]
    for at, each in enumerate(dominators):
        for n in each:
            branches[n].add(at)
    return branches
