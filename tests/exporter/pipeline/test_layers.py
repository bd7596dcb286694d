"""Faults planted in sound bundles, each named by its module; none invented."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from planted import attribute, change, planted

from plainconv.exporter.cli.main import main
from plainconv.exporter.pipeline import layers, typed_layers
from plainconv.exporter.source.network import Request
from plainconv.exporter.source.randomize import randomized

NETWORK = """
import torch
from torch import nn


def block(i, o, stride=1, eps=1e-5, pad=1):
    return nn.Sequential(nn.Conv2d(i, o, 3, stride, pad, bias=False), nn.BatchNorm2d(o, eps=eps), nn.ReLU())


class Fading(nn.Module):
    def __init__(self, width, slope):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(width, width, 1), nn.BatchNorm2d(width))
        self.fade = nn.LeakyReLU(slope)
        self.second = nn.Sequential(nn.Conv2d(width, width, 1), nn.BatchNorm2d(width))

    def forward(self, x):
        return torch.relu(self.second(self.fade(self.first(x))))


class Flip(nn.Module):
    def forward(self, x):
        return x.flip(3)


class Net(nn.Module):
    def __init__(self, slope=1.0, eps=1e-5):
        super().__init__()
        self.stem = block(3, 8)
        self.fading = Fading(8, slope)
        self.flip = Flip()
        self.middle = block(8, 8, eps=eps)
        self.pad = nn.ZeroPad2d((0, 1, 0, 1))
        self.down = block(8, 8, 2, pad=0)
        self.left = nn.Sequential(block(8, 8, 2), block(8, 8), nn.AdaptiveAvgPool2d(1))
        self.right = nn.Sequential(block(8, 8, 2), block(8, 8), nn.AdaptiveAvgPool2d(1))
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = self.middle(self.flip(self.fading(self.stem(x))))
        x = self.down(self.pad(x))
        return self.head(torch.cat([self.left(x), self.right(x)], 1).flatten(1))
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A bundle in three precisions, split in two, and its SOURCE; beside it "plain", the same in fp32 alone."""
    folder = tmp_path_factory.mktemp("layers")
    (folder / "net.py").write_text(NETWORK)
    source, bundle = f"{folder / 'net.py'}:Net", folder / "bundle"
    names: dict[str, Any] = {}
    exec(NETWORK, names)
    torch.manual_seed(0)
    torch.save(randomized(names["Net"]().eval(), 0).state_dict(), folder / "net.pth")
    shape = ["--input-shape", "1,3,16,16", "--checkpoint", str(folder / "net.pth")]
    quiet = ["--quiet", "--json"]
    assert main(["export", source, *shape, "-o", str(bundle), *quiet]) == 0
    shutil.copytree(bundle, folder / "plain")
    lower = ["--precision", "fp16,int8", "--calibration-method", "minmax", "--engine", "none"]
    assert main(["build", str(bundle), *lower, *quiet]) == 0
    assert main(["split", str(bundle), "--devices", "2", "--force", *quiet]) == 0
    return bundle, source


@pytest.fixture(scope="module")
def found_in(made: tuple[Path, str]) -> Callable[..., layers.Layers]:
    """Compares a bundle with the network; what is made again of one network is made once."""
    again = layers._made_again
    kept: dict[str, Any] = {}

    def once(bundle: Any, network: Any) -> Any:
        key = json.dumps(network.provenance, default=str)
        kept[key] = kept.get(key) or again(bundle, network)
        return kept[key]

    def compare(path: Path, **options: Any) -> layers.Layers:
        request = Request(checkpoint=made[0].parent / "net.pth", options=options)
        layers._made_again = once
        try:
            return layers.compare_bundle(path, made[1], request)
        finally:
            layers._made_again = again

    return compare


def node_of(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if name in node.name and node.op_type == "Conv")


def one_weight_off(model: onnx.ModelProto) -> None:
    def edit(w: np.ndarray) -> None:
        w.flat[np.argmax(np.abs(w))] *= 1.01

    change(model, node_of(model, "middle").input[1], edit)


def swapped_channels(model: onnx.ModelProto) -> None:
    for name in node_of(model, "left_1").input[1:]:
        change(model, name, lambda w: w[[1, 0, *range(2, len(w))]])


def dropped_slice(model: onnx.ModelProto) -> None:
    slices = [node for node in model.graph.node if node.op_type == "Slice"]
    assert len(slices) == 1
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            if name == slices[0].output[0]:
                node.input[i] = slices[0].input[0]
    model.graph.node.remove(slices[0])


def moved_pad(model: onnx.ModelProto) -> None:
    node = node_of(model, "down")
    assert list(next(a for a in node.attribute if a.name == "pads").ints) == [0, 0, 1, 1]
    attribute(node, "pads", [1, 1, 0, 0])


def wrong_stride(model: onnx.ModelProto) -> None:
    attribute(node_of(model, "right_0"), "strides", [1, 1])


def overflowing(model: onnx.ModelProto) -> None:
    for name in node_of(model, "right_1").input[1:]:
        change(model, name, lambda w: np.clip(w.astype(np.float64) * 1e5, -6e4, 6e4))


def doubled_scale(model: onnx.ModelProto) -> None:
    quantize = next(n for n in model.graph.node if n.op_type == "QuantizeLinear" and _reads(model, n, "left_1"))
    change(model, quantize.input[1], lambda scale: scale * 2)


def larger_scale(model: onnx.ModelProto) -> None:
    """By less than int8 itself is off by."""
    quantize = next(n for n in model.graph.node if n.op_type == "QuantizeLinear" and _reads(model, n, "left_1"))
    change(model, quantize.input[1], lambda scale: scale * 1.15)


def _dequantized(model: onnx.ModelProto, name: str, place: int) -> onnx.NodeProto:
    """What widens what a layer reads in that place."""
    return next(node for node in model.graph.node if node_of(model, name).input[place] in node.output)


def channel_scale_off(model: onnx.ModelProto) -> None:
    """That of one channel of a weight."""

    def edit(scale: np.ndarray) -> None:
        scale[0] *= 1.15

    change(model, _dequantized(model, "left_1", 1).input[1], edit)


def stored_weight_off(model: onnx.ModelProto) -> None:
    """One of all its numbers, by two steps of 127."""

    def edit(w: np.ndarray) -> None:
        w.flat[np.argmin(np.abs(w))] += 2

    change(model, _dequantized(model, "left_1", 1).input[0], edit)


def zero_point_off(model: onnx.ModelProto) -> None:
    """Where it is quantized, and where it is widened again."""
    quantize = next(n for n in model.graph.node if n.op_type == "QuantizeLinear" and _reads(model, n, "left_1"))
    change(model, quantize.input[2], lambda zero: zero + 2)


def scale_of_zero(model: onnx.ModelProto) -> None:
    quantize = next(n for n in model.graph.node if n.op_type == "QuantizeLinear" and _reads(model, n, "left_1"))
    change(model, quantize.input[1], lambda scale: scale * 0)


def _reads(model: onnx.ModelProto, quantize: onnx.NodeProto, name: str) -> bool:
    dequantized = next(n for n in model.graph.node if quantize.output[0] in n.input).output[0]
    return dequantized in node_of(model, name).input


FAULTS: dict[str, tuple[str, Callable[[onnx.ModelProto], None], str, str]] = {
    "one weight off by 1 %": ("model.onnx", one_weight_off, "middle", "ONNX (ONNX Runtime)"),
    "a reversed Slice dropped": ("model.onnx", dropped_slice, "middle", "ONNX (ONNX Runtime)"),
    "swapped channels": ("model.onnx", swapped_channels, "left.1", "ONNX (ONNX Runtime)"),
    "an asymmetric pad moved": ("model.onnx", moved_pad, "down", "ONNX (ONNX Runtime)"),
    "a wrong stride in one branch": ("model.onnx", wrong_stride, "right.0", "ONNX (ONNX Runtime)"),
    "fp16 overflow in a block": ("model.fp16.onnx", overflowing, "right.1", "ONNX fp16"),
    "one int8 scale ×2": ("model.int8.onnx", doubled_scale, "left.1", "ONNX int8"),
    "one int8 scale a little off": ("model.int8.onnx", larger_scale, "left.1", "ONNX int8"),
    "one channel's int8 scale a little off": ("model.int8.onnx", channel_scale_off, "left.1", "ONNX int8"),
    "one int8 weight two steps off": ("model.int8.onnx", stored_weight_off, "left.1", "ONNX int8"),
    "one int8 zero point off": ("model.int8.onnx", zero_point_off, "left.1", "ONNX int8"),
    "one int8 scale of 0": ("model.int8.onnx", scale_of_zero, "left.1", "ONNX int8"),
}


def test_nothing_is_invented_where_all_is_sound(made: tuple[Path, str], found_in: Callable[..., layers.Layers]) -> None:
    found = found_in(made[0])
    assert [step.step for step in found.steps][:5] == [
        "plain network", "ONNX (ONNX Runtime)", layers.SERVED, "ONNX fp16", "ONNX int8",
    ]  # fmt: skip
    assert [(step.step, b) for step in found.steps for b in step.faults] == []
    int8 = found.steps[4]
    assert len(int8.ranked) == min(typed_layers.MOST_CAUSES, len(int8.boundaries))
    assert int8.ranked[0].caused > int8.ranked[-1].caused
    plain = {b.module for b in found.steps[0].boundaries}
    assert {"middle.2", "left.1.2", "right.1.2", "head"} <= plain


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_a_graph_is_named(
    made: tuple[Path, str], found_in: Callable[..., layers.Layers], tmp_path: Path, fault: str
) -> None:
    """Given a sound bundle with one graph edited → the first fault is in that form, in that module."""
    file, edit, module, form = FAULTS[fault]
    sound = made[0].with_name("plain") if file == "model.onnx" else made[0]
    at = found_in(planted(sound, tmp_path / "b", file, edit)).fault
    assert at is not None
    assert at[0].step == form
    assert at[1].module.startswith(module), at[1]


@pytest.mark.parametrize(("options", "module"), [({"slope": 0.9}, "fading"), ({"eps": 1e-3}, "middle")])
def test_what_no_checkpoint_says_is_named(
    made: tuple[Path, str], found_in: Callable[..., layers.Layers], options: dict[str, Any], module: str
) -> None:
    """Given a network whose slope, or whose norm's eps, is another than when the bundle was made → its module."""
    at = found_in(made[0].with_name("plain"), **options).fault
    assert at is not None
    assert at[1].module.startswith(module), at[1]


