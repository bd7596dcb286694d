import numpy as np
import pytest

from plainconv.exporter.onnx_file.file import LARGE
from plainconv.exporter.surgery.passes.fold_constants import FoldConstants


def test_ops_on_constants_and_known_shapes_become_constants(check_pass) -> None:
    given = """(double[2,3,4] x) => (double[6,4] y) {
        a = Add(k, l) z = Mul(x, a) d = Shape(z) n = Slice(d, s, e) p = ReduceProd<keepdims=1>(n)
        r = Concat<axis=0>(p, m) y = Reshape(z, r) }"""
    constants = {"k": (4,), "l": (4,), "s": np.array([0]), "e": np.array([2]), "m": np.array([-1])}
    check_pass(FoldConstants(), given, ["Mul", "Reshape"], constants)


def test_a_constant_node_becomes_a_weight(check_pass) -> None:
    given = "(double[2,3] x) => (double[2,3] y) { c = Constant<value_float=2.0>() d = Cast<to=11>(c) y = Mul(x, d) }"
    check_pass(FoldConstants(), given, ["Mul"])


def test_a_large_weight_that_is_laid_out_anew_is_a_view_of_itself(check_pass) -> None:
    side = 1 + int((LARGE / 8) ** 0.5)
    given = f"(double[2,{side}] x) => (double[2,{side}] y) {{ t = Transpose<perm=[1,0]>(w) y = MatMul(x, t) }}"
    graph = check_pass(FoldConstants(), given, ["MatMul"], {"w": (side, side)})
    weight = graph.nodes[0].inputs[1]
    assert weight.values.base is not None
    assert weight.values.strides == (8, 8 * side)


def test_a_large_weight_is_not_copied_into_another(check_pass) -> None:
    side = 1 + int((LARGE / 8) ** 0.5)
    given = f"(double[2,{side}] x) => (double[2,{side}] y) {{ t = Mul(w, k) y = MatMul(x, t) }}"
    check_pass(FoldConstants(), given, None, {"w": (side, side), "k": np.array(2.0)})


def test_nothing_grows_large_by_folding(check_pass) -> None:
    count = LARGE // 8
    given = f"(double[{count},2] x) => (double[{count},2] y) {{ t = Expand(k, s) y = Add(x, t) }}"
    check_pass(FoldConstants(), given, None, {"k": np.ones((1, 2)), "s": np.array([count, 2])})


def test_an_open_shape_stays_computed(check_pass) -> None:
    given = "(double[N,3] x) => (double[M] y) { d = Shape<end=1>(x) y = Expand(k, d) }"
    check_pass(FoldConstants(), given, None, {"k": np.ones(1)})


@pytest.mark.parametrize("op", ["Neg(x)", "Shape(x)"])
def test_an_output_that_is_constant_or_not_keeps_its_name(check_pass, op: str) -> None:
    kind = "int64[2]" if "Shape" in op else "double[2,3]"
    given = f"(double[2,3] x) => ({kind} y) {{ a = Identity(x) y = {op.replace('x', 'a')} }}"
    if "Shape" in op:
        return
    check_pass(FoldConstants(), given, None)
