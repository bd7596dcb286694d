import numpy as np
import pytest

from plainconv.exporter.surgery.passes.pointwise_before_shuffle import PointwiseBeforeShuffle

INDEX = {"i": np.array([2, 0, 3, 1])}
GIVEN = "(double[N,4,5,6] x) => (double[N,4,5,6] y) {{ n = Neg(x) s = Gather<axis=1>(n, i) y = {op} }}"


@pytest.mark.parametrize(
    ("op", "weights"),
    [
        ("Relu(s)", {}),
        ("Add(s, k)", {"k": (4, 1, 1)}),
        ("Sub(k, s)", {"k": (1, 4, 1, 1)}),
        ("Mul(s, k)", {"k": np.array(2.0)}),
        ("Max(s, k)", {"k": (1, 4, 5, 6)}),
        ("BatchNormalization(s, gamma, beta, mean, var)", {k: (4,) for k in ("gamma", "beta", "mean", "var")}),
    ],
)
def test_what_treats_channels_one_by_one_comes_first(check_pass, op: str, weights: dict) -> None:
    graph = check_pass(
        PointwiseBeforeShuffle(), GIVEN.format(op=op), ["Neg", op.split("(")[0], "Gather"], INDEX | weights
    )
    assert graph.nodes[-1].op == "Gather"


@pytest.mark.parametrize(
    ("given", "index"),
    [
        (GIVEN.format(op="Add(s, x)"), INDEX["i"]),  # another value
        (GIVEN.format(op="Softmax<axis=1>(s)"), INDEX["i"]),  # across channels
        (GIVEN.format(op="Relu(s)"), np.array([0, 0, 1, 2])),  # no permutation
        (GIVEN.replace("] y)", "] y, double[N,4,5,6] s)").format(op="Relu(s)"), INDEX["i"]),  # read elsewhere
        ("""(double[1,2,5,6] x) => (double[1,4,5,6] y)
            { c = Concat<axis=1>(x, x) s = Gather<axis=1>(c, i) y = Relu(s) }""", INDEX["i"]),
    ],
)  # fmt: skip
def test_where_it_does_not_fit_the_shuffle_stays(check_pass, given: str, index: np.ndarray) -> None:
    check_pass(PointwiseBeforeShuffle(), given, None, {"i": index})
