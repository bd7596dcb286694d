"""What a runner accepts."""

import numpy as np
import pytest

from engines.runner import check_inputs
from exporter.bundle import ShapeRange, TensorSpec
from exporter.errors import EngineError

SPECS = (TensorSpec("image", "float32", ("batch", 3, "size", "size")), TensorSpec("scale", "float32", ("batch",)))


def good(batch=2, size=8):
    return {"image": np.zeros((batch, 3, size, size), np.float32), "scale": np.ones(batch, np.float32)}


def test_inputs_that_fit():
    """Given inputs of the right names, dtypes and shapes, symbols of one size each -> accepted, twice over."""
    check_inputs(good(), SPECS)
    check_inputs(good(7, 1), SPECS)
    covered = {"image": ShapeRange((1, 3, 8, 8), (2, 3, 8, 8), (4, 3, 8, 8))}
    check_inputs(good(1), SPECS, covered)
    check_inputs(good(4), SPECS, covered)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": None}, "inputs are image, wanted image, scale"),
        ({"more": np.zeros(1)}, "inputs are image, more, scale, wanted image, scale"),
        ({"image": [1.0]}, "input image is a list, wanted a NumPy array"),
        ({"image": np.zeros((2, 3, 8, 8))}, "input image is dtype.'float64'., wanted float32; give it .astype"),
        ({"image": np.zeros((2, 3, 8, 8), ">f4")}, "input image is dtype.'>f4'., wanted float32"),
        ({"image": np.zeros((2, 4, 8, 8), np.float32)}, r"shape \[2, 4, 8, 8\], wanted \[batch, 3, size, size\]"),
        ({"image": np.zeros((2, 3, 8), np.float32)}, r"shape \[2, 3, 8\], wanted \[batch, 3, size, size\]"),
        ({"image": np.zeros((2, 3, 8, 9), np.float32)}, "where batch = 2, size = 8"),
        ({"image": np.zeros((0, 3, 8, 8), np.float32)}, r"shape \[0, 3, 8, 8\]"),
        ({"scale": np.ones(3, np.float32)}, r"input scale has shape \[3\], wanted \[batch\] where batch = 2"),
        ({"image": np.zeros((2, 8, 8, 3), np.float32).transpose(0, 3, 1, 2)}, "not contiguous in memory; give np.asc"),
    ],
)
def test_inputs_that_do_not_fit(change, message):
    """Given one thing wrong -> one line that says what was found and what was wanted."""
    inputs = {name: array for name, array in {**good(), **change}.items() if array is not None}
    with pytest.raises(EngineError, match=message) as raised:
        check_inputs(inputs, SPECS)
    assert "\n" not in str(raised.value)


def test_inputs_beyond_the_optimization_profile():
    covered = {"image": ShapeRange((1, 3, 8, 8), (2, 3, 8, 8), (4, 3, 8, 8))}
    with pytest.raises(EngineError, match=r"optimization profile covers \[1, 3, 8, 8\] to \[4, 3, 8, 8\]; split it"):
        check_inputs(good(5), SPECS, covered)
