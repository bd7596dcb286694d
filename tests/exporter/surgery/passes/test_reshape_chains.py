import numpy as np
import onnx_graphsurgeon as gs
import pytest

from plainconv.exporter.surgery.passes.reshape_chains import ReshapeChains


def test_a_reshape_to_n_by_the_rest_is_a_flatten(check_pass) -> None:
    given = "(double[2,3,4,4] x) => (double[2,48] y) { y = Reshape(x, s) }"
    for shape in ([2, 48], [2, -1], [-1, 48], [0, -1]):
        check_pass(ReshapeChains(), given, ["Flatten"], {"s": np.array(shape)})


def test_the_same_at_an_open_batch_however_the_shape_was_computed(check_pass) -> None:
    given = """(double[N,3,4,4] x) => (double[N,48] y) {
        a = Neg(x) d = Shape(a) n = Gather(d, zero) n1 = Unsqueeze(n, axis) s = Concat<axis=0>(n1, rest)
        y = Reshape(a, s) }"""
    constants = {"zero": np.array(0), "axis": np.array([0]), "rest": np.array([-1])}
    check_pass(ReshapeChains(), given, ["Neg", "Flatten"], constants)


def test_of_a_chain_of_views_the_last_remains(check_pass) -> None:
    given = "(double[2,3,4,4] x) => (double[6,16] y) { a = Reshape(x, s) y = Reshape(a, t) }"
    check_pass(ReshapeChains(), given, ["Reshape"], {"s": np.array([2, 3, 16]), "t": np.array([6, 16])})
    given = "(double[2,3,1,1] x) => (double[2,3] y) { a = Squeeze(x, s) b = Unsqueeze(a, s) y = Flatten(b) }"
    check_pass(ReshapeChains(), given, ["Flatten"], {"s": np.array([2, 3])})


def test_a_reshape_that_copies_an_axis_is_not_moved_to_another_value(check_pass) -> None:
    given = "(double[2,3,4] x) => (double[6,2,2] y) { a = Reshape(x, s) y = Reshape(a, t) }"
    check_pass(ReshapeChains(), given, None, {"s": np.array([6, 4]), "t": np.array([0, 2, 2])})


def test_a_view_that_something_else_reads_stays(check_pass) -> None:
    given = "(double[2,3,4] x) => (double[3,8] y, double[6,4] a) { a = Reshape(x, s) y = Reshape(a, t) }"
    check_pass(ReshapeChains(), given, None, {"s": np.array([6, 4]), "t": np.array([3, 8])})


def test_a_chain_that_ends_where_it_began_is_nothing(check_pass) -> None:
    given = """(double[1,3,4] x) => (double[1,3,4] y)
        { n = Neg(x) s = Squeeze(n, a) u = Unsqueeze(s, a) y = Exp(u) }"""
    check_pass(ReshapeChains(), given, ["Neg", "Exp"], {"a": np.array([0])})


@pytest.mark.parametrize("perms", [("<perm=[0,2,1]>", "<perm=[2,0,1]>"), ("", "<perm=[1,0,2]>"), ("", "")])
def test_two_transposes_are_one(check_pass, perms: tuple[str, str]) -> None:
    given = f"(double[2,3,4] x) => (double[A,B,C] y) {{ t = Transpose{perms[0]}(x) y = Transpose{perms[1]}(t) }}"
    x = np.zeros((2, 3, 4))
    for perm in perms:
        x = x.transpose([int(i) for i in perm[7:-2].split(",")] if perm else None)
    given = given.replace("A,B,C", ",".join(map(str, x.shape)))
    check_pass(ReshapeChains(), given, ["Transpose"])


@pytest.mark.parametrize(
    ("size", "perm"), [("2,1,3", "1,0,2"), ("1,1,2,4", "0,2,1,3"), ("N,5,1,1", "0,2,3,1"), ("1,N,1", "1,2,0")]
)
def test_a_transpose_that_moves_axes_of_one_element_is_a_view(check_pass, size: str, perm: str) -> None:
    axes = size.split(",")
    moved = ",".join(axes[int(axis)] for axis in perm.split(","))
    given = f"(double[{size}] x) => (double[{moved}] y) {{ y = Transpose<perm=[{perm}]>(x) }}"
    check_pass(ReshapeChains(), given, ["Reshape"])


def test_and_goes_with_the_views_beside_it(check_pass) -> None:
    given = """(double[1,8,1,1] x) => (double[1,2,4,1,1] y) {
        a = Reshape(x, s) b = Transpose<perm=[0,2,1,3]>(a) c = Neg(b) y = Reshape(c, t) }"""
    check_pass(
        ReshapeChains(),
        given,
        ["Reshape", "Neg", "Reshape"],
        {"s": np.array([1, 1, 2, 4]), "t": np.array([1, 2, 4, 1, 1])},
    )


@pytest.mark.parametrize(("size", "perm"), [("2,3,1", "1,0,2"), ("N,M,1", "0,2,1"), ("N,2", "1,0")])
def test_a_transpose_that_moves_elements_or_has_two_open_axes_stays(check_pass, size: str, perm: str) -> None:
    moved = ",".join(size.split(",")[int(axis)] for axis in perm.split(","))
    check_pass(
        ReshapeChains(), f"(double[{size}] x) => (double[{moved}] y) {{ y = Transpose<perm=[{perm}]>(x) }}", None
    )


DYNAMIC = """(double[N,8,1,1] x, double[N,2] z) => (double[N,M] y) {{ r = Neg(x) s = Shape(r) n = Gather(s, zero)
    u = Unsqueeze(n, axes) c = Concat<axis=0>({}) f = Reshape(r, c) y = Exp(f) }}"""


@pytest.mark.parametrize(
    ("parts", "view"), [("u, rest", "Flatten"), ("rest, u", "Reshape"), ("u, four, rest", "Reshape")]
)
def test_a_shape_computed_of_the_batch_is_a_constant_where_one_axis_is_open(check_pass, parts: str, view: str) -> None:
    weights = {"zero": np.array(0), "axes": np.array([0]), "rest": np.array([8 if parts == "rest, u" else -1])}
    weights |= {"four": np.array([4])} if "four" in parts else {}
    given = DYNAMIC.format(parts).replace("double[N,M] y", "double[A,B,C] y" if "four" in parts else "double[A,B] y")
    graph = check_pass(ReshapeChains(), given.replace(", double[N,2] z", ""), ["Neg", view, "Exp"], weights)
    assert all(isinstance(t, gs.Constant) for node in graph.nodes for t in node.inputs[1:])
