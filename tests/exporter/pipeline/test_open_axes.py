"""Open height and width: what a network takes, what it is held to, and parity at the smallest and largest of each."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from plainconv.exporter.bundle import Bundle
from plainconv.exporter.count import Cost
from plainconv.exporter.errors import (
    CheckFailedError,
    ExportError,
    PlainconvError,
    PlainconvWarning,
    SourceError,
)
from plainconv.exporter.parity import reference_from_module
from plainconv.exporter.pipeline import export as pipeline
from plainconv.exporter.pipeline.export import Job, export_bundle
from plainconv.exporter.pipeline.open_axes import BATCH_BUDGET, at_usual_size, corners, within
from plainconv.exporter.source.network import Network, Request
from plainconv.exporter.source.resolve import load_network, weights_sha256

SIZES = ((24, 24), (32, 32), (64, 48))


class Net(nn.Module):
    """conv, norm, ReLU, and what a test makes of the map; every layer is there for it."""

    def __init__(self, forward):
        super().__init__()
        self.conv, self.norm, self.down = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, 2, 1)
        self.head, self.pointwise, self.flat = nn.Linear(8, 5), nn.Conv2d(8, 2, 1), nn.Linear(8 * 32 * 32, 5)
        self.tail = forward

    def forward(self, x):
        return self.tail(self, torch.relu(self.norm(self.conv(x))))


def shuffled(net, y):
    n, c, h, w = y.shape
    y = y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
    return net.head(torch.relu(net.down(y)).mean((2, 3)))


def upsampled(net, y):
    return net.pointwise(F.interpolate(net.down(y), size=y.shape[2:], mode="nearest") + y)


@pytest.fixture
def export(monkeypatch, tmp_path):
    """Export a module as if SOURCE had named it."""
    torch.manual_seed(0)

    def run(forward, size=SIZES, shape=(1, 3, 32, 32), **options):
        module = Net(forward).eval()

        def load(source, request):
            return Network(
                "net", module, {"input": torch.randn(shape)}, None, {"source": source}, weights_sha256(module)
            )

        monkeypatch.setattr(pipeline, "load_network", load)
        job = Job("net", Request(), tmp_path / "b", dynamic_size=size, **options)
        return Bundle.open(export_bundle(job))

    return run


def steps(bundle):
    return {p["step"]: p["status"] for p in bundle.manifest.parities}


@pytest.mark.parametrize(
    ("forward", "output"),
    [
        pytest.param(lambda net, y: net.head(y.mean((2, 3))), ("batch", 5), marks=pytest.mark.slow),
        (upsampled, ("batch", 2, "height", "width")),
        (lambda net, y: F.pixel_shuffle(net.pointwise(y).repeat(1, 2, 1, 1), 2), ("batch", 1, "2*height", "2*width")),
        (shuffled, ("batch", 5)),
    ],
    ids=["mean", "dense with a skip", "pixel shuffle", "channel shuffle"],
)
def test_open_height_and_width(export, forward, output):
    """Given a network of any size -> symbolic axes, and parity at the export's size, the smallest and the largest."""
    bundle = export(forward, dynamic_batch=(1, 2, 4))
    assert bundle.inputs[0].shape == ("batch", 3, "height", "width")
    assert bundle.outputs[0].shape == output
    assert steps(bundle) == dict.fromkeys(
        (
            "plain network",
            "ONNX (ONNX Runtime)",
            "ONNX (ONNX Runtime), 24×24",
            "ONNX (ONNX Runtime), batch 4, 64×48",
        ),
        "held",
    )
    assert bundle.manifest.counts["onnx"]["macs"] == bundle.manifest.counts["plain"]["macs"]


def test_a_loop_over_images_takes_no_open_batch(export):
    def looped(net, y):
        return torch.stack([net.head(each.mean((1, 2))) for each in y])

    with pytest.raises(SourceError, match=r"for a batch of 1 than for others.* leave --dynamic-batch out"):
        export(looped, size=None, dynamic_batch=(1, 2, 4))
    assert steps(export(looped, size=None)) == dict.fromkeys(("plain network", "ONNX (ONNX Runtime)"), "held")