def test_a_stale_part_is_named(made: tuple[Path, str], found_in: Callable[..., layers.Layers], tmp_path: Path) -> None:
    manifest = json.loads((made[0] / "manifest.json").read_text())
    parts = manifest["splits"][0]["parts"]
    name = "right_1"
    file = next(p["file"] for p in parts if any(name in n.name for n in onnx.load(made[0] / p["file"]).graph.node))

    def stale(model: onnx.ModelProto) -> None:
        change(model, node_of(model, name).input[1], lambda w: w * 0.999)

    at = found_in(planted(made[0], tmp_path / "b", file, stale)).fault
    assert at is not None
    assert at[0].step == "fp32 in parts"
    assert at[1].module.startswith("right.1"), at[1]


@pytest.mark.slow
def test_a_network_with_folded_preprocessing_is_compared_with_its_source(
    made: tuple[Path, str], tmp_path: Path
) -> None:
    """Given a bundle that takes bytes, and the network as it was before -> the same folding, and no fault."""
    (tmp_path / "images.json").write_text(json.dumps({"scale": 1 / 255, "mean": [0.5, 0.4, 0.3], "std": [0.2] * 3}))
    checkpoint = made[0].parent / "net.pth"
    options = ["--checkpoint", str(checkpoint), "--input-shape", "1,3,16,16", "--quiet", "--json"]
    images = ["--preprocessing", str(tmp_path / "images.json"), "--fold-preprocessing"]
    assert main(["export", made[1], *options, *images, "-o", str(tmp_path / "b")]) == 0
    found = layers.compare_bundle(tmp_path / "b", made[1], Request(checkpoint=checkpoint))
    assert [b for step in found.steps for b in step.faults] == []
    assert any(b.module.startswith("network.left.1") for b in found.steps[1].boundaries)


NEAR_ZERO = """<ir_version: 10, opset_import: ["": 20]>
net (float[1, 3, 8, 8] x) => (float[1, 3, 8, 8] y) <float low = {-20}>
{ lower = Add (x, low)  shares = Sigmoid (lower)  y = Relu (shares) }
"""


def test_an_absolute_error_of_a_sigmoid_near_zero_is_none(tmp_path: Path) -> None:
    """Given shares of 1e-9, which ONNX Runtime gives as 1e-8 -> no fault of the Sigmoid."""
    onnx.save(onnx.parser.parse_model(NEAR_ZERO), tmp_path / "net.onnx")
    assert main(["export", str(tmp_path / "net.onnx"), "-o", str(tmp_path / "b"), "--quiet", "--json"]) in (0, 1)
    found = layers.compare_bundle(tmp_path / "b", None, Request())
    shares = next(b for step in found.steps for b in step.boundaries if b.value == "shares")
    assert shares.local > 1e-3 and found.fault is None
