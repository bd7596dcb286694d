"""The numbers of a region: its map over its source, in float64, whole or some rows at a time."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import prod

import torch
from torch import fx

from ..parity.widen import LARGE, rows_in_turn
from .affine import AffineMap, add, compose, concat, identity_map, regrouped
from .forms import Form
from .lift import Linear, Op, Sum
from .plan import inputs


def blocks(form: Form) -> Iterator[tuple[slice | None, slice]]:
    """The rows (output channels) of a large kernel in turn, and the input channels they read; else None, for all."""
    shape = (form.out_channels, form.in_channels // form.groups, *(len(axis.box) for axis in form.axes))
    if form.transposed or prod(shape) <= LARGE:
        yield None, slice(0, form.in_channels)
    else:
        yield from rows_in_turn(shape, form.groups)


class Numbers:
    """The maps of a region of some form over its source.

    Row o of a sum needs row o of its terms, row o of a scale needs row o of what it scales, and row o of a convolution
    needs only its own weights, but all rows of the map before it: that one alone is kept whole. Some rows of one group
    are a dense map over the channels that the group reads.
    """

    def __init__(self, ops: Mapping[fx.Node, Op], source: fx.Node, form: Form) -> None:
        self.ops, self.source, self.groups = ops, source, form.groups
        self.channels, self.rank = form.in_channels, len(form.axes)
        self.whole: dict[fx.Node, AffineMap] = {}

    def of(self, wanted: Sum, rows: slice | None) -> AffineMap:
        """The map of a weighted sum of values, or those rows of it."""
        cache: dict[fx.Node, AffineMap] = {}
        maps = [self.map(value) if rows is None else self._rows(value, rows, cache) for value, _ in wanted.terms]
        weights = [weight for _, weight in wanted.terms]
        return maps[0] if len(maps) == 1 and weights == [1.0] else add(maps, weights)

    def map(self, node: fx.Node, *, keep: bool = True) -> AffineMap:
        """The whole map from the source to `node`; kept for the next block, or the next reader."""
        if node is self.source:
            return identity_map(self.channels, self.rank)
        if node in self.whole:
            return self.whole[node]
        op = self.ops[node]
        if isinstance(op, Linear):
            m = op.build()
            m = m if op.source is self.source else compose(self._once(op.source), m)
        else:
            maps = [self._once(value) for value in inputs(op)]
            m = add(maps, [weight for _, weight in op.terms]) if isinstance(op, Sum) else concat(maps)
        if keep:
            self.whole[node] = m
        return m

    def _once(self, node: fx.Node) -> AffineMap:
        """The whole map to a value on the way to another, kept only if several read it."""
        return self.map(node, keep=len(node.users) > 1)

    def _rows(self, node: fx.Node, rows: slice, cache: dict[fx.Node, AffineMap]) -> AffineMap:
        if node not in cache:
            cache[node] = self._rows_of(node, rows, cache)
        return cache[node]

    def _rows_of(self, node: fx.Node, rows: slice, cache: dict[fx.Node, AffineMap]) -> AffineMap:
        if node is self.source:
            return _rows_in_group(self.map(node), rows, self.groups)
        op = self.ops[node]
        if isinstance(op, Sum):
            return add([self._rows(value, rows, cache) for value, _ in op.terms], [weight for _, weight in op.terms])
        if isinstance(op, Linear) and op.form.depthwise:
            return compose(self._rows(op.source, rows, cache), _depthwise_rows(op.build(), rows))
        if isinstance(op, Linear) and op.rows is not None and op.form.groups == self.groups:
            then = op.rows(rows)
            return then if op.source is self.source else compose(self._before(op, rows), then)
        return _rows_in_group(self.map(node), rows, self.groups)

    def _before(self, op: Linear, rows: slice) -> AffineMap:
        """What the rows of a convolution read: the whole map before it, or its part of the group."""
        whole = self.map(op.source)
        if self.groups == 1:
            return whole
        width, group = op.form.in_channels // self.groups, rows.start * self.groups // op.form.out_channels
        return _rows_in_group(whole, slice(group * width, (group + 1) * width), self.groups)


def _rows_in_group(m: AffineMap, rows: slice, groups: int) -> AffineMap:
    """Those rows of a map, all of one of its `groups` groups, over the input channels of the group."""
    n, width = rows.stop - rows.start, m.form.in_channels // groups
    form = replace(m.form, out_channels=n, in_channels=width, groups=1, identity=False)
    if not m.form.depthwise:
        return AffineMap(form, regrouped(m.kernel, m.form, groups)[rows], m.bias[rows])
    kernel = m.kernel.new_zeros(n, width, *m.kernel.shape[2:])
    row = torch.arange(n)
    kernel[row, rows.start % width + row] = m.kernel[rows, 0]
    return AffineMap(form, kernel, m.bias[rows])


def _depthwise_rows(m: AffineMap, rows: slice) -> AffineMap:
    """Those channels of a map that keeps channels apart."""
    n = rows.stop - rows.start
    form = replace(m.form, out_channels=n, in_channels=n, groups=n)
    return AffineMap(form, m.kernel[rows], m.bias[rows])
