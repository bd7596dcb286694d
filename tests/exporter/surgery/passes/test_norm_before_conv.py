import numpy as np
import pytest

from plainconv.exporter.surgery.passes.norm_before_conv import NormBeforeConv

NORM = {"gamma": (4,), "beta": (4,), "mean": (4,), "var": (4,)}
GIVEN = """(double[N,4,8,8] x) => (double[N,6,8,8] y)
    {{ n = BatchNormalization(x, gamma, beta, mean, var) y = {conv} }}"""


@pytest.mark.parametrize(
    ("conv", "weights"),
    [
        ("Conv<pads=[1,1,1,1]>(n, w)", {"w": (6, 4, 3, 3)}),
        ("Conv<pads=[1,1,1,1]>(n, w, b)", {"w": (6, 4, 3, 3), "b": (6,)}),
        ("Conv<pads=[1,1,1,1],group=2>(n, w, b)", {"w": (6, 2, 3, 3), "b": (6,)}),
        ("Conv<auto_pad=\"SAME_UPPER\">(n, w)", {"w": (6, 4, 2, 2)}),
    ],
)  # fmt: skip
def test_a_norm_before_padding_becomes_a_sum(check_pass, conv: str, weights: dict) -> None:
    check_pass(NormBeforeConv(), GIVEN.format(conv=conv), ["Add", "Conv"], NORM | weights)


def test_a_pool_that_reads_it_too_is_scaled_behind(check_pass) -> None:
    given = """(double[N,4,8,8] x) => (double[N,6,8,8] y, double[N,4,1,1] p) {
        n = BatchNormalization(x, gamma, beta, mean, var) y = Conv<pads=[1,1,1,1]>(n, w)
        s = Gather<axis=1>(n, i) p = GlobalAveragePool(s) }"""
    weights = {"w": (6, 4, 3, 3), "i": np.array([2, 0, 3, 1])}
    check_pass(NormBeforeConv(), given, ["Add", "Conv", "Gather", "GlobalAveragePool", "Mul"], NORM | weights)


def test_a_norm_that_only_scales_goes_away(check_pass) -> None:
    given = GIVEN.format(conv="Conv<pads=[1,1,1,1]>(n, w)").replace("beta, mean", "zero, zero")
    check_pass(NormBeforeConv(), given, ["Conv"], NORM | {"zero": np.zeros(4), "w": (6, 4, 3, 3)})


def test_all_convs_that_read_it_are_scaled_behind_a_shuffle_too(check_pass) -> None:
    given = """(double[1,4,8,8] x) => (double[1,6,8,8] y, double[1,6,8,8] z) {
        n = BatchNormalization(x, gamma, beta, mean, var) s = Gather<axis=1>(n, i)
        y = Conv<pads=[1,1,1,1],group=2>(s, v) z = Conv<pads=[1,1,1,1]>(n, w) }"""
    weights = {"i": np.array([0, 2, 1, 3]), "v": (6, 2, 3, 3), "w": (6, 4, 3, 3)}
    check_pass(NormBeforeConv(), given, ["Add", "Gather", "Conv", "Conv"], NORM | weights)


@pytest.mark.parametrize(
    ("given", "gamma"),
    [
        (GIVEN.format(conv="Conv<pads=[1,1,1,1]>(n, w)"), np.array([1.0, 0.0, 1.0, 1.0])),  # no t/s
        (GIVEN.format(conv="Conv<pads=[1,1,1,1]>(n, w)"), np.array([1.0, 1e-9, 1.0, 1.0])),  # too large a t/s
        ("""(double[1,4,8,8] x) => (double[1,6,8,8] y, double[1,4,8,8] n)
            { n = BatchNormalization(x, gamma, beta, mean, var) y = Conv<pads=[1,1,1,1]>(n, w) }""", np.ones(4)),
        ("""(double[1,4,8,8] x) => (double[1,6,6,6] y)
            { n = BatchNormalization(x, gamma, beta, mean, var) y = Conv(n, w) }""", np.ones(4)),  # kernel-algebra
    ],
)  # fmt: skip
def test_where_it_does_not_fit_the_norm_stays(check_pass, given: str, gamma: np.ndarray) -> None:
    check_pass(NormBeforeConv(), given, None, NORM | {"gamma": gamma, "w": (6, 4, 3, 3)})
