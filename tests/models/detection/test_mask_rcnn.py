"""Mask R-CNN on VanillaNet: every step of the published implementation."""

from typing import Any

import numpy as np
import pytest
import torch

from plainconv.exporter.reparam import reparameterize
from plainconv.models import create, entries
from plainconv.models.detection.boxes import image_sizes

SIZES = ["mask_rcnn_narrow", pytest.param("mask_rcnn_vanillanet_13", marks=pytest.mark.slow)]


@pytest.mark.parametrize("name", SIZES)
def test_gives_the_published_heads_proposals_and_detections(name: str, mask_rcnn: Any) -> None:
    network, vector, image = mask_rcnn(name)
    with torch.inference_mode():
        features = network.backbone(image)
        levels = network.neck(features)
        logits, deltas = network.rpn_head.heads(levels)
        proposals = network.rpn_head(levels, image_sizes(image, None))
        scores, boxes = network.box_logits(levels, proposals["boxes"])
        regions = network.regions(levels, proposals["boxes"], 7)
        found = network(image)
    for prefix, first, tensors in (
        ("c", 2, features),
        ("p", 2, levels),
        ("rpn_cls", 0, logits),
        ("rpn_box", 0, deltas),
    ):
        for i, tensor in enumerate(tensors, first):
            assert vector.error(f"{prefix}{i}", tensor.numpy()) <= 1e-10
    five = torch.cat([proposals["boxes"], proposals["scores"][..., None]], -1)
    for output, tensor in (("proposals", five), ("roi_feats", regions), ("cls_score", scores), ("bbox_pred", boxes)):
        assert vector.error(output, tensor.numpy()) <= 1e-6
    detections = vector.outputs["dets"]
    assert found["count"].tolist() == [20] and found["exact"].tolist() == [True]
    assert found["labels"][0].tolist() == vector.outputs["labels"].tolist()
    assert np.abs(found["boxes"][0].numpy() - detections[:, :4]).max() <= 1e-6 * np.abs(detections).max()
    assert np.abs(found["scores"][0].numpy() - detections[:, 4]).max() <= 1e-6
    assert vector.error("masks", found["masks"].numpy()) <= 1e-6


def test_keys_are_the_published_ones_and_tell_the_options(conformance: Any) -> None:
    with torch.device("meta"):
        wanted = create("mask_rcnn_vanillanet_13").state_dict()
    assert {key: tuple(value.shape) for key, value in wanted.items()} == conformance.load_parts(
        "mask_rcnn_vanillanet_13"
    ).shapes
    told = entries()["mask_rcnn_vanillanet_13"].options_from_state(
        {
            "roi_head.mask_head.conv_logits.weight": torch.empty(7, 256, 1, 1),
            "backbone.stem.1.weight": torch.empty(512, 1, 9, 9),
        }
    )
    assert told == {"num_classes": 7, "series_order": 4}


@pytest.mark.slow
def test_reparameterized_it_has_no_norm(mask_rcnn: Any) -> None:
    network, _, image = mask_rcnn()
    plain, report = reparameterize(network, image)
    assert report.counts_before["norm"] == 36 and report.counts_after["norm"] == 0
    with torch.inference_mode():
        wanted, found = network(image), plain(image)
    assert found["labels"].tolist() == wanted["labels"].tolist()
    torch.testing.assert_close(found["masks"], wanted["masks"], rtol=0, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("sampling", [0, 2])
def test_traces_at_a_batch_left_open(sampling: int, mask_rcnn: Any) -> None:
    network, _, image = mask_rcnn(sampling=sampling, paste=True)
    two = torch.cat([image, image.flip(3)])
    program = torch.export.export(network, (two,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    ops = {str(node.target) for node in program.graph.nodes}
    assert ("plainconv.roi_align.default" in ops) == (sampling == 0)
    three = torch.cat([image.flip(3), image, image.flip(2)])
    with torch.inference_mode():
        found, wanted = program.module()(three), network(three)
    assert wanted["masks"].shape == (3, 20, 128, 160)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_sampling_is_another_function(mask_rcnn: Any) -> None:
    adaptive, _, image = mask_rcnn()
    fixed, _, _ = mask_rcnn(sampling=2)
    with torch.inference_mode():
        assert not torch.equal(adaptive(image)["masks"], fixed(image)["masks"])


def test_candidates_left_out_are_told(mask_rcnn: Any) -> None:
    few, _, image = mask_rcnn(candidates=8)
    with torch.inference_mode():
        found = few(image)
    assert int(found["count"]) <= 8 and found["exact"].tolist() == [False]
