import numpy as np
import pytest

from plainconv.exporter.surgery.passes.remove_noops import RemoveNoops

ZERO, ONE = np.array(0.0), np.array(1.0)


@pytest.mark.parametrize(
    ("ops", "weights"),
    [
        ("n = Identity(a)", {}),
        ("n = Dropout(a)", {}),
        ("n = LeakyRelu<alpha=1.0>(a)", {}),
        ("n = Add(a, k)", {"k": ZERO}),
        ("n = Add(k, a)", {"k": ZERO}),
        ("n = Sub(a, k)", {"k": ZERO}),
        ("n = Mul(k, a)", {"k": ONE}),
        ("n = Div(a, k)", {"k": ONE}),
        ("n = Pad(a, k)", {"k": np.zeros(8, np.int64)}),
        ("n = Concat<axis=1>(a)", {}),
        ("n = Transpose<perm=[0,1,2,3]>(a)", {}),
        ("n = Cast<to=11>(a)", {}),
        ("n = Reshape(a, k)", {"k": np.array([0, 3, 4, 4])}),
        ("n = Expand(a, k)", {"k": np.array([1, 1, 4, 1])}),
        ("n = Slice(a, s, e)", {"s": np.array([0, 0]), "e": np.array([9, 9])}),
        ("n = MaxPool<kernel_shape=[1,1]>(a)", {}),
        ("n = AveragePool<kernel_shape=[1,1],strides=[1,1]>(a)", {}),
    ],
)
def test_what_changes_nothing_goes(check_pass, ops: str, weights: dict) -> None:
    given = f"(double[2,3,4,4] x) => (double[2,3,4,4] y) {{ a = Neg(x) {ops} y = Exp(n) }}"
    check_pass(RemoveNoops(), given, ["Neg", "Exp"], weights)


@pytest.mark.parametrize(
    ("ops", "weights"),
    [
        ("n = LeakyRelu<alpha=0.5>(a)", {}),
        ("n = Add(a, k)", {"k": ONE}),
        ("n = Sub(k, a)", {"k": ZERO}),
        ("n = Div(k, a)", {"k": ONE}),
        ("n = Transpose<perm=[0,1,3,2]>(a)", {}),
        ("n = Concat<axis=0>(b, b)  b = Slice(a, s, e)", {"s": np.array([0]), "e": np.array([1])}),
        ("n = MaxPool<kernel_shape=[3,3],pads=[1,1,1,1]>(a)", {}),
    ],
)
def test_what_changes_something_stays(check_pass, ops: str, weights: dict) -> None:
    if "b = " in ops:
        first, second = ops.split("  ")
        ops = f"{second} {first}"
    given = f"(double[2,3,4,4] x) => (double[2,3,4,4] y) {{ a = Neg(x) {ops} y = Exp(n) }}"
    check_pass(RemoveNoops(), given, None, weights)


def test_a_sum_that_broadcasts_stays(check_pass) -> None:
    given = "(double[3,1] x) => (double[3,2] y) { a = Neg(x) n = Add(a, k) y = Exp(n) }"
    check_pass(RemoveNoops(), given, None, {"k": np.zeros((1, 2))})


def test_the_names_of_inputs_and_outputs_survive(check_pass) -> None:
    check_pass(RemoveNoops(), "(double[2,3] x) => (double[2,3] y) { a = Neg(x) y = Identity(a) }", ["Neg"])
    check_pass(RemoveNoops(), "(double[2,3] x) => (double[2,3] y) { y = Identity(x) }", None)
    both = "(double[2,3] x) => (double[2,3] y, double[2,3] z) { y = Neg(x) z = Identity(y) }"
    check_pass(RemoveNoops(), both, None)


def test_an_open_batch_is_the_same_shape_by_its_name(check_pass) -> None:
    given = "(double[N,3,4] x) => (double[N,3,4] y) { a = Neg(x) n = Add(a, k) y = Exp(n) }"
    check_pass(RemoveNoops(), given, ["Neg", "Exp"], {"k": ZERO})


def test_a_global_pool_of_1x1_goes(check_pass) -> None:
    given = "(double[2,3,1,1] x) => (double[2,3,1,1] y) { a = Neg(x) n = GlobalAveragePool(a) y = Exp(n) }"
    check_pass(RemoveNoops(), given, ["Neg", "Exp"])
