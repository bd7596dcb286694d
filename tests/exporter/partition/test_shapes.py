"""The shapes inside a graph for inputs of given shapes, against what ONNX Runtime makes of such inputs."""

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from plainconv.exporter.partition import shapes_at

POOLS = """(float[N,3,H,W] x) => (float[N,F] y) {
    a = Conv<pads=[1,1,1,1], strides=[2,2]>(x, w) r = Relu(a)
    m = MaxPool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1>(r)
    u = Resize<mode="nearest">(m, , two) y = Flatten(u)
}"""
SHUFFLE = """(float[N,4,H,W] x) => (float[A,B,C,D,E] y) {
    s = Shape(x) n = Gather(s, zero) hw = Slice(s, start, end) head = Unsqueeze(n, zero1)
    groups = Concat<axis=0>(head, twos, hw) z = Reshape(x, groups) y = Relu(z)
}"""
WEIGHTS = {
    "w": np.ones((8, 3, 3, 3), np.float32),
    "two": np.array([1, 1, 2, 2], np.float32),
    "zero": np.array(0),
    "zero1": np.array([0]),
    "start": np.array([2]),
    "end": np.array([4]),
    "twos": np.array([2, 2]),
}


def weights_of(text):
    return {name: w for name, w in WEIGHTS.items() if any(f"{name}{end}" in text for end in (",", ")"))}


def shapes_when_run(model, **inputs):
    """Value → its shape as ONNX Runtime computes it."""
    model = model.clone()
    known = set(model.graph.outputs)
    model.graph.outputs.extend(v for node in model.graph for v in node.outputs if v not in known)
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    feeds = {name: np.zeros(shape, np.float32) for name, shape in inputs.items()}
    return inputs | {name: y.shape for name, y in zip(names, session.run(names, feeds), strict=True)}


@pytest.mark.parametrize("shape", [(1, 4, 8, 8), (3, 4, 8, 8), (2, 4, 7, 13)])
@pytest.mark.parametrize("text", [POOLS, SHUFFLE], ids=["pools", "shape arithmetic"])
def test_every_value_has_the_shape_that_it_has_when_it_runs(made, text, shape):
    """Given an open graph and the shape of its input → of each value inside what ONNX Runtime makes, odd sizes too."""
    model = made(text, **weights_of(text))
    shape = shape if text == SHUFFLE else (shape[0], 3, *shape[2:])
    found = shapes_at(model, {"x": shape})
    assert found == {name: tuple(s) for name, s in shapes_when_run(model, x=shape).items()}


def test_the_model_stays_as_it_is(made):
    """Given shapes, one after another → the model keeps its open axes, and each answer is its own."""
    model = made(POOLS, **weights_of(POOLS))
    before = ir.to_proto(model).SerializeToString()
    small, large = (shapes_at(model, {"x": (1, 3, n, n)}) for n in (8, 16))
    assert (small["r"], large["r"]) == ((1, 8, 4, 4), (1, 8, 8, 8))
    assert ir.to_proto(model).SerializeToString() == before


def test_shapes_that_the_file_claims_are_forgotten(made):
    """Given a graph traced at another size, its shapes fixed inside → those of the input that is given."""
    model = made("(float[1,3,8,8] x) => (float[1,3,8,8] y) { a = Relu(x) y = Exp(a) }")
    assert [v.shape for node in model.graph for v in node.outputs] == [ir.Shape((1, 3, 8, 8))] * 2
    assert shapes_at(model, {"x": (2, 3, 5, 5)}) == dict.fromkeys("xay", (2, 3, 5, 5))


def test_a_fixed_graph_needs_no_shapes(made):
    model = made("(float[2,3] x) => (float[2,3] y) { a = Relu(x) y = Exp(a) }")
    assert shapes_at(model, {}) == dict.fromkeys("xay", (2, 3))


def test_what_depends_on_numbers_is_left_out(made):
    """Given values whose size only a run tells, and an input that stays open → they are not among the shapes."""
    model = made(
        "(float[N,4] x, float[M] z) => (int64[2,K] i, float[N,4] y, float[M] w)"
        "{ a = Relu(x) i = NonZero(a) y = Exp(a) w = Exp(z) }"
    )
    assert shapes_at(model, {"x": (3, 4)}) == dict.fromkeys("xay", (3, 4))


def test_a_graph_that_says_no_shape_inside(made):
    """Given a graph whose input alone has a shape → the others follow from it."""
    model = made("(float[N,2] x) => (float[N,2] y) { a = Relu(x) y = Exp(a) }")
    for node in model.graph:
        for value in node.outputs:
            value.shape = None
    assert shapes_at(model, {"x": (7, 2)}) == dict.fromkeys("xay", (7, 2))
