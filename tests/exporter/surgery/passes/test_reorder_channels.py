from collections import Counter

import numpy as np
import pytest

from plainconv.exporter.surgery.passes.reorder_channels import ReorderChannels

INDEX = {"i": np.array([2, 0, 3, 1])}
CONV = "Conv<pads=[1,1,1,1]>"
NORM = {k: (4,) for k in ("gamma", "beta", "mean", "var")}
ENDS = "(double[N,3,8,8] x) => (double[N,5,8,8] y)"


def test_the_rows_of_the_conv_before_take_the_shuffle_up(check_pass) -> None:
    given = f"{ENDS} {{ c = {CONV}(x, w, b) s = Gather<axis=1>(c, i) t = Tanh(s) y = {CONV}(t, v) }}"
    weights = INDEX | {"w": (4, 3, 3, 3), "b": (4,), "v": (5, 4, 3, 3)}
    check_pass(ReorderChannels(), given, ["Conv", "Tanh", "Conv"], weights)


@pytest.mark.parametrize(
    ("middle", "result", "weights"),
    [
        ("r = Relu(c) z = Relu(r)", ["Relu", "Relu"], {}),
        ("z = BatchNormalization(c, gamma, beta, mean, var)", ["BatchNormalization"], NORM),
        ("z = Conv<group=4,pads=[1,1,1,1]>(c, d, e)", ["Conv"], {"d": (4, 1, 3, 3), "e": (4,)}),
        ("m = MaxPool<kernel_shape=[3,3],pads=[1,1,1,1]>(c) z = Mul(m, k)", ["MaxPool", "Mul"], {"k": (4, 1, 1)}),
        # a gate, made of the value itself
        ("p = GlobalAveragePool(c) q = Conv(p, g) h = Sigmoid(q) z = Mul(c, h)",
         ["GlobalAveragePool", "Conv", "Sigmoid", "Mul"], {"g": (4, 4, 1, 1)}),
        # a skip around a conv
        (f"r = Relu(c) u = {CONV}(r, a) z = Add(r, u)", ["Relu", "Conv", "Add"], {"a": (4, 4, 3, 3)}),
        # a skip by another conv of the input
        (f"u = {CONV}(x, f) z = Add(u, c)", ["Conv", "Add"], {"f": (4, 3, 3, 3)}),
    ],
)  # fmt: skip
def test_the_order_passes_through(check_pass, middle: str, result: list[str], weights: dict) -> None:
    given = f"{ENDS} {{ c = {CONV}(x, w, b) {middle} s = Gather<axis=1>(z, i) t = Tanh(s) y = {CONV}(t, v) }}"
    base = INDEX | {"w": (4, 3, 3, 3), "b": (4,), "v": (5, 4, 3, 3)}
    check_pass(ReorderChannels(), given, ["Conv", *result, "Tanh", "Conv"], base | weights)


def test_who_reads_the_value_in_its_old_order_reads_permuted_weights(check_pass) -> None:
    given = """(double[N,3,8,8] x) => (double[N,5,8,8] y, double[N,2] h) {
        c = Conv<pads=[1,1,1,1]>(x, w) r = Relu(c) s = Gather<axis=1>(r, i) t = Tanh(s) y = Conv<pads=[1,1,1,1]>(t, v)
        p = GlobalAveragePool(r) f = Flatten(p) h = Gemm<transB=1>(f, m) }"""
    weights = INDEX | {"w": (4, 3, 3, 3), "v": (5, 4, 3, 3), "m": (2, 4)}
    result = ["Conv", "Relu", "Tanh", "Conv", "GlobalAveragePool", "Flatten", "Gemm"]
    check_pass(ReorderChannels(), given, result, weights)


def test_of_two_shuffles_one_goes_and_the_other_follows(check_pass) -> None:
    given = """(double[1,3,8,8] x) => (double[1,4,8,8] y, double[1,4,8,8] z) {
        c = Conv<pads=[1,1,1,1]>(x, w) s = Gather<axis=1>(c, i) y = Tanh(s) t = Gather<axis=1>(c, j) z = Neg(t) }"""
    graph = check_pass(ReorderChannels(), given, {"Conv": 1, "Gather": 1, "Tanh": 1, "Neg": 1},
                       INDEX | {"j": np.array([1, 0, 3, 2]), "w": (4, 3, 3, 3)})  # fmt: skip
    assert Counter(node.op for node in graph.nodes)["Gather"] == 1


@pytest.mark.parametrize(
    "given",
    [
        # a grouped conv whose groups it would mix: no order of weights undoes it
        """(double[N,4,8,8] x) => (double[N,6,8,8] y)
            { c = Conv<group=2,pads=[1,1,1,1]>(x, w) s = Gather<axis=1>(c, i)
              y = Conv<group=2,pads=[1,1,1,1]>(s, v) }""",
        # the value is an output, or an input
        """(double[1,3,8,8] x) => (double[1,4,8,8] y, double[1,4,8,8] c)
           { c = Conv<pads=[1,1,1,1]>(x, u) s = Gather<axis=1>(c, i) y = Tanh(s) }""",
        "(double[1,4,8,8] x) => (double[1,4,8,8] y) { r = Relu(x) s = Gather<axis=1>(r, i) y = Tanh(s) }",
        # it meets itself in another order
        f"""(double[1,3,8,8] x) => (double[1,4,8,8] y)
            {{ c = {CONV}(x, u) r = Relu(c) s = Gather<axis=1>(r, i) z = Add(r, s) y = Tanh(z) }}""",
        # something mixes channels
        f"""(double[1,3,8,8] x) => (double[1,4,8,8] y)
            {{ c = {CONV}(x, u) r = Softmax<axis=1>(c) s = Gather<axis=1>(r, i) y = Tanh(s) }}""",
    ],
)  # fmt: skip
def test_where_no_order_of_weights_undoes_it_the_shuffle_stays(check_pass, given: str) -> None:
    weights = {"w": (4, 2, 3, 3), "v": (6, 2, 3, 3), "u": (4, 3, 3, 3)}
    index = np.array([0, 2, 1, 3]) if "group=2" in given else INDEX["i"]
    check_pass(ReorderChannels(), given, None, {"i": index} | {k: w for k, w in weights.items() if f" {k})" in given})
