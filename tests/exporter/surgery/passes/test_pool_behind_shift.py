import pytest

from plainconv.exporter.surgery.passes.pool_behind_shift import PoolBehindShift


def test_the_pool_reads_the_sum_that_is_there_anyway(check_pass) -> None:
    given = """(double[N,4,5,6] x) => (double[N,4,5,6] y, double[N,4,1,1] p)
        { r = Relu(x) y = Add(r, k) p = GlobalAveragePool(r) }"""
    graph = check_pass(PoolBehindShift(), given, ["Relu", "Add", "GlobalAveragePool", "Add"], {"k": (1, 4, 1, 1)})
    pool = next(node for node in graph.nodes if node.op == "GlobalAveragePool")
    assert pool.inputs[0].name == "y"


@pytest.mark.parametrize(
    "given",
    [
        """(double[1,4,5,6] x) => (double[1,4,5,6] y, double[1,4,1,1] p, double[1,4,5,6] n)
           { r = Relu(x) y = Add(r, k) p = GlobalAveragePool(r) n = Neg(r) }""",
        "(double[1,4,5,6] x) => (double[1,4,5,6] y, double[1,4,1,1] p) { y = Add(x, k) p = GlobalAveragePool(x) }",
        "(double[1,4,5,6] x) => (double[1,4,5,6] y) { r = Relu(x) y = Add(r, k) }",
    ],
)
def test_where_x_is_read_as_it_is_or_not_made_here_the_pool_stays(check_pass, given: str) -> None:
    check_pass(PoolBehindShift(), given, None, {"k": (1, 4, 1, 1)})
