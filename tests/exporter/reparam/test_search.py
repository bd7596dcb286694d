"""The search with costs carried along finds what one that counts every plan whole finds."""

from collections.abc import Sequence

from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from plainconv.exporter.reparam.choices import Cost, Group, GroupedSum, Keep
from plainconv.exporter.reparam.search import Option, Rank, _in_every_plan, search

Options = Sequence[Sequence[Option]]
BY_TOTAL: Rank = lambda cost: (cost.total, 0)  # noqa: E731
BY_MACS: Rank = lambda cost: cost.macs_first  # noqa: E731


def whole(options: Options, needed: Sequence[int], shared: Sequence[int], rank: Rank) -> dict[int, Option]:
    """The same, plan by plan."""

    def cost(plan: dict[int, Option]) -> Cost:
        return sum((option.cost for option in plan.values()), Cost())

    def cheapest(at: int, free: set[int], memo: dict[int, dict[int, Option]]) -> dict[int, Option]:
        if at in free:
            return {}
        if at not in memo:
            plans = []
            for option in options[at]:
                plan: dict[int, Option] = {}
                for read in option.reads:
                    plan |= cheapest(read, free, memo)
                plans.append((plan | {at: option}, option))
            key = min(plans, key=lambda p: (rank(cost(p[0])), not isinstance(p[1].choice, Keep), len(p[0])))
            memo[at] = key[0]
        return memo[at]

    def planned(values: Sequence[int]) -> dict[int, Option]:
        chosen: dict[int, Option] = {}
        for value in values:
            chosen |= cheapest(value, (set(values) - {value}) | set(chosen), {})
        return chosen

    def in_every(at: int) -> set[int]:
        return {at} | set.intersection(*({v for r in option.reads for v in in_every(r)} for option in options[at]))

    best = planned(needed)
    fixed = sorted({*needed, *(v for v in shared if any(v in in_every(value) for value in needed))})
    if rank(cost(planned(fixed))) <= rank(cost(best)):
        needed, best = fixed, planned(fixed)
    for value in [v for v in shared if v not in needed]:
        tried = planned(sorted({*needed, value}))
        if rank(cost(tried)) < rank(cost(best)):
            needed, best = [*needed, value], tried
    return best


@st.composite
def components(draw: st.DrawFn) -> tuple[Options, list[int], list[int]]:
    """Up to twelve values, each kept or made of others before it by up to three options; some needed, some shared."""
    count = draw(st.integers(1, 12))
    options = []
    for at in range(count):
        mine = []
        for i in range(draw(st.integers(1, 4))):
            read = draw(st.lists(st.integers(0, at - 1), max_size=3)) if at else []
            cost = Cost(draw(st.integers(0, 20)), draw(st.integers(0, 5)), draw(st.integers(0, 2)))
            mine.append(Option(Keep() if i == 0 else GroupedSum((Group(None, ()),) * i), cost, tuple(read)))
        options.append(mine)
    needed = sorted(draw(st.sets(st.integers(0, count - 1), min_size=1)) | {count - 1})
    return options, needed, [i for i in range(count) if i not in needed and draw(st.booleans())]


@given(components(), st.sampled_from([BY_TOTAL, BY_MACS]))
@settings(max_examples=examples(200))
def test_costs_carried_along_are_costs_counted_whole(
    component: tuple[Options, list[int], list[int]], rank: Rank
) -> None:
    options, needed, shared = component
    found = search(options, needed, shared, rank)
    wanted = whole(options, needed, shared, rank)
    assert dict(found.options) == wanted
    assert found.cost == sum((option.cost for option in wanted.values()), Cost())


def test_what_every_plan_computes() -> None:
    """Given 3 by (1 and 2) or by 1 alone, 1 by 0 or by nothing → Result 3 and 1 are computed in every plan of 3."""

    def option(*reads: int) -> Option:
        return Option(Keep(), Cost(1, 1, 1), reads)

    options = [[option()], [option(0), option()], [option(1)], [option(1, 2), option(1)]]
    assert _in_every_plan(options, [3]) == 1 << 3 | 1 << 1
    assert _in_every_plan(options, [2, 3]) == 1 << 3 | 1 << 2 | 1 << 1
