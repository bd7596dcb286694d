import pytest

from plainconv.exporter.surgery.passes.kernel_algebra import KernelAlgebra

NORM = {"gamma": (4,), "beta": (4,), "mean": (4,), "var": (4,)}


@pytest.mark.parametrize("conv", ["Conv(x, w)", "Conv(x, w, b)", "Conv<group=2, pads=[1,1,1,1]>(x, v)"])
def test_a_norm_behind_a_conv_goes_into_it(check_pass, conv: str) -> None:
    size = 8 if "pads" in conv else 6
    given = f"""(double[1,6,8,8] x) => (double[1,4,{size},{size}] y)
        {{ c = {conv} y = BatchNormalization<epsilon=1e-3>(c, gamma, beta, mean, var) }}"""
    weights = NORM | {"w": (4, 6, 3, 3)} | ({"b": (4,)} if "b)" in conv else {})
    if "group" in conv:
        weights = NORM | {"v": (4, 3, 3, 3)}
    check_pass(KernelAlgebra(), given, ["Conv"], weights)


@pytest.mark.parametrize(
    ("conv", "size"), [("Conv(n, w)", 6), ("Conv(n, w, b)", 6), ("Conv<group=2, strides=[2,1]>(n, v, b)", 3)]
)
def test_a_norm_before_an_unpadded_conv_goes_into_it(check_pass, conv: str, size: int) -> None:
    given = f"""(double[1,4,8,8] x) => (double[1,6,{size},6] y)
        {{ n = BatchNormalization(x, gamma, beta, mean, var) y = {conv} }}"""
    weights = NORM | {"v" if "group" in conv else "w": (6, 2 if "group" in conv else 4, 3, 3)}
    check_pass(KernelAlgebra(), given, ["Conv"], weights | ({"b": (6,)} if "b)" in conv else {}))


@pytest.mark.parametrize(
    "given",
    [
        # padding: the border sees zeros, not the norm's shift
        """(double[1,4,8,8] x) => (double[1,4,8,8] y)
           { n = BatchNormalization(x, gamma, beta, mean, var) y = Conv<pads=[1,1,1,1]>(n, w) }""",
        # the conv's value is read elsewhere
        """(double[1,4,8,8] x) => (double[1,4,6,6] y, double[1,4,6,6] c)
           { c = Conv(x, w) y = BatchNormalization(c, gamma, beta, mean, var) }""",
    ],
)
def test_a_norm_that_does_not_fit_stays(check_pass, given: str) -> None:
    check_pass(KernelAlgebra(), given, None, NORM | {"w": (4, 4, 3, 3)})


def test_a_norm_that_something_else_reads_stays(check_pass) -> None:
    given = """(double[1,4,8,8] x) => (double[1,4,6,6] y, double[1,4,8,8] n)
        { n = BatchNormalization(x, gamma, beta, mean, var) y = Conv(n, w) }"""
    check_pass(KernelAlgebra(), given, None, NORM | {"w": (4, 4, 3, 3)})


def test_weights_that_two_convs_share_are_scaled_for_one(check_pass) -> None:
    given = """(double[1,4,8,8] x) => (double[1,4,6,6] y, double[1,4,6,6] z)
        { c = Conv(x, w) y = BatchNormalization(c, gamma, beta, mean, var) d = Neg(x) z = Conv(d, w) }"""
    check_pass(KernelAlgebra(), given, ["Conv", "Conv"], NORM | {"w": (4, 4, 3, 3)})
