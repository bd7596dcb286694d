"""Typed graphs on the CPU, and the largest value of each tensor."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.testing import assert_array_equal

from plainconv.exporter.errors import ExportError
from plainconv.exporter.onnx_file import ir_graph
from plainconv.exporter.onnx_file.ir_graph import save
from plainconv.exporter.precision.narrow import narrow
from plainconv.exporter.precision.run import batches, peaks_of, run_of

CHAIN = "(float[2,3] x) => (float[2,3] y) { a = Neg(x) b = Relu(a) c = Shape(b) y = Mul(b, k) }"


@pytest.mark.parametrize(("count", "batch"), [(1, 1), (5, 2), (4, 2), (1, 3), (7, 7)])
def test_batches_are_whole_and_hold_every_image(count, batch):
    x = np.arange(count)
    found = [feed["x"] for feed in batches({"x": x}, batch)]
    assert {len(b) for b in found} == {batch}
    assert_array_equal(np.concatenate(found)[:count], x)
    assert set(np.concatenate(found)[count:]) <= {count - 1}


def test_peaks_of_every_float_value(made, checked):
    """Given seven images at a batch of two → max |x| of the input, each value and the output."""
    model = made(CHAIN, {"k": np.float32(-10)})
    before = checked(model)
    x = np.random.default_rng(0).standard_normal((7, 3)).astype(np.float32)
    peaks = peaks_of(model, {"x": x}, 2)
    assert peaks == {"x": np.abs(x).max(), "a": np.abs(x).max(), "b": (-x).max(), "y": 10 * (-x).max()}
    assert checked(model) == before


def test_peaks_of_several_inputs(made):
    model = made("(float[1,2] x, float[1,2] z) => (float[1,2] y) { y = Add(x, z) }")
    x, z = np.array([[1, -3]], np.float32), np.array([[-1, -4]], np.float32)
    assert peaks_of(model, {"x": x, "z": z}, 1) == {"x": 3, "z": 4, "y": 7}


def test_run_leaves_the_model_and_rounds(made, checked):
    model = made(CHAIN, {"k": np.float32(1)})
    narrow(model, ir.DataType.FLOAT16)
    before = checked(model)
    x = np.full((2, 3), -1 - 2.0**-12, np.float32)
    assert_array_equal(run_of(model)(x)[0], np.ones((2, 3), np.float32))
    assert checked(model) == before


def test_graph_that_the_runtime_refuses_is_an_error_of_one_line(made):
    with pytest.raises(ExportError, match="ONNX Runtime refuses it") as raised:
        run_of(made("(float[2] x) => (float[2] y) { y = other.Op(x) }"))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("limit", [2**30, 8])
def test_large_weights_lie_beside_the_file(made, tmp_path, monkeypatch, limit):
    """Given weights beyond the limit → a second file, and the same numbers from both."""
    monkeypatch.setattr(ir_graph, "_BESIDE", limit)
    path = tmp_path / "typed.onnx"
    save(made("(float[1,2] x) => (float[1,3] y) { y = MatMul(x, w) }", {"w": (2, 3)}), path)
    assert (tmp_path / "typed.onnx.data").exists() == (limit == 8)
    onnx.checker.check_model(str(path), full_check=True)
    x = np.ones((1, 2), np.float32)
    assert_array_equal(
        run_of(ir.load(path))(x)[0], x @ onnx.numpy_helper.to_array(onnx.load(path).graph.initializer[0])
    )
