import numpy as np
import pytest

from plainconv.exporter.surgery.passes.gemm_head import GemmHead


@pytest.mark.parametrize("bias", [", b", ""])
def test_a_1x1_conv_on_1x1_is_a_gemm(check_pass, bias: str) -> None:
    given = f"(double[N,6,1,1] x) => (double[N,4] y) {{ c = Conv(x, w{bias}) y = Flatten(c) }}"
    weights = {"w": (4, 6, 1, 1), "b": (4,)} if bias else {"w": (4, 6, 1, 1)}
    graph = check_pass(GemmHead(), given, ["Flatten", "Gemm"], weights)
    gemm = next(node for node in graph.nodes if node.op == "Gemm")
    assert gemm.inputs[1].name == "w"
    assert np.array_equal(gemm.inputs[1].shape, (4, 6))


@pytest.mark.parametrize(
    "given",
    [
        "(double[1,6,2,2] x) => (double[1,16] y) { c = Conv(x, w) y = Flatten(c) }",
        "(double[1,6,1,1] x) => (double[1,4] y, double[1,4,1,1] c) { c = Conv(x, w) y = Flatten(c) }",
        "(double[1,6,1,1] x) => (double[1,36] y) { c = Conv<pads=[1,1,1,1]>(x, w) y = Flatten(c) }",
        "(double[1,12,1,1] x) => (double[1,4] y) { c = Conv<group=2>(x, w) y = Flatten(c) }",
        "(double[1,6,1,1] x) => (double[4,1] y) { c = Conv(x, w) y = Flatten<axis=2>(c) }",
    ],
)
def test_another_conv_stays(check_pass, given: str) -> None:
    check_pass(GemmHead(), given, None, {"w": (4, 6, 1, 1)})
