import logging
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from plainconv.exporter.errors import ExportError
from plainconv.exporter.surgery import simplify
from plainconv.exporter.to_onnx import MAX_OPSET, MIN_OPSET
from plainconv.exporter.to_onnx.export import (
    graph_from_module,
    onnx_from_module,
)

EXAMPLE = torch.randn(1, 3, 16, 16)


def plain(channels: int = 8) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, channels, 4, 4),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 3, padding=1, groups=channels),
        nn.Conv2d(channels, channels, 1),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(channels, 5),
    ).eval()


class Viewed(nn.Module):
    """Ends in a view that reads the batch off the value, as VanillaNet does."""

    def __init__(self) -> None:
        super().__init__()
        self.body = plain()[:7]
        self.head = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(self.body(x))
        return x.view(x.size(0), -1)


def outputs(path: Path, x: Tensor) -> np.ndarray:
    return onnxruntime.InferenceSession(str(path)).run(None, {"input": x.numpy()})[0]


def assert_same(path: Path, module: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        np.testing.assert_allclose(outputs(path, x), module(x).numpy(), rtol=1e-4, atol=1e-5)


def test_the_file_computes_what_the_module_does_and_passes_the_full_checker(tmp_path: Path) -> None:
    module = plain()
    path = onnx_from_module(module, EXAMPLE, tmp_path / "model.onnx", metadata={"checkpoint": "abc"})
    onnx.checker.check_model(str(path), full_check=True)
    model = onnx.load(path)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    assert_same(path, module, EXAMPLE)
    assert model.producer_name == "plainconv"
    assert {p.key: p.value for p in model.metadata_props} == {"checkpoint": "abc"}
    assert [t.name for t in (*model.graph.input, *model.graph.output)] == ["input", "logits"]
    assert model.opset_import[0].version == MIN_OPSET


def test_names_come_from_the_network_and_nothing_tells_of_this_machine(tmp_path: Path) -> None:
    path = onnx_from_module(plain(), EXAMPLE, tmp_path / "model.onnx")
    model = onnx.load(path)
    assert {"0.weight", "0.bias", "8.weight"} <= {t.name for t in model.graph.initializer}
    assert [n.name for n in model.graph.node if n.op_type == "Conv"] == ["0", "2", "3"]
    content = path.read_bytes()
    assert str(Path.cwd()).encode() not in content
    assert b".py" not in content


def test_the_same_module_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (onnx_from_module(plain(), EXAMPLE, tmp_path / name) for name in ("1.onnx", "2.onnx"))
    assert first.read_bytes() == second.read_bytes()


def test_weights_are_neither_copied_nor_changed() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(4 * 256, 600)).eval()
    graph = graph_from_module(module, EXAMPLE)
    weight = graph.tensors()["2.weight"].values
    assert weight.ctypes.data == module[2].weight.data_ptr()


@pytest.mark.parametrize("layout", ["channels_last", "transposed", "sliced"])
def test_weights_that_are_not_contiguous_leave_no_ops_behind(tmp_path: Path, layout: str) -> None:
    module = plain()
    with torch.no_grad():
        if layout == "channels_last":
            module = module.to(memory_format=torch.channels_last)
        elif layout == "transposed":
            module[3].weight = nn.Parameter(module[3].weight.detach().transpose(0, 1).contiguous().transpose(0, 1))
        else:
            module[8].weight = nn.Parameter(torch.cat([module[8].weight, module[8].weight])[::2])
    before = [p.stride() for p in module.parameters()]
    path = onnx_from_module(module, EXAMPLE, tmp_path / "model.onnx")
    ops = Counter(node.op_type for node in onnx.load(path).graph.node)
    assert not {"Gather", "Range", "Shape", "Transpose", "Slice", "Identity"} & set(ops)
    assert_same(path, module, EXAMPLE)
    assert [p.stride() for p in module.parameters()] == before


def test_an_open_batch_is_named_batch_and_takes_any_number(tmp_path: Path) -> None:
    module = Viewed().eval()
    raw = onnx_from_module(module, EXAMPLE, tmp_path / "raw.onnx", dynamic_batch=True)
    report = simplify(raw, tmp_path / "plain.onnx")
    for path in (raw, tmp_path / "plain.onnx"):
        model = onnx.load(path)
        assert [t.type.tensor_type.shape.dim[0].dim_param for t in (*model.graph.input, *model.graph.output)] == [
            "batch"
        ] * 2
        for batch in (1, 2, 5):
            assert_same(path, module, torch.randn(batch, 3, 16, 16))
    assert not {"Shape", "Gather", "Concat", "Reshape"} & set(report.after)


@pytest.mark.parametrize("dynamic_batch", [False, True])
def test_an_open_size_is_named_height_and_width(tmp_path: Path, dynamic_batch: bool) -> None:
    """Given a network of any size → one file for each; the sizes of a map are said in terms of the image's."""
    module = nn.Sequential(plain()[0], nn.MaxPool2d(2), nn.ReLU()).eval()
    path = onnx_from_module(module, EXAMPLE, tmp_path / "m.onnx", dynamic_batch=dynamic_batch, dynamic_size=True)
    graph = onnx.load(path).graph
    dims = [[d.dim_param or d.dim_value for d in t.type.tensor_type.shape.dim] for t in (*graph.input, *graph.output)]
    batch = "batch" if dynamic_batch else EXAMPLE.shape[0]
    assert dims[0] == [batch, 3, "height", "width"]
    assert dims[1][0] == batch and "height" in dims[1][2] and "width" in dims[1][3]
    for size in ((16, 16), (9, 31), (40, 12)):
        assert_same(path, module, torch.randn(EXAMPLE.shape[0], 3, *size))


