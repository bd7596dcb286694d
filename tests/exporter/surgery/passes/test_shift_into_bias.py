import numpy as np
import pytest

from plainconv.exporter.surgery.passes.shift_into_bias import ShiftIntoBias

W = {"w": (4, 3, 3, 3), "b": (4,)}


@pytest.mark.parametrize("shape", [(1, 4, 1, 1), (4, 1, 1), ()])
@pytest.mark.parametrize("conv", ["Conv(x, w)", "Conv(x, w, b)"])
def test_a_shift_behind_a_conv_is_a_bias(check_pass, conv: str, shape: tuple[int, ...]) -> None:
    given = f"(double[N,3,8,8] x) => (double[N,4,6,6] y) {{ c = {conv} y = Add(k, c) }}"
    weights = {name: w for name, w in W.items() if f" {name}" in conv}
    check_pass(ShiftIntoBias(), given, ["Conv"], weights | {"k": np.full(shape, 0.7)})


def test_through_a_sum_it_is_the_bias_of_one_part(check_pass) -> None:
    given = """(double[1,3,8,8] x, double[1,4,6,6] z) => (double[1,4,6,6] y)
        { c = Conv(x, w) s = Add(z, c) y = Add(s, k) }"""
    check_pass(ShiftIntoBias(), given, ["Conv", "Add"], {"w": (4, 3, 3, 3), "k": (4, 1, 1)})


def test_behind_a_relu_the_relu_compares_with_it(check_pass) -> None:
    given = """(double[1,3,8,8] x, double[1,4,6,6] z) => (double[1,4,6,6] y)
        { c = Conv(x, w, b) s = Add(z, c) r = Relu(s) y = Add(r, k) }"""
    check_pass(ShiftIntoBias(), given, ["Conv", "Add", "Max"], W | {"k": (4, 1, 1)})


@pytest.mark.parametrize("k", [(1, 3, 1, 1), ()])
def test_before_an_unpadded_conv_it_is_a_bias(check_pass, k: tuple[int, ...]) -> None:
    given = "(double[1,3,8,8] x) => (double[1,6,6,6] y) { n = Neg(x) s = Add(n, k) y = Conv<group=3>(s, w) }"
    check_pass(ShiftIntoBias(), given, ["Neg", "Conv"], {"w": (6, 1, 3, 3), "k": np.full(k, 0.3)})


@pytest.mark.parametrize(
    ("given", "k"),
    [
        # the conv's value is read elsewhere
        ("(double[1,3,8,8] x) => (double[1,4,6,6] y, double[1,4,6,6] c) { c = Conv(x, w) y = Add(c, k) }", (4, 1, 1)),
        # padding: the border sees zeros
        ("(double[1,3,8,8] x) => (double[1,4,8,8] y) { s = Add(x, k) y = Conv<pads=[1,1,1,1]>(s, w) }", (3, 1, 1)),
        # one for each position
        ("(double[1,3,8,8] x) => (double[1,4,6,6] y) { c = Conv(x, w) y = Add(c, k) }", (6,)),
        # the shift makes more of the value
        ("(double[1,3,8,8] x) => (double[2,4,6,6] y) { c = Conv(x, w) y = Add(c, k) }", (2, 4, 1, 1)),
        ("(double[1,3,8,8] x) => (double[1,4,6,6] y) { c = Conv(x, w) t = Tanh(c) y = Add(t, k) }", (4, 1, 1)),
    ],
)
def test_where_it_does_not_fit_the_sum_stays(check_pass, given: str, k: tuple[int, ...]) -> None:
    check_pass(ShiftIntoBias(), given, None, {"w": (4, 3, 3, 3), "k": k})
