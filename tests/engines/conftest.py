"""Small ONNX models, and bundles that hold them."""

import os
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import standin_cuda as standin_cuda_module
import standin_tensorrt as standin_tensorrt_module
import typed_graphs
from onnx import TensorProto, helper, numpy_helper

from plainconv.engines import building, choice, loading, split_loading
from plainconv.engines.cuda.gpu import Gpu
from plainconv.engines.tensorrt import loaded
from plainconv.exporter.bundle import GraphRecord, TensorSpec, write_bundle
from plainconv.exporter.errors import EngineError


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
        typed_onnx = staticmethod(typed_graphs.typed_onnx)
        typed_bundle = staticmethod(make_typed_bundle)

    return Make


@pytest.fixture(scope="session")
def standin_cuda():
    """The double of CUDA."""
    return standin_cuda_module


@pytest.fixture(scope="session")
def standin_tensorrt():
    """The double of TensorRT."""
    return standin_tensorrt_module


@pytest.fixture(scope="session")
def double_model(tmp_path_factory, standin_tensorrt):
    """The ONNX file that the double of TensorRT computes."""
    return standin_tensorrt.make_model(tmp_path_factory.mktemp("double") / "model.onnx")


@pytest.fixture(scope="session")
def reference(double_model):
    """What the network gives for some inputs, by name."""
    session = onnxruntime.InferenceSession(str(double_model), providers=["CPUExecutionProvider"])
    return lambda inputs: dict(zip(("logits", "pooled"), session.run(["logits", "pooled"], inputs), strict=True))


@pytest.fixture
def device(standin_cuda):
    return standin_cuda.Device()


@pytest.fixture
def make_runner(standin_tensorrt, device, double_model):
    """A TensorRT runner of the double model, on the doubles."""
    return lambda **options: standin_tensorrt.make_runner(device, double_model, **options)


@pytest.fixture
def bundle(tmp_path, make):
    return make.bundle(tmp_path / "bundle")


@pytest.fixture
def no_gpu(monkeypatch):
    def find_gpu(number=0):
        raise EngineError("no NVIDIA driver on this machine (libcuda.so.1 not found)")

    for module in (building, choice, loaded):
        monkeypatch.setattr(module, "find_gpu", find_gpu)


@pytest.fixture
def on_stand_ins(monkeypatch, standin_tensorrt, device, rtx_3090, tmp_path):
    """Has bundles run on the stand-ins, on GPUs that are all alike; gives the stand-in for a runtime's module."""
    monkeypatch.setenv("PLAINCONV_CACHE", str(tmp_path / "kernels"))
    for module in (loading, split_loading):
        monkeypatch.setattr(module, "CudaRuntime", lambda: device.cuda)
    monkeypatch.setattr(split_loading, "gpu_count", lambda: 3)

    def stand_in(name="tensorrt_rtx", **told):
        if "STANDIN_LIBRARY" in os.environ:  # the real module, on the stand-in library: see test_real_bindings.py
            from standin_library.glue import Library

            return Library(device, told.get("validity", "VALID"), told.get("diagnostics", 0))
        made = standin_tensorrt.module(device, rtx=name == "tensorrt_rtx", **told)
        monkeypatch.setitem(sys.modules, name, made)
        return made

    return stand_in


@pytest.fixture
def rtx_3090(monkeypatch):
    for module in (building, choice, loaded):
        monkeypatch.setattr(module, "find_gpu", lambda number=0: Gpu("NVIDIA GeForce RTX 3090", "sm86", 24 * 2**30))


def make_typed_bundle(target):
    """A bundle with an int8 graph and an fp8 one."""
    typed_onnx = typed_graphs.typed_onnx
    with write_bundle(target) as draft:
        draft.manifest.inputs = (TensorSpec("input", "float32", (1, 16, 8, 8)),)
        draft.manifest.outputs = (TensorSpec("logits", "float32", (1, 10)),)
        typed_onnx(draft.path("model.onnx"))
        draft.path("reference.npz").write_bytes(b"a reference")
        onnx_sha256 = draft.link_onnx().sha256
        for precision in ("int8", "fp8"):
            file = f"model.{precision}.onnx"
            typed_onnx(draft.path(file), precision)
            record = GraphRecord(file, precision, "", onnx_sha256, {precision: 2}, "reference.npz", 0.5)
            draft.add_graph(record)
    return target


@pytest.fixture
def typed(tmp_path):
    return make_typed_bundle(tmp_path / "typed")
