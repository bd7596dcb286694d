"""Small ONNX models, and bundles that hold them."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from exporter.bundle import TensorSpec, write_bundle


def make_onnx(path, batch=1, dtype=np.float32, operator="Relu"):
    """Conv 3×3 (3 → 4 channels, 8×8 pixels) and one more operator, from "input" to "logits"."""
    random = np.random.default_rng(0)
    w_OIHW = random.normal(size=(4, 3, 3, 3)).astype(dtype)
    b_O = random.normal(size=4).astype(dtype)
    nodes = [
        helper.make_node("Conv", ["input", "w", "b"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node(operator, ["c"], ["logits"], name="last"),
    ]
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("input", kind, [batch, 3, 8, 8])],
        [helper.make_tensor_value_info("logits", kind, [batch, 4, 8, 8])],
        [numpy_helper.from_array(w_OIHW, "w"), numpy_helper.from_array(b_O, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    model.ir_version = 10
    onnx.save(model, path)
    return path


def make_gemm_onnx(path):
    """One fp32 Gemm, which Turing has not."""
    w_KN = np.ones((8, 4), np.float32)
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["input", "w"], ["logits"], name="fc")],
        "gemm",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 4])],
        [numpy_helper.from_array(w_KN, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    model.ir_version = 10
    onnx.save(model, path)
    return path


def make_bundle(target: Path, batch=1, external_data=False):
    """A bundle of the model of `make_onnx`."""
    with write_bundle(target) as draft:
        manifest = draft.manifest
        manifest.name = "small"
        manifest.inputs = (TensorSpec("input", "float32", (batch, 3, 8, 8)),)
        manifest.outputs = (TensorSpec("logits", "float32", (batch, 4, 8, 8)),)
        path = make_onnx(draft.path("model.onnx"), batch)
        if external_data:
            model = onnx.load(path)
            onnx.save(model, path, save_as_external_data=True, location="model.onnx.data", size_threshold=0)
        draft.link("checkpoint", sha256="c" * 64)
        draft.link_onnx()
    return target


@pytest.fixture
def onnx_file(tmp_path):
    return make_onnx(tmp_path / "model.onnx")


@pytest.fixture
def make():
    """The makers above, for tests that want other models."""

    class Make:
        onnx = staticmethod(make_onnx)
        gemm_onnx = staticmethod(make_gemm_onnx)
        bundle = staticmethod(make_bundle)

    return Make
