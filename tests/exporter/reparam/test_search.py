"""The search with costs carried along finds what one that counts every plan whole finds."""

from collections.abc import Sequence

from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from plainconv.exporter.reparam.choices import Cost, Group, GroupedSum, Keep
from plainconv.exporter.reparam.search import Option, Rank, search

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

    best = planned(needed)
    for value in shared:
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
