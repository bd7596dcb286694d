import numpy as np
import pytest

from plainconv.exporter.surgery.passes.pool_first import PoolFirst

NORM = {"gamma": (4,), "beta": (4,), "mean": (4,), "var": (4,)}


@pytest.mark.parametrize("readers", ["y = GlobalAveragePool(n)", "y = GlobalAveragePool(n) z = Neg(r)"])
def test_a_norm_of_what_is_kept_anyway_moves_behind_the_pool(check_pass, readers: str) -> None:
    more = ", double[N,4,5,6] z" if "z" in readers else ""
    given = f"""(double[N,4,5,6] x) => (double[N,4,1,1] y{more})
        {{ r = Relu(x) n = BatchNormalization(r, gamma, beta, mean, var) {readers} }}"""
    result = {"Relu": 1, "GlobalAveragePool": 1, "BatchNormalization": 1} | ({"Neg": 1} if more else {})
    check_pass(PoolFirst(), given, result, NORM)


def test_a_norm_that_runs_with_what_it_reads_stays(check_pass) -> None:
    given = """(double[N,4,5,6] x) => (double[N,4,1,1] y, double[N,4,5,6] z)
        { r = Relu(x) n = BatchNormalization(r, gamma, beta, mean, var) y = GlobalAveragePool(n) z = Neg(n) }"""
    check_pass(PoolFirst(), given, None, NORM)


def test_the_norm_moves_behind_the_pool_and_stays_for_others(check_pass) -> None:
    given = """(double[N,4,5,6] x) => (double[N,4,1,1] y, double[N,4,5,6] n)
        { n = BatchNormalization(x, gamma, beta, mean, var) y = GlobalAveragePool(n) }"""
    result = {"BatchNormalization": 2, "GlobalAveragePool": 1}
    graph = check_pass(PoolFirst(), given, {op: n for op, n in result.items()}, NORM)
    pool = next(node for node in graph.nodes if node.op == "GlobalAveragePool")
    assert pool.inputs[0].name == "x"


def test_a_shuffle_and_a_concat_move_behind_the_pool(check_pass) -> None:
    given = """(double[2,4,5,6] x, double[2,4,5,6] z) => (double[2,8,1,1] y)
        { c = Concat<axis=1>(x, z) s = Gather<axis=1>(c, index) y = GlobalAveragePool(s) }"""
    index = {"index": np.arange(8).reshape(2, 4).T.ravel()}
    check_pass(PoolFirst(), given, {"GlobalAveragePool": 2, "Concat": 1, "Gather": 1}, index)


def test_the_gate_of_a_pooled_product_moves_behind_the_pool(check_pass) -> None:
    given = """(double[2,4,5,6] x, double[2,4,1,1] g) => (double[2,4,1,1] y)
        { s = Sigmoid(g) p = Mul(s, x) y = GlobalAveragePool(p) }"""
    check_pass(PoolFirst(), given, ["Sigmoid", "GlobalAveragePool", "Mul"])


@pytest.mark.parametrize(
    "given",
    [
        # the product is read elsewhere: it is computed anyway
        """(double[2,4,5,6] x, double[2,4,1,1] g) => (double[2,4,1,1] y, double[2,4,5,6] p)
           { p = Mul(g, x) y = GlobalAveragePool(p) }""",
        # the factor is a map
        "(double[2,4,5,6] x, double[2,4,5,6] g) => (double[2,4,1,1] y) { p = Mul(g, x) y = GlobalAveragePool(p) }",
        # the concat is read whole elsewhere
        """(double[2,4,5,6] x) => (double[2,8,1,1] y, double[2,8,5,6] z)
           { c = Concat<axis=1>(x, x) y = GlobalAveragePool(c) z = Relu(c) }""",
        # values are gathered along another axis
        """(double[2,4,5,6] x) => (double[2,4,1,1] y) { c = Gather<axis=2>(x, index) y = GlobalAveragePool(c) }""",
        "(double[2,4,5,6] x) => (double[2,4,1,1] y) { r = Relu(x) y = GlobalAveragePool(r) }",
    ],
)
def test_what_does_not_commute_or_does_not_pay_stays(check_pass, given: str) -> None:
    check_pass(PoolFirst(), given, None, {"index": np.array([0, 0, 3])} if "index" in given else None)
