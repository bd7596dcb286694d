"""Non-maximum suppression and RoIAlign, as the published implementations compute them."""

from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plainconv.models.detection.ops import nms, roi_align, top


def test_the_first_of_equal_ones_are_taken() -> None:
    values = torch.ones(2, 5000)
    values[0, 3], values[0, 7], values[1] = 2.0, 0.5, torch.arange(5000.0)
    found, places = top(values, 100)
    assert places[0].tolist() == [3, 0, 1, 2, 4, 5, 6, *range(8, 101)]
    assert places[1].tolist() == list(range(4999, 4899, -1))
    assert torch.equal(found, values.gather(1, places))
    assert torch.equal(found, torch.topk(values, 100)[0])


def test_the_largest_of_all_are_sorted_and_what_is_no_number_comes_first() -> None:
    values = torch.tensor([[1.0, 3.0, float("nan"), 3.0]])
    assert top(values, 4)[1].tolist() == [[2, 1, 3, 0]]
    assert top(values, 2)[1].tolist() == [[2, 1]]


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_nms_keeps_what_torchvision_keeps(threshold: float, conformance: ModuleType) -> None:
    given = conformance.load_parts("nms").outputs
    boxes, scores, labels = (torch.from_numpy(given[name])[None] for name in ("boxes", "scores", "labels"))
    (kept,) = torch.where(nms(boxes, scores, labels, threshold, 3, "plain")[0])
    best_first = kept[scores[0, kept].argsort(descending=True)]
    assert best_first.tolist() == given[f"keep_{threshold}"].tolist()


def test_nms_tells_a_threshold_that_is_met_from_one_that_is_passed() -> None:
    boxes = torch.tensor([[[0.0, 0, 2, 1], [0, 0, 1, 1]]])  # IoU ½, exactly
    scores, labels = torch.tensor([[0.5, 0.4]]), torch.tensor([[0, 0]])
    assert nms(boxes, scores, labels, 0.5, 1, "plain").tolist() == [[True, True]]
    assert nms(boxes, scores, labels, 0.49, 1, "plain").tolist() == [[True, False]]


def test_nms_of_equal_scores_keeps_the_first_and_of_none_keeps_none() -> None:
    boxes = torch.tensor([[[0.0, 0, 1, 1]] * 3] * 2)
    scores = torch.tensor([[0.5, 0.5, 0.5], [0.0, 0.0, 0.1]])
    assert nms(boxes, scores, torch.zeros(2, 3).long(), 0.5, 1, "plain").tolist() == [
        [True, False, False],
        [False, False, True],
    ]


@given(st.integers(0, 2**32 - 1))
def test_what_nms_keeps_is_the_fixed_point(seed: int) -> None:
    """Kept iff no better box of its label that is kept overlaps it more: nothing else satisfies this."""
    draw = torch.Generator().manual_seed(seed)
    low = torch.rand(1, 40, 2, generator=draw) * 4
    boxes = torch.cat([low, low + torch.rand(1, 40, 2, generator=draw) * 4], -1)
    scores, labels = torch.rand(1, 40, generator=draw), torch.randint(0, 2, (1, 40), generator=draw)
    keep = nms(boxes, scores, labels, 0.4, 2, "plain")[0].numpy()
    b, s, label = boxes[0].double().numpy(), scores[0].numpy(), labels[0].numpy()
    shared = np.prod(
        np.clip(np.minimum(b[:, None, 2:], b[None, :, 2:]) - np.maximum(b[:, None, :2], b[None, :, :2]), 0, None), -1
    )
    area = np.prod(b[:, 2:] - b[:, :2], -1)
    iou = shared / (area[:, None] + area - shared)
    suppresses = (iou > 0.4) & (label[:, None] == label) & (s[:, None] > s)
    assert (keep == ~(keep[:, None] & suppresses).any(0)).all()


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling", [0, 2])
@pytest.mark.parametrize("size", [7, 14])
def test_roi_align_is_torchvisions(aligned: bool, sampling: int, size: int, conformance: ModuleType) -> None:
    vector = conformance.load_parts("roi_align")
    features, rois = (torch.from_numpy(vector.outputs[name]).double() for name in ("features", "rois"))
    found = roi_align(features, rois[:, 1:], rois[:, 0].long(), size, 0.25, sampling, aligned)
    assert vector.error(f"aligned{aligned:d}_sampling{sampling}_out{size}", found.numpy()) < 1e-12


def test_roi_align_of_no_size_is_zero_and_none_is_empty() -> None:
    features, images = torch.ones(1, 2, 4, 4), torch.tensor([0])
    assert roi_align(features, torch.ones(1, 4), images, 3, 0.5, 0, True).count_nonzero() == 0
    assert roi_align(features, torch.zeros(0, 4), images[:0], 3, 0.5, 0, True).shape == (0, 2, 3, 3)
