"""Which maps to build: for every affine value that is needed, the cheapest way to compute it. No numbers are touched.

A value can be computed as it stands (keep), as one convolution over any ancestor with which it forms one map, or, for a
sum, as a sum of groups in which the terms over one source became one convolution. The cost counts multiply-accumulates,
elements read and written, and a constant per launched op; a value that several ops read is paid for once.
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from torch import fx

from .choices import Choice, Choices, Cost, Group, GroupedSum, Keep, OneMap
from .forms import Form, IllegalError, add_forms, compose_forms, concat_forms, identity_form
from .geometry import conv_geometry
from .graph import places, sizes
from .lift import Concat, Linear, Op, Sum
from .report import Refusal
from .search import Option, search

MAX_ANCESTORS = 64  # a linear chain longer than this is cut


class Planner:
    """Forms of every affine node over its affine ancestors, and the choice among them."""

    def __init__(self, graph: fx.Graph, ops: Mapping[fx.Node, Op]) -> None:
        self.graph = graph
        self.ops = {node: _flattened(op, ops) for node, op in ops.items()}
        self.forms: dict[fx.Node, dict[fx.Node, Form]] = {}
        self.refusals: list[Refusal] = []
        for node in self.ops:
            self.forms[node] = self._forms_over_ancestors(node)

    # -------------------------------------------------------------- forms

    def form(self, node: fx.Node, source: fx.Node, last: bool = False) -> Form | None:
        """The map from `source` to `node`, if there is one; for a value itself, that of its second or last axis."""
        if node is source:
            shape = sizes(node)
            assert shape is not None
            return identity_form(shape[-1], 0) if last else identity_form(shape[1], len(shape) - 2)
        return self.forms.get(node, {}).get(source)

    def _forms_over_ancestors(self, node: fx.Node) -> dict[fx.Node, Form]:
        op = self.ops[node]
        found: dict[fx.Node, Form] = {}
        refused: IllegalError | None = None
        candidates = dict.fromkeys(s for value in inputs(op) for s in (value, *self.forms.get(value, ())))
        for source in list(candidates)[:MAX_ANCESTORS]:
            try:
                form = self._derive(op, source)
            except IllegalError as error:
                refused = refused or error
                continue
            if form is not None:
                found[source] = form
        if refused and not any(s not in inputs(op) for s in found):
            self.refusals.append(Refusal(node.name, refused.code, refused.found, refused.remedy))
        return found

    def _derive(self, op: Op, source: fx.Node) -> Form | None:
        if isinstance(op, Linear):
            if op.source is source:
                return op.form
            first = self.form(op.source, source)
            return compose_forms(first, op.form) if first and len(first.axes) == len(op.form.axes) else None
        forms = [self.form(value, source, op.last) for value in inputs(op)]
        present = [f for f in forms if f is not None]
        if len(present) < len(forms) or len({len(f.axes) for f in present}) > 1:
            return None
        return add_forms(present) if isinstance(op, Sum) else concat_forms(present)

    # -------------------------------------------------------------- planning

    def plan(self) -> Choices:
        """A choice for every affine node that the plan computes; nodes left out are not needed any more."""
        choices: Choices = {}
        for component in self._components():
            choices |= self._plan_component(component)
        self._explain_kept(choices)
        return choices

    def _components(self) -> Iterator[list[fx.Node]]:
        """Connected sets of affine nodes, each in graph order: what is non-affine separates them."""
        root: dict[fx.Node, fx.Node] = {}

        def find(node: fx.Node) -> fx.Node:
            while root[node] is not node:
                root[node] = node = root[root[node]]
            return node

        for node, op in self.ops.items():
            root[node] = node
            for value in inputs(op):
                if value in root:
                    root[find(value)] = find(node)
        members: dict[fx.Node, list[fx.Node]] = defaultdict(list)
        for node in self.ops:
            members[find(node)].append(node)
        yield from members.values()

    def _plan_component(self, component: Sequence[fx.Node]) -> Choices:
        """Cheapest plan found; never more multiply-accumulates than the component has as it stands."""
        position = {node: i for i, node in enumerate(component)}
        options = [[self._option(node, choice, position) for choice in self._options(node)] for node in component]
        needed = [i for i, n in enumerate(component) if any(user not in self.ops for user in n.users)]
        shared = [i for i, n in enumerate(component) if len(n.users) > 1 and all(user in self.ops for user in n.users)]
        kept = self._kept(component[i] for i in needed)
        ceiling = self._cost(kept).macs
        best = search(options, needed, shared, lambda cost: (cost.total, 0))
        if best.cost.macs > ceiling:
            best = search(options, needed, shared, lambda cost: cost.macs_first)
        return {component[i]: o.choice for i, o in best.options.items()} if best.cost.macs <= ceiling else kept

    def _option(self, node: fx.Node, choice: Choice, position: Mapping[fx.Node, int]) -> Option:
        read = reads(choice, self.ops[node])
        return Option(choice, self.choice_cost(node, choice), tuple(position[n] for n in read if n in position))

    def _kept(self, needed: Iterable[fx.Node]) -> Choices:
        """Everything as it stands."""
        choices: Choices = {}
        stack = list(needed)
        while stack:
            node = stack.pop()
            if node in self.ops and node not in choices:
                choices[node] = Keep()
                stack.extend(inputs(self.ops[node]))
        return choices

    def _options(self, node: fx.Node) -> Iterator[Choice]:
        op = self.ops[node]
        yield Keep()
        if isinstance(op, Sum):
            yield from self._groupings(op)
        own = op.source if isinstance(op, Linear) else None
        for source, form in self.forms[node].items():
            if source is not own and not (form.pointwise and not form.identity):
                yield OneMap(source, form)

    def _groupings(self, op: Sum) -> Iterator[GroupedSum]:
        """Merge terms over one source after another, the source that serves most terms first.

        All of a source's terms at once, and only those that are cheaper together: a wide depthwise term would make a
        dense one as wide.
        """
        for some in (False, True):
            rest = list(op.terms)
            groups: list[Group] = []
            while found := self._next_groups(rest, op.last, some):
                groups += found
                rest = [t for t in rest if not any(t in group.terms for group in found)]
                if len(groups[0].terms) < len(op.terms):  # all in one group is a OneMap
                    yield GroupedSum((*groups, *(Group(None, (t,)) for t in rest)))

    def _next_groups(self, terms: list[tuple[fx.Node, float]], last: bool, some: bool) -> list[Group]:
        """The groups of the source that serves most of the terms, two at least; none where they are no one map."""
        by_source = {
            s: [t for t in terms if self.form(t[0], s, last)] for v, _ in terms for s in (v, *self.forms.get(v, ()))
        }
        source = max(by_source, key=lambda s: len(by_source[s]), default=None)
        if source is None or len(by_source[source]) < 2:
            return []
        groups = [Group(source, (t,), last) for t in by_source[source]]
        if not some:
            groups = [Group(source, tuple(by_source[source]), last)]
        while some and (joined := self._cheaper_together(groups)):
            groups = joined
        try:
            return [g for g in groups if len(g.terms) > 1 and not self.group_form(g).pointwise]
        except IllegalError:
            return []

    def _cheaper_together(self, groups: Sequence[Group]) -> list[Group] | None:
        """The groups with those two joined that gain most by it; None where no two gain."""
        best: tuple[int, list[Group]] | None = None
        for one, other in itertools.combinations(groups, 2):
            joined = Group(one.source, (*one.terms, *other.terms), one.last)
            try:
                gain = sum(self._group_cost(g).total for g in (one, other)) - self._group_cost(joined).total
            except IllegalError:
                continue
            if gain > 0 and (best is None or gain > best[0]):
                best = (gain, [joined, *(g for g in groups if g not in (one, other))])
        return best and best[1]

    def _group_cost(self, group: Group) -> Cost:
        """Cost of a group and of adding it to the others."""
        assert group.source is not None
        node = group.terms[0][0]
        return self._map_cost(self.group_form(group), group.source, node) + Cost(0, 3 * elements(node), 1)

    def group_form(self, group: Group) -> Form:
        """The map of a group of terms over its source. Raises IllegalError."""
        assert group.source is not None
        forms = [self.form(term, group.source, group.last) for term, _ in group.terms]
        return add_forms([f for f in forms if f is not None])

    # -------------------------------------------------------------- cost

    def _cost(self, choices: Choices) -> Cost:
        total = Cost()
        for node, choice in choices.items():
            total += self.choice_cost(node, choice)
        return total

    def choice_cost(self, node: fx.Node, choice: Choice) -> Cost:
        """Cost of one choice, without what it reads."""
        op = self.ops[node]
        out = elements(node)
        if isinstance(choice, OneMap):
            return self._map_cost(choice.form, choice.source, node)
        if isinstance(choice, GroupedSum):
            total = Cost()
            for group in choice.groups:
                if group.source is not None:
                    total += self._map_cost(self.group_form(group), group.source, node)
            adds = len(choice.groups) - 1
            return total + Cost(0, 3 * adds * out, adds)
        if isinstance(op, Linear):
            return self._map_cost(op.form, op.source, node, may_pool=True)
        return Cost(0, sum(map(elements, inputs(op))) + out, max(1, len(inputs(op)) - 1))

    def _map_cost(self, form: Form, source: fx.Node, node: fx.Node, may_pool: bool = False) -> Cost:
        if form.identity:
            return Cost()
        pools = may_pool and getattr(node.target, "__name__", "").startswith("avg_pool")
        macs = 0 if pools else form.macs(places(node, len(form.axes)))
        moved = elements(source) + elements(node)
        extends = () if form.pointwise else conv_geometry(form).extends
        read = sizes(source)
        assert read is not None
        for extend in extends:
            ends = extend.pads[::-1]
            read = (*read[:2], *(n + ends[2 * d] + ends[2 * d + 1] for d, n in enumerate(read[2:])))
            moved += 2 * math.prod(read[1:])
        return Cost(macs, moved, 1 + len(extends))

    def _explain_kept(self, choices: Choices) -> None:
        """Name the merges that were legal but would have cost more than their parts."""
        for node, choice in choices.items():
            op = self.ops[node]
            if not isinstance(choice, Keep) or not isinstance(op, Linear) or op.source not in choices:
                continue
            parts = self._cost({n: c for n, c in choices.items() if n in (node, op.source)}).macs
            merged = (self._map_cost(f, s, node).macs for s, f in self.forms[node].items() if s is not op.source)
            one = next((macs for macs in merged if macs > parts), None)
            if one is None:
                continue
            found = f"one conv would take {one / 1e6:.3g} MMACs, its parts take {parts / 1e6:.3g}"
            self.refusals.append(Refusal(node.name, "COST", found, "nothing to do: the parts are cheaper"))


def inputs(op: Op) -> list[fx.Node]:
    """The values an op reads."""
    if isinstance(op, Linear):
        return [op.source]
    return list(op.parts) if isinstance(op, Concat) else [value for value, _ in op.terms]


def reads(choice: Choice, op: Op) -> list[fx.Node]:
    """The values a choice reads."""
    if isinstance(choice, OneMap):
        return [choice.source]
    if isinstance(choice, GroupedSum):
        return [g.source if g.source is not None else g.terms[0][0] for g in choice.groups]
    return inputs(op)


def elements(node: fx.Node) -> int:
    """Elements of the value, per sample."""
    return math.prod((sizes(node) or ())[1:])


def _flattened(op: Op, ops: Mapping[fx.Node, Op]) -> Op:
    """A tree of sums that nothing else reads, as one sum."""
    if not isinstance(op, Sum):
        return op
    terms: list[tuple[fx.Node, float]] = []
    for value, weight in op.terms:
        inner = ops.get(value)
        if isinstance(inner, Sum) and len(value.users) == 1:
            flat = _flattened(inner, ops)
            assert isinstance(flat, Sum)
            terms += [(v, weight * w) for v, w in flat.terms]
        else:
            terms.append((value, weight))
    return Sum(tuple(terms), op.last)
