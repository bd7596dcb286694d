"""What carries channels: C(s·x + t) = s·C(x) + t along each axis that it claims to carry, and round trips."""

from typing import Any

import pytest
import torch
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx

from plainconv.exporter.reparam.carriers import carried, drop_round_trips

aten = torch.ops.aten


def called(target: Any, x: torch.Tensor, *args: Any) -> fx.Node:
    graph = fx.Graph()
    source = graph.placeholder("x")
    source.meta["val"] = x
    node = graph.call_function(target, (source, *args))
    node.meta["val"] = target(x, *args)
    return node


def ranges(shape: tuple[int, ...]) -> st.SearchStrategy[tuple[Any, tuple[Any, ...]]]:
    """A carrier and its arguments for an input of this shape."""
    rank = len(shape)
    axes = st.integers(-rank, rank - 1)
    pairs = st.tuples(axes, axes)
    return st.one_of(
        st.permutations(range(rank)).map(lambda dims: (aten.permute.default, (dims,))),
        pairs.map(lambda two: (aten.transpose.int, two)),
        pairs.filter(lambda two: two[0] % rank < two[1] % rank).map(lambda two: (aten.flatten.using_ints, two)),
        st.sets(st.integers(0, rank - 1), min_size=1).flatmap(
            lambda dims: st.booleans().map(lambda keep: (aten.mean.dim, (sorted(dims), keep)))
        ),
        axes.map(lambda axis: (aten.select.int, (axis, -1))),
        axes.map(lambda axis: (aten.slice.Tensor, (axis, 1, None))),
        axes.map(lambda axis: (aten.flip.default, ([axis],))),
        axes.map(lambda axis: (aten.unsqueeze.default, (axis,))),
        axes.map(lambda axis: (aten.roll.default, ([1], [axis]))),
        st.permutations(shape).map(lambda sizes: (aten.reshape.default, (sizes,))),
    )


SHAPES = st.lists(st.sampled_from([1, 2, 2, 3, 4]), min_size=2, max_size=4).map(tuple)


@settings(max_examples=examples(150), deadline=None)
@given(st.data())
def test_a_scale_and_shift_passes_along_every_axis_that_is_carried(data: st.DataObject) -> None:
    shape = data.draw(SHAPES)
    target, args = data.draw(ranges(shape))
    x = torch.randn(shape, dtype=torch.float64)
    found = carried(called(target, x, *args))
    for before, after in (found[1] if found else {}).items():
        s, t = torch.randn(2, shape[before], dtype=torch.float64)
        y = target(x, *args)
        behind = (-1, *[1] * (y.dim() - 1 - after))
        given_x = x * s.view(-1, *[1] * (len(shape) - 1 - before)) + t.view(-1, *[1] * (len(shape) - 1 - before))
        assert torch.allclose(target(given_x, *args), y * s.view(behind) + t.view(behind))


@pytest.mark.parametrize(
    ("target", "args"),
    [
        (aten.avg_pool2d.default, ([3, 3], [2, 2], [0, 0], True)),
        (aten.avg_pool2d.default, ([3, 3], [2, 2], [1, 1], True, False)),
        (aten.adaptive_avg_pool2d.default, ([3, 2],)),
        (aten.upsample_nearest2d.default, ([9, 5],)),
        (aten.upsample_bilinear2d.default, ([9, 5], False)),
        (aten.upsample_bicubic2d.default, ([4, 11], True)),
        (aten.pad.default, ([1, 2, 0, 1], "reflect")),
    ],
)
def test_shares_of_1_carry_the_channels(target: Any, args: tuple[Any, ...]) -> None:
    x = torch.randn(2, 3, 7, 6, dtype=torch.float64)
    found = carried(called(target, x, *args))
    assert found is not None and found[1][1] == 1 and not {2, 3} & found[1].keys()
    assert torch.allclose(target(x * 2 - 5, *args), target(x, *args) * 2 - 5)


@pytest.mark.parametrize(
    ("target", "args"),
    [
        (aten.avg_pool2d.default, ([3, 3], [2, 2], [1, 1], False, True)),
        (aten.avg_pool2d.default, ([2, 2], [2, 2], [0, 0], False, True, 3)),
        (aten.constant_pad_nd.default, ([1, 1], 0.0)),
        (aten.pad.default, ([1, 1, 1, 1], "constant", 0.0)),
        (aten.pixel_shuffle.default, (2,)),
        (aten.relu.default, ()),
    ],
)
def test_what_does_not_commute_with_a_shift_carries_nothing(target: Any, args: tuple[Any, ...]) -> None:
    found = carried(called(target, torch.randn(2, 4, 6, 6), *args))
    assert found is None or 1 not in found[1]


def test_a_reshape_carries_an_axis_only_as_a_whole() -> None:
    """Given channels split into groups, or joined with positions → Result they are not carried, the batch is."""
    x = torch.randn(2, 6, 5)
    for sizes in ([2, 2, 3, 5], [2, 30], [2, 5, 6]):
        found = carried(called(aten.reshape.default, x, sizes))
        assert found is not None and 1 not in found[1] and found[1][0] == 0


def test_there_and_back_is_the_value_itself() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    x.meta["val"] = torch.randn(2, 3, 5)
    node = x
    for target, args in (
        (aten.permute.default, ([1, 2, 0],)),
        (aten.permute.default, ([2, 0, 1],)),
        (aten.flatten.using_ints, (0, 1)),
        (aten.reshape.default, ([2, 3, 5],)),
    ):
        value = target(node.meta["val"], *args)
        node = graph.call_function(target, (node, *args))
        node.meta["val"] = value
    kept = graph.call_function(aten.transpose.int, (node, 0, 1))
    kept.meta["val"] = node.meta["val"].transpose(0, 1)
    graph.output(kept)
    drop_round_trips(fx.GraphModule({}, graph))
    assert kept.args[0] is x
