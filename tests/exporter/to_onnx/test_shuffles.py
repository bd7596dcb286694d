"""Channel shuffles of open maps: a Gather where views move whole channels, and nothing else."""

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plainconv.exporter.to_onnx.shuffles import gather_from_shuffles


def shuffle(factors, permutation, rest=("height", "width"), joined=None):
    """x → Reshape to the factors → Transpose → Reshape → y, as the trace writes it for an open map."""
    channels = int(np.prod(factors))
    shape = ["batch", channels, *rest]
    middle = ["batch", *factors, *rest]
    x = gs.Variable("x", np.float32, shape)
    split = gs.Variable("split", np.float32, middle)
    moved = gs.Variable("moved", np.float32, [middle[axis] for axis in permutation])
    y = gs.Variable("y", np.float32, joined or shape)
    sizes = [gs.Variable(name, np.int64, [len(of.shape)]) for name, of in (("to_split", split), ("to_y", y))]
    nodes = [
        gs.Node("Reshape", "view", inputs=[x, sizes[0]], outputs=[split]),
        gs.Node("Transpose", "transpose", {"perm": list(permutation)}, [split], [moved]),
        gs.Node("Reshape", "join", inputs=[moved, sizes[1]], outputs=[y]),
    ]
    return gs.Graph(nodes, inputs=[x, *sizes], outputs=[y], opset=20)


@given(st.lists(st.integers(1, 4), min_size=2, max_size=3), st.randoms(use_true_random=False))
def test_any_shuffle_becomes_the_gather_that_numpy_makes_of_it(factors, random):
    """Given channels split and put in any order -> y[:, c] = x[:, index[c]]; a second run does nothing."""
    order = list(range(1, 1 + len(factors)))
    random.shuffle(order)
    permutation = [0, *order, 1 + len(factors), 2 + len(factors)]
    graph = shuffle(factors, permutation)
    assert gather_from_shuffles(graph) == 1
    (node,) = graph.nodes
    assert (node.op, node.attrs, node.inputs[0].name, node.outputs[0].name) == ("Gather", {"axis": 1}, "x", "y")
    x = np.random.default_rng(0).normal(size=(2, int(np.prod(factors)), 3, 5))
    wanted = x.reshape(2, *factors, 3, 5).transpose(permutation).reshape(x.shape)
    assert np.array_equal(np.take(x, node.inputs[1].values, axis=1), wanted)
    assert gather_from_shuffles(graph) == 0


@pytest.mark.parametrize(
    "graph",
    [
        shuffle([2, 4], [0, 1, 3, 2, 4]),  # channels and rows change places
        shuffle([2, 4], [1, 0, 2, 3, 4]),  # the batch moves
        shuffle([2, 4], [0, 2, 1, 4, 3]),  # height and width change places
        shuffle([2, 4], [0, 2, 1, 3, 4], joined=["batch", 8, "width", "height"]),
        shuffle([2, 4], [0, 2, 1, 3, 4], joined=["batch", 4, "2*height", "width"]),
    ],
)
def test_what_moves_more_than_channels_stays(graph):
    before = [node.op for node in graph.nodes]
    assert gather_from_shuffles(graph) == 0
    assert [node.op for node in graph.nodes] == before


def test_value_that_something_else_reads_stays():
    graph = shuffle([2, 4], [0, 2, 1, 3, 4])
    graph.outputs.append(graph.nodes[1].outputs[0])
    assert gather_from_shuffles(graph) == 0
