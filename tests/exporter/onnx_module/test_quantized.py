"""Rounding to integers and back, beside ONNX Runtime."""

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper, parser

from plainconv.exporter.errors import SourceError
from plainconv.exporter.onnx_module import module_from_onnx
from plainconv.exporter.parity.widen import float64_outputs

TYPES = {"int8": "int8", "uint8": "uint8", "int16": "int16"}


def rounded(scale: np.ndarray, zero: np.ndarray, axis: int = 1) -> onnx.ModelProto:
    """x, to integers and back."""
    text = f"(float[2,3,4] x) => ({zero.dtype.name}[2,3,4] q, float[2,3,4] y)"
    body = f"{{ q = QuantizeLinear<axis={axis}>(x, s, z) y = DequantizeLinear<axis={axis}>(q, s, z) }}"
    model = parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> g {text} {body}')
    model.graph.initializer.extend([numpy_helper.from_array(scale, "s"), numpy_helper.from_array(zero, "z")])
    return model


@pytest.mark.parametrize("dtype", list(TYPES))
@pytest.mark.parametrize("size", [None, 3])
def test_the_numbers_of_onnx_runtime(dtype, size):
    """Given one scale, or one for each channel, numbers beyond the range, halves -> the same numbers."""
    rng = np.random.default_rng(0)
    scale = np.asarray(rng.uniform(0.01, 0.1, size), np.float32)
    zero = np.asarray(rng.integers(0, 5, size), dtype)
    model = rounded(scale, zero)
    x = rng.normal(size=(2, 3, 4)).astype(np.float32) * 5
    x[0, 0] = np.float32(scale.flat[0]) * np.array([0.5, 1.5, -0.5, 2.5], np.float32)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    q, y = session.run(None, {"x": x})
    module = module_from_onnx(gs.import_onnx(model))
    found_q, found_y = module(torch.from_numpy(x))
    np.testing.assert_array_equal(found_q.numpy(), q)
    np.testing.assert_allclose(found_y.numpy(), y, rtol=1e-6)
    wide_q, wide_y = float64_outputs(module, (torch.from_numpy(x),), may_copy=False)
    assert (wide_q.dtype, wide_y.dtype) == (found_q.dtype, torch.float64)


def test_blocks_are_another_form():
    model = rounded(np.ones((2, 3, 2), np.float32), np.zeros((2, 3, 2), np.int8), axis=2)
    for node in model.graph.node:
        node.attribute.append(onnx.helper.make_attribute("block_size", 2))
    with pytest.raises(SourceError, match="QuantizeLinear 'q' has the type int8, or blocks, which is not taken"):
        module_from_onnx(gs.import_onnx(model))(torch.ones(2, 3, 4))
