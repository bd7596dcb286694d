"""Two files, bit for bit."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from plainconv.exporter.parity.identical import are_identical

SIZES = (16, 8)
CONV = "float[N,3,H,W] x) => (float[N,4,A,B] y) { a = Conv(x, w) y = Relu(a)"
CLIPPED = "low = Constant<value_float=0.0>() high = Constant<value_float=9.0>() y = Clip(a, low, high)"
"""As a Relu, but for values that few inputs reach."""


def saved(path: Path, text: str, change: float = 0.0) -> Path:
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> g ({text} }}')
    w = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(w + np.float32(change), "w"))
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    ("text", "change", "wanted"),
    [
        (CONV, 0.0, True),
        (CONV.replace("y = Relu(a)", "b = Relu(a) y = Identity(b)"), 0.0, True),
        (CONV, 1e-7, False),  # a weight is off in its last place
        (CONV.replace("y = Relu(a)", "y = Abs(a)"), 0.0, False),
        (CONV.replace("y = Relu(a)", CLIPPED), 0.0, False),
    ],
)
def test_only_the_same_bits_are_the_same(tmp_path: Path, text: str, change: float, wanted: bool) -> None:
    source = saved(tmp_path / "a.onnx", CONV)
    assert are_identical(source, saved(tmp_path / "b.onnx", text, change), SIZES) is wanted


@pytest.mark.parametrize("text", [CONV.replace("Relu(a)", "Log(a)"), CONV.replace("Relu(a)", "Unheard(a)")])
def test_nothing_is_told_of_nan_nor_of_what_does_not_run(tmp_path: Path, text: str) -> None:
    source = saved(tmp_path / "a.onnx", text)
    assert not are_identical(source, source, SIZES)


def test_sizes_are_tried_until_one_fits(tmp_path: Path) -> None:
    """Given a graph that takes maps of 8 pixels alone -> compared there."""
    text = CONV.replace("y = Relu(a)", "y = Reshape(a, s)").replace("{", "{ s = Constant<value_ints=[0, 4, 6, 6]>() ")
    source = saved(tmp_path / "a.onnx", text)
    assert are_identical(source, source, SIZES)
    assert not are_identical(source, source, (16,))
