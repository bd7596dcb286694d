import numpy as np
import pytest

from plainconv.exporter.surgery.passes.norm_into_gate import NormIntoGate

NORM = {"gamma": (4,), "beta": (4,), "mean": (4,), "var": (4,)}


@pytest.mark.parametrize("product", ["Mul(n, s)", "Mul(s, n)"])
def test_a_gated_norm_becomes_a_scaled_gate_and_a_shift(check_pass, product: str) -> None:
    given = f"""(double[N,4,5,5] x, double[N,4,1,1] g) => (double[N,4,5,5] y)
        {{ n = BatchNormalization(x, gamma, beta, mean, var) s = Sigmoid(g) y = {product} }}"""
    check_pass(NormIntoGate(), given, {"Sigmoid": 1, "Mul": 2, "Add": 1}, NORM)


def test_a_norm_with_a_scale_of_zero_is_shifted_behind_the_gate(check_pass) -> None:
    given = """(double[N,4,5,5] x, double[N,4,1,1] g) => (double[N,4,5,5] y)
        { n = BatchNormalization(x, gamma, beta, mean, var) s = Sigmoid(g) y = Mul(n, s) }"""
    weights = NORM | {"gamma": np.array([1.0, 0.0, -2.0, 1.0])}
    check_pass(NormIntoGate(), given, {"Sigmoid": 1, "Mul": 3, "Add": 1}, weights)


def test_a_norm_without_a_shift_only_scales_the_gate(check_pass) -> None:
    given = """(double[N,4,5,5] x, double[N,4,1,1] g) => (double[N,4,5,5] y)
        { n = BatchNormalization(x, gamma, zero, zero, var) s = Sigmoid(g) y = Mul(n, s) }"""
    check_pass(NormIntoGate(), given, {"Sigmoid": 1, "Mul": 2}, NORM | {"zero": np.zeros(4)})


@pytest.mark.parametrize(
    "given",
    [
        """(double[1,4,5,5] x, double[1,4,1,1] g) => (double[1,4,5,5] y, double[1,4,5,5] n)
           { n = BatchNormalization(x, gamma, beta, mean, var) y = Mul(n, g) }""",
        """(double[1,4,5,5] x, double[1,4,5,5] g) => (double[1,4,5,5] y)
           { n = BatchNormalization(x, gamma, beta, mean, var) y = Mul(n, g) }""",
        """(double[1,4,5,5] x, double[1,1,1,1] g) => (double[1,4,5,5] y)
           { n = BatchNormalization(x, gamma, beta, mean, var) y = Mul(n, g) }""",
    ],
)
def test_a_norm_with_another_reader_or_without_a_gate_stays(check_pass, given: str) -> None:
    check_pass(NormIntoGate(), given, None, NORM)