@pytest.mark.parametrize("opset", [MIN_OPSET, MAX_OPSET])
def test_every_opset_in_range_is_written(tmp_path: Path, opset: int) -> None:
    module = plain()
    path = onnx_from_module(module, EXAMPLE, tmp_path / "model.onnx", opset=opset)
    assert onnx.load(path).opset_import[0].version == opset
    assert_same(path, module, EXAMPLE)


def test_adaptive_pools_that_onnx_lacks_are_written_as_ordinary_ones(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveMaxPool2d(8), nn.ReLU(), nn.AdaptiveMaxPool2d(3)).eval()
    for dynamic in (False, True):
        path = onnx_from_module(module, EXAMPLE, tmp_path / "model.onnx", dynamic_batch=dynamic)
        ops = Counter(node.op_type for node in onnx.load(path).graph.node)
        assert ops["MaxPool"] == 2
        assert_same(path, module, EXAMPLE)


def test_the_exporter_keeps_its_chatter_to_itself(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    levels = {name: logging.getLogger(name).level for name in ("torch", "torch.onnx", "onnxscript")}
    filters = list(warnings.filters)
    onnx_from_module(plain(), EXAMPLE, tmp_path / "model.onnx")
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")
    assert {name: logging.getLogger(name).level for name in levels} == levels
    assert warnings.filters == filters


class Unsupported(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.airy_ai(x)


class DataDependent(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class FixedSize(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.ones(16, 1)


class Squares(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x @ x


class FixedBatch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(2, -1)


class KernelsOfEachImage(nn.Module):
    """A convolution with one group an image."""

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        kernels = x.mean((2, 3)).reshape(n, c, 1, 1)
        return nn.functional.conv2d(x.reshape(1, n * c, h, w), kernels, groups=n).reshape(n, 1, h, w)


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (KernelsOfEachImage, {"dynamic_batch": True}, "as many groups as batch says.*; leave --dynamic-batch out"),
        (lambda: plain().train(), {}, "train mode"),
        (Unsupported, {}, "airy_ai"),
        (DataDependent, {}, "cannot trace DataDependent"),
        (FixedBatch, {"dynamic_batch": True}, "does not take every batch .*; leave --dynamic-batch out"),
        (FixedSize, {"dynamic_size": True}, "fixes its height to 16; leave --dynamic-size out"),
        (Squares, {"dynamic_size": True}, "takes squares alone, height and width cannot differ; leave --dynamic-size"),
        (lambda: nn.AdaptiveMaxPool2d(3), {"dynamic_size": True}, "an adaptive pool of an open size has no fixed wind"),
        (plain, {"opset": MIN_OPSET - 1}, f"want {MIN_OPSET} to {MAX_OPSET}"),
        (plain, {"opset": MAX_OPSET + 1}, f"want {MIN_OPSET} to {MAX_OPSET}"),
        (plain, {"input_names": ("a", "b")}, "2 input names for 1 inputs"),
        (plain, {"output_names": ()}, "0 output names for 1 outputs"),
    ],
)
def test_what_cannot_be_exported_is_refused_in_one_line(tmp_path: Path, make, options: dict, message: str) -> None:
    module = make() if message == "train mode" else make().eval()
    with pytest.raises(ExportError, match=message) as raised:
        onnx_from_module(module, EXAMPLE, tmp_path / "model.onnx", **options)
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_a_norm_in_train_mode_inside_a_traced_graph_is_refused(tmp_path: Path) -> None:
    module = torch.fx.symbolic_trace(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval())
    getattr(module, "1").train()
    with pytest.raises(ExportError, match="1 is in train mode"):
        onnx_from_module(module, EXAMPLE, tmp_path / "model.onnx")


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="No such file"):
        onnx_from_module(plain(), EXAMPLE, tmp_path / "none" / "model.onnx")


class SamePadding(nn.Module):
    """⌈H / 2⌉ positions of a window of 3, the surplus of padding at the end; `up` is one way to round up."""

    def __init__(self, up) -> None:
        super().__init__()
        self.up, self.conv = up, nn.Conv2d(3, 4, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        ends = [max((self.up(n) - 1) * 2 + 3 - n, 0) for n in (x.shape[3], x.shape[2])]
        pads = [p for total in ends for p in (total // 2, total - total // 2)]
        return self.conv(nn.functional.pad(x, pads))


@pytest.mark.parametrize(
    "up",
    [
        lambda n: -(-n // 2),
        pytest.param(lambda n: -(n // -2), marks=pytest.mark.slow),
        pytest.param(lambda n: (n + 1) // 2, marks=pytest.mark.slow),
    ],
)
def test_padding_that_follows_an_open_size_is_right_at_every_size(tmp_path: Path, up) -> None:
    module = SamePadding(up).eval()
    path = onnx_from_module(module, EXAMPLE, tmp_path / "model.onnx", dynamic_size=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for height, width in ((16, 16), (17, 16), (15, 18), (21, 19)):
        x = torch.randn(1, 3, height, width)
        (y,) = session.run(None, {"input": x.numpy()})
        np.testing.assert_allclose(y, module(x).detach().numpy(), atol=1e-5)
