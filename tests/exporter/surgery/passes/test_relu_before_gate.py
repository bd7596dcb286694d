import pytest

from plainconv.exporter.surgery.passes.relu_before_gate import ReluBeforeGate

WEIGHTS = {"w": (4, 3, 3, 3)}


@pytest.mark.parametrize("product", ["Mul(c, s)", "Mul(s, c)"])
def test_relu_moves_to_the_conv(check_pass, product: str) -> None:
    given = f"""(double[1,3,7,7] x, double[1,4,1,1] g) => (double[1,4,5,5] y)
        {{ c = Conv(x, w) s = Sigmoid(g) p = {product} y = Relu(p) }}"""
    graph = check_pass(ReluBeforeGate(), given, ["Conv", "Sigmoid", "Relu", "Mul"], WEIGHTS)
    assert next(node for node in graph.nodes if node.op == "Relu").i().op == "Conv"


@pytest.mark.parametrize(
    "given",
    [
        # a gate that may be negative
        "(double[1,3,7,7] x, double[1,4,1,1] g) => (double[1,4,5,5] y) { c = Conv(x, w) p = Mul(c, g) y = Relu(p) }",
        # SiLU
        """(double[1,3,7,7] x, double[1,4,1,1] g) => (double[1,4,5,5] y)
           { c = Conv(x, w) s = Sigmoid(g) p = Mul(c, s) q = Sigmoid(p) y = Mul(p, q) }""",
        # the product is read elsewhere
        """(double[1,3,7,7] x, double[1,4,1,1] g) => (double[1,4,5,5] y, double[1,4,5,5] p)
           { c = Conv(x, w) s = Sigmoid(g) p = Mul(c, s) y = Relu(p) }""",
        # nothing to fuse the relu into
        "(double[1,4,5,5] x, double[1,4,1,1] g) => (double[1,4,5,5] y) { s = Sigmoid(g) p = Mul(x, s) y = Relu(p) }",
    ],
)
def test_where_it_does_not_hold_or_does_not_pay_it_stays(check_pass, given: str) -> None:
    check_pass(ReluBeforeGate(), given, None, WEIGHTS if "w)" in given else None)
