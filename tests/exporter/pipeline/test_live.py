"""A live module and an example -> a bundle; the module stays as it was."""

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from plainconv import engines, exporter
from plainconv.engines import building
from plainconv.exporter.bundle import Bundle
from plainconv.exporter.errors import EngineError, PlainconvWarning, SourceError
from plainconv.exporter.progress import be_quiet


class RGBDNet(nn.Module):
    """Two images, a list of vectors and a scalar; a dict of scores, masks and integers."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.beside = nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Conv2d(4, 6, 1)
        self.mask, self.head = nn.Conv2d(6, 2, 1), nn.Linear(6 + 4, 3)

    def forward(self, rgb, depth, boxes, *, gain):
        x = torch.cat([rgb, depth], 1)
        y = torch.relu(self.norm(self.conv(x)) + self.beside(x)) * gain
        masks = self.mask(y)
        scores = [self.head(torch.cat([y.mean((2, 3)), box], 1)) for box in boxes]
        return {"scores": scores, "masks": {"low": masks, "label": masks.argmax(1)}}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The network in train mode, its example and the bundle made of both, with an open batch."""
    torch.manual_seed(0)
    net = RGBDNet().train()
    example = {
        "depth": torch.rand(1, 1, 12, 16),
        "rgb": torch.randn(1, 3, 12, 16),
        "boxes": [torch.rand(1, 4), torch.rand(1, 4)],
        "gain": torch.tensor(1.5),
    }
    before = {name: x.clone() for name, x in net.state_dict().items()}
    rows = {"rgb": np.random.default_rng(0).normal(size=(4, 3, 12, 16))}
    be_quiet(True)
    bundle = exporter.export(
        net,
        example,
        tmp_path_factory.mktemp("live") / "b",
        dynamic_batch=(1, 2, 4),
        data=rows,
        precision=("fp32", "fp16"),
    )
    be_quiet(False)
    return SimpleNamespace(net=net, example=example, before=before, bundle=bundle)


def test_names_and_types(made):
    assert isinstance(made.bundle, Bundle) and made.bundle.manifest.name == "rgbd_net"
    assert [str(spec) for spec in (*made.bundle.inputs, *made.bundle.outputs)] == [
        "rgb float32[batch, 3, 12, 16]",
        "depth float32[batch, 1, 12, 16]",
        "boxes_0 float32[batch, 4]",
        "boxes_1 float32[batch, 4]",
        "gain float32[]",
        "scores_0 float32[batch, 3]",
        "scores_1 float32[batch, 3]",
        "masks_low float32[batch, 2, 12, 16]",
        "masks_label int64[batch, 12, 16]",
    ]


def test_every_step_holds_at_every_batch(made):
    found = {(p["step"], p["status"]) for p in made.bundle.manifest.parities}
    assert found == {
        ("plain network", "held"),
        ("ONNX (ONNX Runtime)", "held"),
        ("ONNX (ONNX Runtime), batch 4", "held"),
        ("ONNX fp16", "held"),
    }
    assert made.bundle.manifest.counts["plain"]["norms"] == 0


def test_the_runner_gives_what_the_module_gives(made):
    """Given two images at once -> the eager network's outputs, by the names of its dict."""
    pair = {name: x for name, x in made.example.items() if name != "boxes"} | dict(
        zip(("boxes_0", "boxes_1"), made.example["boxes"], strict=True)
    )
    feeds = {name: x.numpy() if not x.dim() else np.repeat(x.numpy(), 2, 0) for name, x in pair.items()}
    with warnings.catch_warnings(), engines.load(made.bundle.folder, precision="fp32") as net, torch.no_grad():
        found, wanted = net(feeds), made.net.eval()(**made.example)
    made.net.train()
    for name, y in (("scores_1", wanted["scores"][1]), ("masks_low", wanted["masks"]["low"])):
        np.testing.assert_allclose(found[name], np.repeat(y.numpy(), 2, 0), atol=1e-5)
    assert (found["masks_label"][1] == wanted["masks"]["label"][0].numpy()).mean() > 0.99


def test_the_module_stays(made):
    assert made.net.training and type(made.net) is RGBDNet
    assert all(torch.equal(made.before[name], x) for name, x in made.net.state_dict().items())
    assert all(p.requires_grad for p in made.net.parameters())


@pytest.mark.parametrize(
    ("example", "options", "says"),
    [
        (
            torch.ones(1, 3, 8, 8),
            {},
            r"does not fit forward\(rgb, depth, boxes, \*, gain\) \(missing a required argument",
        ),
        ({"rgb": 1}, {}, "missing a required argument"),
        (None, {"dynamic_batch": (4, 2, 1)}, r"dynamic_batch is \(4, 2, 1\); wanted three that ascend"),
        (None, {"dynamic_size": 224}, "dynamic_size is 224; wanted three"),
        (None, {"dynamic_batch": (1, 2)}, "wanted three"),
        (None, {"name": "a/b"}, "'a/b' is no name of a file"),
        (
            None,
            {"data": {"rgb": np.zeros((4, 3, 9, 9))}},
            r"data: rgb is float32 \[4, 3, 9, 9\], wants float32 \[n, 3, 12, 16\]",
        ),
        (None, {"data": {"x": np.zeros(4)}}, "data: there is no input x; the inputs are rgb, depth, boxes_0"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(made, tmp_path, example, options, says):
    with pytest.raises(SourceError, match=says) as refused:
        exporter.export(made.net, made.example if example is None else example, tmp_path / "b", **options)
    assert "\n" not in str(refused.value) and not list(tmp_path.iterdir())


def test_what_is_no_module(tmp_path):
    with pytest.raises(SourceError, match=r"function is no torch.nn.Module"):
        exporter.export(lambda x: x, torch.ones(1), tmp_path / "b")


def test_an_engine_that_cannot_be_built_is_left_out(tmp_path, monkeypatch):
    """Given a builder that gives up -> the rest is written, and why stands in the bundle and in a warning."""

    def fail(*arguments, **options):
        raise EngineError("the builder gives up")

    monkeypatch.setattr(building, "build_into", fail)
    monkeypatch.setattr(building, "check_request", lambda *arguments, **options: None)
    monkeypatch.setattr("plainconv.exporter.pipeline.build.BuildJob.options", lambda self, manifest: None)
    monkeypatch.setattr(building, "built", lambda *arguments, **options: None)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    with pytest.warns(PlainconvWarning, match="lacks fp32: the builder gives up"):
        bundle = exporter.export(net, torch.randn(1, 3, 8, 8), tmp_path / "b", engine="tensorrt_rtx", name="small")
    assert bundle.manifest.extra["left_out"] == [{"precision": "fp32", "reason": "the builder gives up"}]
    assert (bundle.manifest.name, bundle.engines, [s.name for s in bundle.inputs]) == ("small", (), ["input"])
