import numpy as np
import onnx_graphsurgeon as gs
import pytest

from plainconv.exporter.surgery.channels import channel_map
from plainconv.exporter.surgery.passes.channel_layout import ChannelLayout

SHUFFLE = {"s": np.array([2, 2, 3, 4, 5]), "t": np.array([2, 6, 4, 5])}
GIVEN = """(double[{n},6,4,5] x) => (double[{n},6,4,5] y)
    {{ a = Neg(x) b = Reshape(a, s) c = Transpose<perm=[0,2,1,3,4]>(b) d = Reshape(c, t) y = Exp(d) }}"""


def test_a_channel_shuffle_is_a_gather(check_pass) -> None:
    graph = check_pass(ChannelLayout(), GIVEN.format(n=2), ["Neg", "Gather", "Exp"], SHUFFLE)
    gather = next(node for node in graph.nodes if node.op == "Gather")
    assert gather.attrs["axis"] == 1
    assert gather.inputs[1].values.tolist() == [0, 3, 1, 4, 2, 5]


def test_the_same_at_an_open_batch(check_pass) -> None:
    shapes = {"s": np.array([-1, 2, 3, 4, 5]), "t": np.array([-1, 6, 4, 5])}
    check_pass(ChannelLayout(), GIVEN.format(n="N"), ["Neg", "Gather", "Exp"], shapes)


def test_gathers_of_an_open_map_are_one(check_pass) -> None:
    """Given two shuffles of maps of any size → one, by the product of both."""
    given = """(double[N,6,H,W] x) => (double[N,6,H,W] y) {
        a = Neg(x) b = Gather<axis=1>(a, i) c = Gather<axis=1>(b, i) y = Exp(c) }"""
    graph = check_pass(ChannelLayout(), given, ["Neg", "Gather", "Exp"], {"i": np.array([1, 2, 0, 5, 3, 4])})
    gather = next(node for node in graph.nodes if node.op == "Gather")
    assert gather.inputs[1].values.tolist() == [2, 0, 1, 4, 5, 3]


def test_an_interleaved_concat_is_a_concat_and_a_gather(check_pass) -> None:
    given = """(double[2,3,4,5] x, double[2,3,4,5] z) => (double[2,6,4,5] y) {
        a = Unsqueeze(x, two) b = Unsqueeze(z, two) c = Concat<axis=2>(a, b) d = Reshape(c, t) y = Exp(d) }"""
    graph = check_pass(
        ChannelLayout(), given, ["Concat", "Gather", "Exp"], {"two": np.array([2]), "t": np.array([2, 6, 4, 5])}
    )
    gather = next(node for node in graph.nodes if node.op == "Gather")
    assert gather.inputs[1].values.tolist() == [0, 3, 1, 4, 2, 5]


def test_two_shuffles_that_undo_each_other_leave_nothing_to_gather(check_pass) -> None:
    given = """(double[2,6,4,5] x) => (double[2,6,4,5] y) {
        b = Reshape(x, s) c = Transpose<perm=[0,2,1,3,4]>(b) d = Reshape(c, t) e = Reshape(d, u)
        f = Transpose<perm=[0,2,1,3,4]>(e) g = Reshape(f, t) y = Exp(g) }"""
    weights = SHUFFLE | {"u": np.array([2, 3, 2, 4, 5])}
    check_pass(ChannelLayout(), given, ["Exp"], weights)


@pytest.mark.parametrize(
    "given",
    [
        # height and width change places
        "(double[2,6,4,5] x) => (double[2,6,5,4] y) { a = Transpose<perm=[0,1,3,2]>(x) b = Identity(a) y = Exp(b) }",
        # elements leave their channel
        """(double[2,6,4,5] x) => (double[2,6,4,5] y)
           { a = Reshape(x, u) b = Transpose<perm=[0,2,1]>(a) c = Reshape(b, t) y = Exp(c) }""",
        # a value on the way is read elsewhere
        """(double[2,6,4,5] x) => (double[2,6,4,5] y, double[2,3,2,4,5] c)
           { b = Reshape(x, s) c = Transpose<perm=[0,2,1,3,4]>(b) d = Reshape(c, t) y = Exp(d) }""",
        # whatever an open size is taken for, these are two
        "(double[N,6,H,W] x) => (double[N,6,V,U] y) { b = Transpose<perm=[0,1,3,2]>(x) c = Identity(b) y = Exp(c) }",
        # already in its normal form
        "(double[2,6,4,5] x) => (double[2,6,4,5] y) { b = Gather<axis=1>(x, i) y = Exp(b) }",
        "(double[2,6,4,5] x) => (double[2,12,4,5] y) { b = Concat<axis=1>(x, x) y = Exp(b) }",
    ],
)
def test_anything_else_stays(check_pass, given: str) -> None:
    weights = {**SHUFFLE, "u": np.array([2, 12, 10]), "i": np.array([5, 4, 3, 2, 1, 0])}
    check_pass(ChannelLayout(), given, None, {k: v for k, v in weights.items() if f", {k})" in given})


def test_a_map_of_an_open_size_is_not_taken_for_one_of_a_known_size() -> None:
    """Given [N, 4, h, w] viewed as [N, 4, 3, 3] → no map of channels: h·w = 9 says nothing of h and w."""
    x, y = (gs.Variable(name, np.float32, ["N", 4, *size]) for name, size in (("x", ("h", "w")), ("y", (3, 3))))
    shape = gs.Constant("shape", np.array([-1, 4, 3, 3]))
    view = gs.Node("Reshape", "view", inputs=[x, shape], outputs=[y])
    assert channel_map(gs.Graph([view], inputs=[x], outputs=[y]), y) is None
