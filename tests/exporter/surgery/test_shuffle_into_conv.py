import numpy as np
import pytest

from exporter.surgery.shuffle_into_conv import ShuffleIntoConv

ACROSS, WITHIN = np.array([0, 3, 1, 4, 2, 5]), np.array([2, 0, 1, 4, 5, 3])
GIVEN = """(double[N,6,7,7] x) => (double[N,4,7,7] y)
    {{ s = Gather<axis=1>(x, i) y = Conv<pads=[1,1,1,1],group={groups}>(s, w, b) }}"""


def weights(index: np.ndarray, groups: int) -> dict:
    return {"i": index, "w": (4, 6 // groups, 3, 3), "b": (4,)}


@pytest.mark.parametrize(("index", "groups"), [(ACROSS, 1), (WITHIN, 1), (WITHIN, 2)])
def test_a_conv_reads_shuffled_channels_by_shuffled_weights(check_pass, index: np.ndarray, groups: int) -> None:
    check_pass(ShuffleIntoConv(), GIVEN.format(groups=groups), ["Conv"], weights(index, groups))


@pytest.mark.parametrize(("index", "groups"), [(ACROSS, 2), (np.array([0, 0, 1, 2, 3, 4]), 1)])
def test_a_shuffle_across_groups_or_one_that_repeats_stays(check_pass, index: np.ndarray, groups: int) -> None:
    check_pass(ShuffleIntoConv(), GIVEN.format(groups=groups), None, weights(index, groups))


def test_a_shuffle_that_something_else_reads_stays_beside_the_conv(check_pass) -> None:
    given = "(double[1,6,7,7] x) => (double[1,4,5,5] y, double[1,6,7,7] s) { s = Gather<axis=1>(x, i) y = Conv(s, w) }"
    check_pass(ShuffleIntoConv(), given, ["Gather", "Conv"], {"i": ACROSS, "w": (4, 6, 3, 3)})
