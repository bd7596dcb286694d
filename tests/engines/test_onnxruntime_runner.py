"""Running a model by ONNX Runtime."""

import numpy as np
import pytest

from engines.onnxruntime import OnnxRuntimeRunner
from exporter.bundle import TensorSpec
from exporter.errors import EngineError


def conv_relu(model, x_NCHW):
    """The model of `make_onnx`, in float64, tap by tap."""
    import onnx
    from onnx import numpy_helper

    w_OIHW, b_O = (numpy_helper.to_array(t).astype(np.float64) for t in onnx.load(model).graph.initializer)
    padded = np.pad(x_NCHW.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    n, _, h, w = x_NCHW.shape
    y = np.zeros((n, len(b_O), h, w)) + b_O[:, None, None]
    for r in range(3):
        for s in range(3):
            y += np.einsum("oi,nihw->nohw", w_OIHW[:, :, r, s], padded[:, :, r : r + h, s : s + w])
    return np.maximum(y, 0)


def test_run(onnx_file):
    """Given an ONNX file -> its specs, and its outputs by name, equal to the same sum in NumPy."""
    x = np.random.default_rng(1).normal(size=(1, 3, 8, 8)).astype(np.float32)
    with OnnxRuntimeRunner(onnx_file, threads=1) as runner:
        assert runner.inputs == (TensorSpec("input", "float32", (1, 3, 8, 8)),)
        assert runner.outputs == (TensorSpec("logits", "float32", (1, 4, 8, 8)),)
        y = runner({"input": x})["logits"]
    np.testing.assert_allclose(y, conv_relu(onnx_file, x), rtol=1e-5, atol=1e-5)


def test_symbolic_batch(tmp_path, make):
    with OnnxRuntimeRunner(make.onnx(tmp_path / "m.onnx", batch="batch")) as runner:
        assert runner.inputs[0].shape == ("batch", 3, 8, 8)
        assert runner({"input": np.zeros((5, 3, 8, 8), np.float32)})["logits"].shape == (5, 4, 8, 8)


def test_float16(tmp_path, make):
    with OnnxRuntimeRunner(make.onnx(tmp_path / "m.onnx", dtype=np.float16)) as runner:
        assert runner.inputs[0].dtype == "float16"
        assert runner({"input": np.zeros((1, 3, 8, 8), np.float16)})["logits"].dtype == np.float16


def test_wrong_input(onnx_file):
    with OnnxRuntimeRunner(onnx_file) as runner, pytest.raises(EngineError, match="inputs are x, wanted input"):
        runner({"x": np.zeros((1, 3, 8, 8), np.float32)})


def test_closed(onnx_file):
    """Given a runner that was closed, twice -> running it is one line."""
    with OnnxRuntimeRunner(onnx_file) as runner:
        runner.close()
    with pytest.raises(EngineError, match="the runner is closed"):
        runner({"input": np.zeros((1, 3, 8, 8), np.float32)})


@pytest.mark.parametrize("content", [b"", b"junk" * 9, None])
def test_file_that_is_no_model(tmp_path, content):
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(EngineError, match=r"model\.onnx: ONNX Runtime cannot load it") as raised:
        OnnxRuntimeRunner(path)
    assert "\n" not in str(raised.value)
