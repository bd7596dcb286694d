from pathlib import Path

import numpy as np
import onnx
import pytest

from plainconv.exporter.onnx_file.file import graph_from_proto
from plainconv.exporter.surgery.passes.common_subexpressions import CommonSubexpressions


def test_of_two_equal_ops_one_remains(check_pass) -> None:
    given = (
        "(double[2,3,4,4] x) => (double[2,3,1,1] y) { a = GlobalAveragePool(x) b = GlobalAveragePool(x) y = Add(a, b) }"
    )
    check_pass(CommonSubexpressions(), given, ["GlobalAveragePool", "Add"])


def test_equal_constants_count_as_one_and_chains_fall_together(check_pass) -> None:
    given = "(double[2,3] x) => (double[2,3] y) { a = Mul(x, k) b = Mul(x, l) c = Neg(a) d = Neg(b) y = Add(c, d) }"
    check_pass(CommonSubexpressions(), given, ["Mul", "Neg", "Add"], {"k": np.ones(3) * 2, "l": np.ones(3) * 2})


def test_an_output_keeps_its_name(check_pass) -> None:
    given = "(double[2,3] x) => (double[2,3] y, double[2,3] z) { y = Neg(x) b = Neg(x) z = Exp(b) }"
    check_pass(CommonSubexpressions(), given, ["Neg", "Exp"])
    given = "(double[2,3] x) => (double[2,3] y, double[2,3] z) { b = Neg(x) y = Exp(b) z = Neg(x) }"
    check_pass(CommonSubexpressions(), given, ["Neg", "Exp"])


@pytest.mark.parametrize(
    ("ops", "weights"),
    [
        ("a = LeakyRelu<alpha=0.1>(x) b = LeakyRelu<alpha=0.2>(x) y = Add(a, b)", {}),
        ("a = Mul(x, k) b = Mul(x, l) y = Add(a, b)", {"k": np.ones(3), "l": np.zeros(3)}),
        ("a = Sub(x, k) b = Sub(k, x) y = Add(a, b)", {"k": np.ones(3)}),
        (
            "a = RandomUniformLike(x) b = RandomUniformLike(x) c = Sub(a, b) d = Mul(c, k) y = Add(x, d)",
            {"k": np.array(0.0)},
        ),
    ],
)
def test_ops_that_differ_stay(check_pass, ops: str, weights: dict) -> None:
    check_pass(CommonSubexpressions(), f"(double[2,3] x) => (double[2,3] y) {{ {ops} }}", None, weights)


def test_two_outputs_of_one_value_stay_two(check_pass) -> None:
    given = "(double[2,3] x) => (double[2,3] y, double[2,3] z) { y = Neg(x) z = Neg(x) }"
    check_pass(CommonSubexpressions(), given, None)


def test_two_ops_of_an_unknown_domain_may_not_agree(tmp_path: Path) -> None:
    text = """<ir_version: 10, opset_import: ["" : 20, "mine" : 1]> g (float[2] x) => (float[2] y)
        { a = mine.Draw(x) b = mine.Draw(x) y = Add(a, b) }"""
    graph = graph_from_proto(onnx.parser.parse_model(text))
    assert CommonSubexpressions().apply(graph) == 0
