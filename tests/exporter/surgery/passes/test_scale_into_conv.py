import numpy as np
import pytest

from plainconv.exporter.surgery.passes.scale_into_conv import ScaleIntoConv

WEIGHTS = {"w": (4, 3, 3, 3), "b": (4,), "two": np.array(2.0), "each": np.array([1.0, -2.0, 3.0, 0.5]).reshape(4, 1, 1)}


def used(given: str) -> dict:
    return {name: value for name, value in WEIGHTS.items() if f"{name})" in given or f"{name}," in given}


@pytest.mark.parametrize("factor", ["two", "each"])
@pytest.mark.parametrize("conv", ["Conv(x, w, b)", "Conv<pads=[1,1,1,1]>(x, w)"])
def test_a_constant_factor_goes_into_the_conv(check_pass, conv: str, factor: str) -> None:
    size = 7 if "pads" in conv else 5
    given = f"(double[1,3,7,7] x) => (double[1,4,{size},{size}] y) {{ c = {conv} y = Mul(c, {factor}) }}"
    check_pass(ScaleIntoConv(), given, ["Conv"], used(given))


def test_the_constant_of_a_gate_goes_into_the_conv_that_it_gates(check_pass) -> None:
    given = """(double[1,3,7,7] x, double[1,4,1,1] g) => (double[1,4,5,5] y)
        { s = Sigmoid(g) d = Mul(two, s) c = Conv(x, w, b) y = Mul(c, d) }"""
    check_pass(ScaleIntoConv(), given, ["Sigmoid", "Conv", "Mul"], used(given))


def test_it_passes_sums_and_relus(check_pass) -> None:
    given = """(double[1,3,7,7] x, double[1,4,1,1] g) => (double[1,4,5,5] y)
        { s = Sigmoid(g) d = Mul(s, two) a = Conv(x, w, b) n = Neg(x) e = Conv(n, w)
          c = Add(a, e) r = Relu(c) y = Mul(r, d) }"""
    check_pass(ScaleIntoConv(), given, ["Sigmoid", "Conv", "Neg", "Conv", "Add", "Relu", "Mul"], used(given))


@pytest.mark.parametrize(
    "given",
    [
        # a negative factor does not pass a relu
        "(double[1,3,7,7] x) => (double[1,4,5,5] y) { c = Conv(x, w, b) r = Relu(c) y = Mul(r, each) }",
        # the conv, or the scaled gate, is read elsewhere
        "(double[1,3,7,7] x) => (double[1,4,5,5] y, double[1,4,5,5] c) { c = Conv(x, w, b) y = Mul(c, two) }",
        """(double[1,3,7,7] x, double[1,4,1,1] g) => (double[1,4,5,5] y, double[1,4,1,1] d)
           { d = Mul(two, g) c = Conv(x, w, b) y = Mul(c, d) }""",
        # one side of the sum is no conv
        """(double[1,4,5,5] x, double[1,3,7,7] z) => (double[1,4,5,5] y)
           { c = Conv(z, w, b) s = Add(x, c) y = Mul(s, two) }""",
        # the constant is a map
        "(double[1,3,7,7] x) => (double[1,4,5,5] y) { c = Conv(x, w, b) y = Mul(c, map) }",
    ],
)
def test_where_it_cannot_be_absorbed_it_stays(check_pass, given: str) -> None:
    weights = used(given) | ({"map": np.ones((1, 1, 5, 5)) * 2} if "map" in given else {})
    check_pass(ScaleIntoConv(), given, None, weights)


@pytest.mark.parametrize("shape", [(1, 4, 1, 1), (4, 1, 1), ()])
def test_a_scale_before_convs_is_theirs_padded_or_not(check_pass, shape: tuple[int, ...]) -> None:
    given = """(double[N,4,8,8] x) => (double[N,6,8,8] y, double[N,4,6,6] z)
        { s = Mul(k, x) y = Conv<pads=[1,1,1,1],group=2>(s, v, b) z = Conv<group=4>(s, w) }"""
    weights = {"k": np.random.default_rng(0).uniform(0.5, 2, shape), "v": (6, 2, 3, 3), "w": (4, 1, 3, 3), "b": (6,)}
    check_pass(ScaleIntoConv(), given, ["Conv", "Conv"], weights)


def test_a_scale_that_something_else_reads_stays(check_pass) -> None:
    given = """(double[1,4,8,8] x) => (double[1,6,6,6] y, double[1,4,8,8] s)
        { s = Mul(k, x) y = Conv(s, w) }"""
    check_pass(ScaleIntoConv(), given, None, {"k": (4, 1, 1), "w": (6, 4, 3, 3)})
