"""RetinaNet on VanillaNet: features, heads and detections of the published implementation."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from plainconv.exporter.reparam import reparameterize
from plainconv.models import create, entries


class Coarsest(nn.Module):
    """The coarsest features alone."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone.eval()
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.backbone(x)[-1]


SIZES = ["retinanet_narrow", pytest.param("retinanet_vanillanet_13", marks=pytest.mark.slow)]


@pytest.mark.parametrize("name", SIZES)
def test_gives_the_published_features_heads_and_detections(name: str, retinanet: Any) -> None:
    network, vector, image = retinanet(name)
    with torch.inference_mode():
        features = network.backbone(image)
        levels = network.neck(features)
        logits, deltas = network.heads(image)
        found = network(image)
    for prefix, first, tensors in (("c", 3, features), ("p", 3, levels), ("cls", 0, logits), ("box", 0, deltas)):
        for i, tensor in enumerate(tensors, first):
            assert vector.error(f"{prefix}{i}", tensor.numpy()) <= 1e-10
    detections = vector.outputs["dets"]
    assert found["count"].tolist() == [100]
    assert found["labels"][0].tolist() == vector.outputs["labels"].tolist()
    assert np.abs(found["boxes"][0].numpy() - detections[:, :4]).max() <= 1e-6 * np.abs(detections).max()
    assert np.abs(found["scores"][0].numpy() - detections[:, 4]).max() <= 1e-10


def test_published_checkpoint_loads_by_name(conformance: Any, tmp_path: Path) -> None:
    """mmdetection's file: the weights under `state_dict`, `meta` beside it; here of 5 classes and n = 3."""
    with torch.device("meta"):
        wanted = create("retinanet_vanillanet_13").state_dict()
    assert {key: tuple(value.shape) for key, value in wanted.items()} == conformance.load_parts(
        "retinanet_vanillanet_13"
    ).shapes
    told = entries()["retinanet_vanillanet_13"].options_from_state(
        {
            "bbox_head.retina_cls.weight": torch.empty(45, 256, 3, 3),
            "backbone.stem2.2.weight": torch.empty(512, 1, 7, 7),
        }
    )
    assert told == {"num_classes": 5, "series_order": 3}


def test_reparameterized_backbone_has_no_norm(retinanet: Any) -> None:
    network, _, image = retinanet()
    _, report = reparameterize(Coarsest(network.backbone), image)
    assert report.counts_before["norm"] == 2 + 11 * 2 + 12
    assert report.counts_after["norm"] == 0


@pytest.mark.slow
def test_reparameterized_it_has_no_norm_and_gives_the_same_detections(retinanet: Any) -> None:
    network, _, image = retinanet(detections=20)
    plain, report = reparameterize(network, image)
    assert report.counts_before["norm"] == 2 + 11 * 2 + 12
    assert report.counts_after["norm"] == 0
    assert report.counts_after["conv"] == report.counts_before["conv"] - 12
    with torch.inference_mode():
        wanted, found = network(image), plain(image)
    assert found["labels"].tolist() == wanted["labels"].tolist()
    torch.testing.assert_close(found["boxes"], wanted["boxes"], rtol=0, atol=1e-9)


def test_traces_at_a_batch_left_open(retinanet: Any) -> None:
    network, _, image = retinanet(detections=20)
    two = torch.cat([image, image.flip(3)])
    program = torch.export.export(network, (two,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    three = torch.cat([image.flip(3), image, image.flip(2)])
    with torch.inference_mode():
        found, wanted = program.module()(three), network(three)
    assert all(torch.equal(found[name], wanted[name]) for name in ("boxes", "scores", "labels", "count"))
    assert torch.equal(wanted["boxes"][1], network(image)["boxes"][0])  # images do not meet


def test_boxes_end_at_the_size_without_padding(retinanet: Any) -> None:
    network, _, image = retinanet(detections=50)
    with torch.inference_mode():
        boxes = network(image, torch.tensor([[100.0, 90.0]]))["boxes"][0]
    assert float(boxes[:, 0::2].max()) <= 90 and float(boxes[:, 1::2].max()) <= 100


def test_deploy_form_has_one_conv_for_two() -> None:
    with torch.device("meta"):
        keys = create("retinanet_vanillanet_13", deploy=True).state_dict().keys()
    assert "backbone.stages.10.conv.weight" in keys and not any("running" in key for key in keys)