@pytest.mark.filterwarnings("ignore:the images of a batch influence")
@pytest.mark.parametrize("batch", [1, 4])
def test_what_a_network_does_for_one_image_alone_is_no_form_of_all_batches(export, batch):
    """Given a branch on a batch of one -> refused where that is among those asked for, whatever the example's is."""

    def moved_if_alone(net, y):
        y = net.head(y.mean((2, 3)))
        return y + 1.0 if y.shape[0] == 1 else y

    with pytest.raises(PlainconvError, match="for a batch of 1 than for others" if batch == 1 else "batch 1.*failed"):
        export(moved_if_alone, size=None, shape=(batch, 3, 32, 32), dynamic_batch=(1, 4, 8))


def test_a_network_that_takes_no_image_alone_is_exported_for_several(export):
    def of_pairs(net, y):
        assert y.shape[0] > 1, "several"
        return net.head(y.mean((2, 3)))

    with pytest.raises(SourceError, match=r"takes no batch of 1 \(several\)"):
        export(of_pairs, size=None, shape=(2, 3, 32, 32), dynamic_batch=(1, 2, 4))
    assert "held" in steps(export(of_pairs, size=None, shape=(2, 3, 32, 32), dynamic_batch=(2, 4, 8))).values()


@pytest.mark.slow
def test_channel_shuffle_of_an_open_map_costs_no_more_nodes_than_of_a_fixed_one(export, tmp_path):
    open_sizes = export(shuffled).manifest.counts["onnx"]["ops"]
    fixed = Bundle.open(export_bundle(Job("net", Request(), tmp_path / "fixed"))).manifest.counts["onnx"]["ops"]
    assert sum(open_sizes.values()) <= sum(fixed.values())
    assert not {"Reshape", "Transpose", "Shape"} & set(open_sizes)


@pytest.mark.parametrize(
    ("forward", "error", "message"),
    [
        (
            lambda net, y: net.flat(y.flatten(1)),
            SourceError,
            r"net cannot take 24×24 \(mat1 and mat2 shapes.*; give an",
        ),
        (
            lambda net, y: F.avg_pool2d(net.pointwise(y), 24).flatten(1),
            SourceError,
            r"gives \[1, 8\] at 64×48 and \[1,",
        ),
        (lambda net, y: net.head((y @ y).mean((2, 3))), SourceError, "net cannot take 64×48"),
        (
            lambda net, y: net.head((net.down(y) if y.shape[2] > 40 else y).mean((2, 3))),
            SourceError,
            "holds for sizes with .* <= 40; found 1×3×64×48",
        ),
        (
            lambda net, y: net.head(F.adaptive_max_pool2d(y, 4).mean((2, 3))),
            ExportError,
            "adaptive pool of an open size",
        ),
    ],
    ids=["flattened map", "fixed window", "square alone", "branch on the size", "adaptive pool"],
)
def test_network_that_is_made_for_one_size(export, tmp_path, forward, error, message):
    """Given a network that something holds to its size -> one line that says what, and nothing written."""
    with pytest.raises(error, match=message) as raised:
        export(forward)
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_size_that_the_trace_takes_for_another_function_fails_in_parity(export, tmp_path):
    """Given a sum that broadcasts at the smallest size alone -> the check of that size fails, nothing is written."""

    def forward(net, y):
        pooled = F.avg_pool2d(y, 2)
        return net.head(torch.relu(net.down(y) + pooled).mean((2, 3)))

    with pytest.raises(CheckFailedError, match=r"ONNX \(ONNX Runtime\), 3×3, logits: failed"):
        export(forward, size=((3, 3), (32, 32), (64, 64)))
    assert list(tmp_path.iterdir()) == []


