"""Whether anything may merge: a no is what the algebra finds, too."""

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from plainconv.exporter.onnx_file.file import graph_from_proto, infer_shapes
from plainconv.exporter.surgery.algebra import reparameterize_graph
from plainconv.exporter.surgery.chains import OPS, may_merge
from plainconv.exporter.surgery.onnx_ops import TRANSLATIONS

C = 2
WEIGHTS = {
    "w": np.full((C, C, 3, 3), 0.1), "v": np.full((C, C, 1, 1), 0.5), "c": np.full((C, 1, 1), 2.0),
    "n": np.full(C, 0.5), "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "zero": np.zeros(1, np.int64),
    "two": np.array([2]), "far": np.array([99]),
}  # fmt: skip
ONE = {
    "relu": "Relu({0})", "conv": "Conv<pads=[1,1,1,1]>({0}, w)", "point": "Conv({0}, v)", "scale": "Mul({0}, c)",
    "shift": "Add(c, {0})", "norm": "BatchNormalization({0}, n, n, n, n)", "same": "Identity({0})",
    "negative": "Neg({0})", "pad": "Pad({0}, pads)", "leaky": "LeakyRelu<alpha=0.2>({0})", 
    "slope 1": "LeakyRelu<alpha=1.0>({0})", "drop": "Dropout({0})", "slice": "Slice({0}, zero, far, two)",
    "mean": "AveragePool<kernel_shape=[2,2], strides=[1,1]>({0})",
}  # fmt: skip
TWO = {"sum": "Add({0}, {1})", "difference": "Sub({0}, {1})", "gate": "Mul({0}, {1})", "three": "Sum({0}, {1}, {0})"}


def graph_of(lines: list[str], last: str) -> gs.Graph:
    body = "\n".join([*lines, f"y = Sigmoid({last})"])
    text = f'<ir_version: 10, opset_import: ["" : 20]> g (double[1,{C},8,8] x) => (double[N,{C},H,W] y) {{ {body} }}'
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(a, name) for name, a in WEIGHTS.items())
    graph = graph_from_proto(model)
    infer_shapes(graph)
    return graph


@st.composite
def networks(draw: st.DrawFn) -> tuple[list[str], str]:
    """Up to seven nodes, each on any values before it of the same size."""
    size, lines = {"x": 8}, []
    for i in range(draw(st.integers(1, 7))):
        name, x = f"t{i}", draw(st.sampled_from(sorted(size)))
        if draw(st.booleans()):
            op = draw(st.sampled_from(sorted(ONE)))
            lines.append(f"{name} = {ONE[op].format(x)}")
            size[name] = size[x] + {"pad": 2, "mean": -1}.get(op, 0)
        else:
            other = draw(st.sampled_from(sorted(v for v in size if size[v] == size[x])))
            lines.append(f"{name} = {TWO[draw(st.sampled_from(sorted(TWO)))].format(x, other)}")
            size[name] = size[x]
    return lines, name


@given(networks())
@settings(max_examples=examples(150))
def test_a_no_is_sure(network: tuple[list[str], str]) -> None:
    """Given a graph in which nothing may merge -> the algebra merges nothing."""
    graph = graph_of(*network)
    if not may_merge(graph):
        assert reparameterize_graph(graph) == []


@pytest.mark.parametrize(
    ("lines", "wanted"),
    [
        (["a = Conv(x, v)", "b = Relu(a)", "c1 = Conv(b, v)", "d = Add(c1, b)"], True),  # the skip is a branch
        (["a = Conv(x, v)", "b = Relu(a)", "c1 = Conv(b, v)", "d = Add(c1, x)"], False),  # the skip is of another value
        (["a = Conv(x, v)", "b = Relu(x)", "p = Add(a, b)", "q = Conv(x, v)", "d = Add(p, q)"], True),  # sums in a sum
        (["a = Conv(x, v)", "g = Sigmoid(x)", "d = Mul(a, g)"], False),
        (["a = Conv(x, v)", "d = BatchNormalization(a, n, n, n, n)"], True),
        (["a = Relu(x)", "b = Relu(a)", "e = Add(a, b)", "d = Conv(e, v)"], False),
    ],
)
def test_what_may_merge(lines: list[str], wanted: bool) -> None:
    graph = graph_of(lines, "d")
    assert may_merge(graph) is wanted
    assert bool(reparameterize_graph(graph)) is wanted


def test_every_op_that_the_algebra_knows_is_seen() -> None:
    assert TRANSLATIONS.keys() == OPS
