import numpy as np
import onnx
import pytest
from onnx import parser

from plainconv.exporter.parity.segments import Segments

TEXT = """<ir_version: 10, opset_import: ["" : 20]> g (float[2,3] x) => (float[2,3] y)
{ [one] a = Relu(x) [two] b = Add(a, a) [three] c = Neg(b) [four] y = Mul(c, a) }"""
X = np.array([[-1.0, 2.0, 3.0], [4.0, -5.0, 6.0]], np.float32)


def test_each_piece_is_run_on_the_right_inputs() -> None:
    """Given cuts at a and c → y comes of these two, whatever came before; the nodes between are in the piece."""
    segments = Segments(parser.parse_model(TEXT), ["y", "c", "a"])
    assert segments.names == ["a", "c", "y"]
    assert segments.nodes["c"] == "three"
    assert segments.within["c"] == {"two", "three"}
    right = {"a": np.full((2, 3), 2, np.float32), "c": np.full((2, 3), 5, np.float32)}
    found = dict(segments.local([X], right))
    assert np.array_equal(found["a"], np.maximum(X, 0))
    assert np.array_equal(found["c"], np.full((2, 3), -4))
    assert np.array_equal(found["y"], np.full((2, 3), 10))


@pytest.mark.parametrize("run", ["free", "optimized"])
def test_a_whole_run_gives_every_value(run: str) -> None:
    segments = Segments(parser.parse_model(TEXT), ["a", "b", "c", "y"])
    found = getattr(segments, run)([X])
    relu = np.maximum(X, 0)
    assert [found[name].tolist() for name in "abcy"] == [v.tolist() for v in (relu, 2 * relu, -2 * relu, -2 * relu**2)]


def test_a_piece_that_does_not_run_is_said_in_words_and_spares_the_others() -> None:
    model = parser.parse_model(TEXT)
    model.graph.node[2].CopyFrom(onnx.helper.make_node("Reshape", ["b", "seven"], ["c"], name="three"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([7], np.int64), "seven"))
    segments = Segments(model, ["a", "c", "y"])
    assert segments.free([X]) == {}
    found = dict(segments.local([X], {"a": X, "c": X}))
    assert isinstance(found["c"], str) and "three" in found["c"]
    assert np.array_equal(found["y"], X * X)