def test_gap_between_the_sizes_is_warned_of(export):
    def forward(net, y):
        return net.head(torch.relu(net.down(y) + F.avg_pool2d(y, 2)).mean((2, 3)))

    with pytest.warns(PlainconvWarning, match="net takes not every size from 24×24 to 64×48: at 25×25 it fails"):
        bundle = export(forward)
    assert "25×25" in bundle.manifest.extra["warnings"][0]


@pytest.mark.parametrize(
    ("shape", "size", "message"),
    [
        ((1, 3, 16, 32), SIZES, "net is exported at 16×32, outside --dynamic-size 24×24 to 64×48; give another"),
        ((1, 3, 32), SIZES, "net takes 1,3,32, which has no height and width; leave --dynamic-size out"),
    ],
)
def test_sizes_that_do_not_suit_the_export(export, shape, size, message):
    with pytest.raises(SourceError, match=message):
        export(lambda net, y: y, size, shape)


def test_usual_size_is_that_of_the_export():
    """Given no --input-shape -> the network is loaded at OPT; given one, at that."""
    request = at_usual_size(Request(random_init=0), ((32, 32), (64, 96), (128, 128)))
    assert load_network("vanillanet_digits", request).example.shape == (1, 1, 64, 96)
    assert load_network("vanillanet_digits", replace(request, input_shape=(1, 1, 32, 40))).example.shape[2:] == (32, 40)
    assert at_usual_size(Request(), None) == Request()


# --- corners -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    module = Net(lambda net, y: net.head(y.mean((2, 3)))).eval()
    return Network("net", module, {"input": torch.randn(1, 3, 32, 32)}, None, {}, "0" * 64)


def at_corners(network, batch, size, macs=1000):
    reference = reference_from_module(network.module, network.inputs)
    reference = replace(reference, batch=within(reference.batch, batch))
    return corners(network, reference, Cost(0, macs), batch, size)


@pytest.mark.parametrize(
    ("batch", "size", "wanted"),
    [
        (None, None, {}),
        ((1, 1, 1), None, {}),
        ((1, 8, 32), None, {"batch 32": (32, (32, 32))}),
        ((2, 8, 32), None, {"batch 32": (32, (32, 32))}),
        (None, SIZES, {"24×24": (1, (24, 24)), "64×48": (1, (64, 48))}),
        ((2, 8, 8), SIZES, {"24×24": (2, (24, 24)), "batch 8, 64×48": (8, (64, 48))}),
        ((1, 1, 1), ((32, 32),) * 3, {}),
    ],
)
def test_corners(network, batch, size, wanted):
    """Given what is open -> the smallest and the largest of it, but for what the export itself is tried at."""
    found = {corner.at: corner.reference for corner in at_corners(network, batch, size)}
    assert {at: (r.batch, r.image_shape[1:]) for at, r in found.items()} == wanted
    assert all(np.isfinite(r.outputs["logits"].values).all() and len(r.kinds) >= 4 for r in found.values())


def test_largest_batch_that_is_too_much_is_cut_down(network):
    """Given a network of which 5 images are affordable at once -> batch 5; of none, two."""
    for macs, images in ((BATCH_BUDGET / 5, 5), (BATCH_BUDGET, 2)):
        assert [corner.at for corner in at_corners(network, (1, 8, 64), None, macs)] == [f"batch {images}"]


def test_smallest_batch_that_is_too_much_is_refused(network):
    """Given a smallest batch that no memory holds -> one line, before it is tried."""
    reference = reference_from_module(network.module, network.inputs)
    with pytest.raises(SourceError, match=r"the smallest batch is 2147483647, of \d+ numbers each.*give a smaller MIN"):
        corners(network, reference, Cost(0, 0, 1), (2**31 - 1,) * 3, None)


def test_batch_of_the_export_lies_within():
    assert [within(batch, (2, 4, 8)) for batch in (1, 2, 5, 9)] == [2, 2, 5, 8]
    assert within(3, None) == 3


def test_no_traceback_for_any_of_it(export):
    with pytest.raises(PlainconvError) as raised:
        export(lambda net, y: net.flat(y.flatten(1)))
    assert raised.value.exit_code == 2
