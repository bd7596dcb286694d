import numpy as np
import pytest

from plainconv.exporter.surgery.passes.shuffle_into_conv import ShuffleIntoConv

ACROSS, WITHIN = np.array([0, 3, 1, 4, 2, 5]), np.array([2, 0, 1, 4, 5, 3])
GIVEN = """(double[N,6,7,7] x) => (double[N,4,7,7] y)
    {{ s = Gather<axis=1>(x, i) y = Conv<pads=[1,1,1,1],group={groups}>(s, w, b) }}"""


def weights(index: np.ndarray, groups: int) -> dict:
    return {"i": index, "w": (4, 6 // groups, 3, 3), "b": (4,)}


@pytest.mark.parametrize(("index", "groups"), [(ACROSS, 1), (WITHIN, 1), (WITHIN, 2)])
def test_a_conv_reads_shuffled_channels_by_shuffled_weights(check_pass, index: np.ndarray, groups: int) -> None:
    check_pass(ShuffleIntoConv(), GIVEN.format(groups=groups), ["Conv"], weights(index, groups))


def test_a_shuffle_that_repeats_stays(check_pass) -> None:
    index = np.array([0, 0, 1, 2, 3, 4])
    check_pass(ShuffleIntoConv(), GIVEN.format(groups=1), None, weights(index, 1))


def test_a_shuffle_across_groups_makes_a_small_conv_dense(check_pass) -> None:
    graph = check_pass(ShuffleIntoConv(), GIVEN.format(groups=2), ["Conv"], weights(ACROSS, 2))
    assert graph.nodes[0].attrs["group"] == 1
    assert graph.nodes[0].inputs[1].shape == (4, 6, 3, 3)


def test_a_shuffle_across_groups_stays_where_a_dense_conv_costs_more(check_pass) -> None:
    given = """(double[N,96,56,56] x) => (double[N,96,56,56] y)
        { s = Gather<axis=1>(x, i) y = Conv<pads=[1,1,1,1],group=2>(s, w) }"""
    check_pass(ShuffleIntoConv(), given, None, {"i": np.arange(96).reshape(2, 48).T.ravel(), "w": (96, 48, 3, 3)})


def test_a_shuffle_that_something_else_reads_stays_beside_the_conv(check_pass) -> None:
    given = "(double[1,6,7,7] x) => (double[1,4,5,5] y, double[1,6,7,7] s) { s = Gather<axis=1>(x, i) y = Conv(s, w) }"
    check_pass(ShuffleIntoConv(), given, ["Gather", "Conv"], {"i": ACROSS, "w": (4, 6, 3, 3)})
