"""Non-maximum suppression and RoIAlign in ONNX keep and give what the operators do."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from plainconv.exporter.to_onnx.export import onnx_from_module
from plainconv.models.detection.ops import nms, roi_align, top

THRESHOLD = 0.4


class Suppress(nn.Module):
    """Three rows of boxes x1 y1 x2 y2 and a row of scores, as channels of one image: keeps as 1, else 0."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form

    def forward(self, x: Tensor) -> Tensor:
        boxes, scores, labels = x[:, :4].transpose(1, 2), x[:, 4], x[:, 5].long()
        return nms(boxes, scores, labels, THRESHOLD, 3, self.form).to(x.dtype)


class Align(nn.Module):
    def __init__(self, sampling: int, aligned: bool) -> None:
        super().__init__()
        self.sampling, self.aligned = sampling, aligned

    def forward(self, x: Tensor, rois: Tensor) -> Tensor:
        images = torch.arange(x.shape[0])[:, None].expand(rois.shape[:2]).reshape(-1)
        return roi_align(x, rois.reshape(-1, 4), images, 5, 0.5, self.sampling, self.aligned)


class Top(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return top(x, min(40, x.shape[1]))


def test_the_first_of_equal_ones_are_taken(tmp_path: Path) -> None:
    """Given scores of which most saturate -> the same places as eager has, at any batch."""
    draw = torch.Generator().manual_seed(0)
    path = onnx_from_module(
        Top().eval(), torch.rand(2, 900), tmp_path / "top.onnx", output_names=("best", "places"), dynamic_batch=True
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for batch in (1, 3):
        x = (torch.rand(batch, 900, generator=draw) * 4).clamp(max=1)
        for found, wanted in zip(session.run(None, {session.get_inputs()[0].name: x.numpy()}), top(x, 40), strict=True):
            assert np.array_equal(found, wanted.numpy())


def _boxes(batch: int, count: int, seed: int = 0) -> Tensor:
    """[B, 6, N]: a crowd of boxes, some without a score, of three labels; two scores the same."""
    draw = torch.Generator().manual_seed(seed)
    low = torch.rand(batch, count, 2, generator=draw) * 6
    boxes = torch.cat([low, low + torch.rand(batch, count, 2, generator=draw) * 6], -1)
    scores = (torch.rand(batch, count, generator=draw) - 0.1).clamp(min=0)
    scores[:, 1] = scores[:, 0]
    labels = torch.randint(0, 3, (batch, count), generator=draw).float()
    return torch.cat([boxes.transpose(1, 2), scores[:, None], labels[:, None]], 1)


@pytest.mark.parametrize("form", ["plain", "node"])
def test_suppression_keeps_the_same_at_any_batch(form: str, tmp_path: Path) -> None:
    network = Suppress(form).eval()
    path = onnx_from_module(network, _boxes(2, 120), tmp_path / "nms.onnx", dynamic_batch=True)
    ops = Counter(node.op_type for node in onnx.load(path).graph.node)
    assert ops["NonMaxSuppression"] == (form == "node") and ops["Loop"] == (form == "plain")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for batch, seed in ((1, 1), (3, 2), (2, 3)):
        x = _boxes(batch, 120, seed)
        wanted = network(x).numpy()
        assert 0 < wanted.mean() < 0.9
        (found,) = session.run(None, {"input": x.numpy()})
        assert np.array_equal(found, wanted)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling", [0, 2])
def test_roi_align_gives_the_same(sampling: int, aligned: bool, tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(2, 3, 20, 24, generator=draw)
    low = torch.rand(2, 12, 2, generator=draw) * 50 - 8
    rois = torch.cat([low, low + torch.rand(2, 12, 2, generator=draw) * 40], -1)
    rois[0, 0] = 0.0  # of no size
    network = Align(sampling, aligned).eval()
    path = onnx_from_module(network, (features, rois), tmp_path / "roi.onnx", input_names=("x", "rois"))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": features.numpy(), "rois": rois.numpy()})
    np.testing.assert_allclose(found, network(features, rois).numpy(), rtol=0, atol=1e-5)
