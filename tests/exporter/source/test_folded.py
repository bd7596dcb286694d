"""Preprocessing as a layer of the network."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from torch import Tensor, nn

from plainconv import engines, exporter
from plainconv.engines.predict.geometry import geometry_of
from plainconv.engines.predict.images import upright
from plainconv.engines.predict.pixels import input_of
from plainconv.engines.predict.predictor import predictor_of
from plainconv.exporter.bundle import Bundle, Preprocessing
from plainconv.exporter.bundle.presets import preprocessing_given
from plainconv.exporter.errors import SourceError
from plainconv.exporter.pipeline.export import Job, export_bundle
from plainconv.exporter.source.folded import fold_preprocessing
from plainconv.exporter.source.network import Network, Request

PIXELS = np.random.default_rng(3).integers(0, 256, (8, 8, 3), np.uint8)
NORMALIZED = {"scale": 1 / 255, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


class Small(nn.Module):
    """A conv of that padding, and a head of three classes."""

    def __init__(self, padding: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3, padding=padding)
        self.head = nn.Linear(4, 3)

    def forward(self, image: Tensor) -> Tensor:
        """[N, 3, H, W] → [N, 3]."""
        return self.head(self.conv(image).relu().mean((2, 3)))  # type: ignore[no-any-return]


def network_of(module: nn.Module, wanted: Preprocessing | None, shape: tuple[int, ...], **more: Any) -> Network:
    return Network("small", module.eval(), {"image": torch.zeros(shape)}, wanted, {}, "0" * 64, **more)


def input_from(pixels: np.ndarray, wanted: Preprocessing) -> np.ndarray:
    from PIL import Image

    image = upright(Image.fromarray(pixels), wanted.color)[0]
    return input_of(image, wanted, geometry_of(wanted, (image.height, image.width)))


@pytest.mark.parametrize("color", ["rgb", "bgr", "gray"])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_bytes_in_are_what_the_network_took(color: str, layout: str) -> None:
    """Given any colour and layout -> in float64 the folded network is the network, on what preprocessing made of it."""
    count = 1 if color == "gray" else 3
    said = {**NORMALIZED, **({"mean": [0.3], "std": [0.4]} if count == 1 else {})}
    wanted = preprocessing_given(
        {"color": color, "layout": layout, "resize": {"rule": "exact", "size": [6, 7]}, **said}
    )
    assert wanted is not None
    seen = nn.Identity()
    network = network_of(seen, wanted, (1, count, 6, 7) if layout == "nchw" else (1, 6, 7, count))
    fold_preprocessing(network)
    after = network.preprocessing
    assert after is not None and (after.layout, after.type, after.scale) == ("nhwc", "uint8", 1)
    assert network.example.shape == (1, 6, 7, count) and network.example.dtype == torch.uint8
    bytes_ = torch.from_numpy(input_from(PIXELS, after))
    exact = input_from(PIXELS, wanted).astype(np.float64)
    assert np.allclose(network.module.double()(bytes_).numpy(), exact, atol=3e-7)


@pytest.mark.parametrize("padding", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_the_mean_stays_a_node_where_there_is_padding(padding: int, tmp_path: Path) -> None:
    """Given a conv without padding -> all of it is in its weights; with, one subtraction; the same answers."""
    job: dict[str, Any] = {"preprocessing": {**NORMALIZED, "resize": {"rule": "exact", "size": [8, 8]}}, "check": False}
    found = {}
    for fold in (False, True):
        bundle = exporter.export(
            Small(padding), torch.zeros(1, 3, 8, 8), tmp_path / f"{fold}", fold_preprocessing=fold, **job
        )
        with engines.load(bundle, "onnxruntime") as net:
            found[fold] = {each.number: each.score for each in net.predict(PIXELS)}
            prepared = predictor_of(bundle.manifest).prepare(PIXELS)
            assert next(iter(prepared.inputs.values())).dtype == (np.uint8 if fold else np.float32)
    ops = [node.op_type for node in onnx.load(tmp_path / "True" / "model.onnx").graph.node]
    assert ops[: ops.index("Conv")] == ["Transpose", "Cast"] + ["Add"] * padding
    assert found[True] == pytest.approx(found[False], abs=1e-6)


@pytest.mark.parametrize(
    ("given", "more", "said"),
    [
        (None, {}, "small has no preprocessing to fold; give --preprocessing"),
        ("coco-8", {}, "the letterbox has the value [123.675, 116.28, 103.53], which no byte is"),
        ("imagenet-8", {"data": {"image": np.zeros((2, 3, 8, 8))}}, "--inputs has images as small takes them unfolded"),
    ],
)
def test_what_cannot_be_folded(given: str | None, more: dict[str, Any], said: str) -> None:
    network = network_of(nn.Identity(), preprocessing_given(given), (1, 3, 8, 8), **more)
    with pytest.raises(SourceError) as caught:
        fold_preprocessing(network)
    assert said in str(caught.value) and "leave --fold-preprocessing out" in str(caught.value)


@pytest.mark.parametrize("color", ["rgb", "bgr"])
def test_an_onnx_file_takes_bytes_too(color: str, tmp_path: Path) -> None:
    """Given an ONNX file, its batch open -> bytes in, the same answers; cast and transpose before the conv alone."""
    file, small = tmp_path / "small.onnx", Small(0)
    values = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("image", ["n", 3, 8, 8]), ("y", ["n", 3]))
    ]
    weights = {"w": small.conv.weight, "b": small.conv.bias, "v": small.head.weight, "c": small.head.bias}
    tensors = [onnx.numpy_helper.from_array(w.detach().numpy(), name) for name, w in weights.items()]
    nodes = [
        helper.make_node("Conv", ["image", "w", "b"], ["f"]),
        helper.make_node("Relu", ["f"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["m"]),
        helper.make_node("Gemm", ["m", "v", "c"], ["y"], transB=1),
    ]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], tensors)
    onnx.save(helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)]), file)
    found = {}
    for fold in (False, True):
        said = {"color": color, **NORMALIZED, "resize": {"rule": "exact", "size": [8, 8]}}
        job = Job(str(file), Request(), tmp_path / f"{fold}", preprocessing=said, fold=fold, dynamic_batch=(1, 1, 4))
        bundle = Bundle.open(export_bundle(job))
        with engines.load(bundle.folder, "onnxruntime") as net:
            found[fold] = {each.number: each.score for each in net.predict(PIXELS)}
        assert [spec.dtype for spec in bundle.inputs] == ["uint8" if fold else "float32"]
    assert bundle.inputs[0].shape == ("batch", 8, 8, 3)
    ops = [node.op_type for node in onnx.load(tmp_path / "True" / "model.onnx").graph.node]
    assert ops.index("Conv") <= 2
    assert found[True] == pytest.approx(found[False], abs=1e-6)


def test_open_sizes_are_refused_before_any_work(tmp_path: Path) -> None:
    sizes = ((8, 8), (8, 8), (16, 16))
    job = Job("none.onnx", Request(), tmp_path / "b", preprocessing="yolo-8", fold=True, dynamic_size=sizes)
    with pytest.raises(SourceError, match="leave one of them out"):
        export_bundle(job)
