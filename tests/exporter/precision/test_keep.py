"""Which layers stay in float32: units, ranges, and the search by measured errors."""

import math

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plainconv.exporter.precision.keep import RANGE_LEFT, beyond_range, layers_to_keep, units_of
from plainconv.exporter.precision.run import peaks_of

FP16 = ir.DataType.FLOAT16
BRANCHES = """(float[1,2] x, float[1,2] z) => (float[1,2] y) {
    n = Neg(x)
    a = MatMul(n, w)
    r = Relu(a)
    b = MatMul(r, w)
    s = Add(b, r)
    t = Exp(z)
    y = Mul(s, t)
}"""


def test_unit_of_each_node(made):
    """Given ops before, between and after two layers, and of an input of their own → each in one unit.

    One before any layer, or that no layer feeds, is the first's; a sum is that of its first operand.
    """
    units = units_of(made(BRANCHES, {"w": (2, 2)}))
    assert units == {"matmul": {"neg", "matmul", "relu", "exp"}, "matmul_": {"matmul_", "add", "mul"}}


def test_graph_without_layers_has_no_units(made):
    assert units_of(made("(float[1,2] x) => (float[1,2] y) { y = MatMul(x, x) }")) == {}


@given(st.lists(st.sampled_from(["Relu", "MatMul", "Add"]), min_size=1, max_size=12), st.data())
def test_every_node_is_in_one_unit(made, ops, data):
    values, text = ["x"], ""
    for i, op in enumerate(ops):
        first, second = (data.draw(st.sampled_from(values)) for _ in range(2))
        operands = {"Relu": first, "MatMul": f"{first}, w", "Add": f"{first}, {second}"}[op]
        text += f"v{i} = {op}({operands}) "
        values.append(f"v{i}")
    model = made(f"(float[2,2] x) => (float[2,2] {values[-1]}) {{ {text} }}", {"w": (2, 2)})
    units = units_of(model)
    nodes = [name for unit in units.values() for name in unit]
    assert sorted(nodes) == (sorted(str(n.name) for n in model.graph) if "MatMul" in ops else [])
    assert all(layer in unit for layer, unit in units.items())


@pytest.mark.parametrize(
    ("weight", "image", "kept"),
    [
        (1.0, 1.0, []),
        (1e5, 1e-5, ["matmul_"]),  # the weight itself
        (1.0, 3e4, ["matmul", "matmul_", "matmul__"]),  # what every layer reads
        (3e4, 1.0, ["matmul_", "matmul__"]),  # what one gives and the next one reads
        (1.5e4, 1.0, []),
        (math.inf, 0.0, ["matmul_"]),
        (math.nan, 1.0, ["matmul_", "matmul__"]),
    ],
)
def test_layers_beyond_the_range_of_fp16(made, weight, image, kept):
    """Given weights or values beyond a fourth of 65504 → the layers that meet them stay; the reason names a node."""
    model = made(
        "(float[1,1] x) => (float[1,1] y) { a = MatMul(x, u) b = MatMul(a, w) y = MatMul(b, u) }",
        {"u": np.ones((1, 1), np.float32), "w": np.full((1, 1), weight, np.float32)},
    )
    peaks = {"x": image, "a": image, "b": image * weight if image else 0.0, "y": image * weight if image else 0.0}
    found = beyond_range(model, units_of(model), peaks, FP16)
    assert [k.node for k in found] == kept
    assert all("over a quarter of float16's 65504" in k.reason for k in found)


def test_output_of_the_graph_counts(made):
    """Given a last layer whose outputs, which nothing reads, are near the end of fp16 → it stays."""
    weights = {"w": np.ones((1, 1), np.float32), "k": np.float32(1.6e4)}
    model = made("(float[1,1] x) => (float[1,1] y) { a = MatMul(x, w) y = Mul(a, k) }", weights)
    peaks = peaks_of(model, {"x": np.array([[1.5]], np.float32)}, 1)
    assert peaks["y"] > 65504 / RANGE_LEFT
    assert [k.node for k in beyond_range(model, units_of(model), peaks, FP16)] == ["matmul"]


def search(errors, limit):
    """The layers kept where errors add up as squares; a set that does not hold is never the result of a test."""
    names = [str(i) for i in range(len(errors))]

    def holds(kept):
        rest = [e for name, e in zip(names, errors, strict=True) if name not in kept]
        return math.sqrt(sum(e * e for e in rest)) <= limit

    tried = []
    kept = layers_to_keep(names, holds=holds, error_alone=lambda n: errors[int(n)], tried=tried.append)
    assert holds(kept.keys())
    assert tried in ([], names)
    assert all(math.isinf(e) if math.isnan(errors[int(n)]) else e == errors[int(n)] for n, e in kept.items())
    return list(kept)


@given(st.lists(st.floats(0, 10), max_size=20), st.floats(0.01, 30))
def test_smallest_number_of_the_worst_is_kept(errors, limit):
    """Given errors that add up as squares → as many of the worst as it takes, and one fewer would not do."""
    kept = search(errors, limit)
    worst = sorted(errors, reverse=True)
    fewest = next(k for k in range(len(errors) + 1) if math.sqrt(sum(e * e for e in worst[k:])) <= limit)
    assert len(kept) == fewest
    assert sorted((errors[int(n)] for n in kept), reverse=True) == worst[:fewest]


@pytest.mark.parametrize("bad", [math.inf, math.nan])
@pytest.mark.parametrize("place", range(5))
def test_layer_that_overflows_is_the_first_kept(bad, place):
    """Given one layer whose error is no number → it is kept, the small ones are not."""
    errors = [0.1, 0.2, 0.3, 0.1]
    errors.insert(place, bad)
    assert search(errors, limit=1.0) == [str(place)]


def test_nothing_is_kept_where_the_whole_holds():
    assert search([1.0, 2.0], limit=10) == []


def test_nothing_holds_but_everything_kept():
    assert sorted(search([1.0, math.inf, math.nan], limit=0.5)) == ["0", "1", "2"]


def test_no_layers():
    """Given none to choose from and a whole that does not hold → none."""
    assert layers_to_keep([], holds=lambda kept: False, error_alone=lambda n: 0.0) == {}
