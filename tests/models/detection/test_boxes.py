"""Anchors, decoding and the fixed number of detections."""

import math

import pytest
import torch
from torch import Tensor, nn

from plainconv.models.detection.boxes import Anchors, best, best_of_level, clipped, decode, image_sizes


def test_anchors_are_about_the_cell_s_corner_in_the_order_y_x_ratio_scale() -> None:
    anchors = Anchors(scales=(4.0, 8.0)).of_level(torch.empty(1, 1, 2, 3).double(), 16)
    assert anchors.shape == (2 * 3 * 6, 4)
    centre = (anchors[:, :2] + anchors[:, 2:]) / 2
    assert centre[::6].tolist() == [[x * 16.0, y * 16.0] for y in range(2) for x in range(3)]
    size = (anchors[:6, 2:] - anchors[:6, :2]).tolist()
    for (width, height), (ratio, scale) in zip(size, [(r, s) for r in (0.5, 1, 2) for s in (4, 8)], strict=True):
        assert (width, height) == pytest.approx((16 * scale / math.sqrt(ratio), 16 * scale * math.sqrt(ratio)))


def test_anchors_are_rounded_to_float32_in_any_network() -> None:
    wide, narrow = (
        Anchors((4 * 2 ** (1 / 3),)).of_level(torch.empty(1, 1, 1, 1, dtype=t), 8) for t in (torch.double, torch.float)
    )
    assert torch.equal(wide, narrow.double())


def test_decode_moves_by_the_size_and_grows_by_the_exponent() -> None:
    box = torch.tensor([10.0, 20, 30, 60]).double()
    moved = decode(box, torch.tensor([0.5, -0.25, math.log(2), math.log(0.5)]).double())
    assert moved.tolist() == pytest.approx([10, 20, 50, 40])
    assert decode(box, torch.tensor([1.0, 0, 0, 0]).double(), (0.1, 0.1, 0.2, 0.2)).tolist() == [12, 20, 32, 60]


@pytest.mark.parametrize("sign", [-1, 1])
def test_decode_clamps_the_exponent_either_way(sign: int) -> None:
    grown = decode(torch.tensor([0.0, 0, 16, 16]), torch.tensor([0, 0, 99.0 * sign, 0]))
    assert float(grown[2] - grown[0]) == pytest.approx(16 * (1000 / 16) ** sign)


def test_clipped_takes_each_image_s_own_height_and_width() -> None:
    boxes = torch.tensor([[[-5.0, -5, 500, 500]], [[1, 2, 3, 4]]])
    assert clipped(boxes, torch.tensor([[100.0, 200], [50, 60]])).tolist() == [[[0, 0, 200, 100]], [[1, 2, 3, 4]]]
    assert image_sizes(torch.empty(2, 3, 32, 64), None).tolist() == [[32, 64]] * 2


def test_best_of_level_finds_anchor_and_class() -> None:
    """Logits [1, A·C, H, W]: the flat order is y, x, anchor, class."""
    logits = torch.full((1, 2 * 3, 1, 2), -9.0)
    logits[0, 1 * 3 + 2, 0, 1] = 5.0  # anchor 1, class 2, x = 1
    deltas = torch.arange(16.0).reshape(1, 8, 1, 2)
    level = best_of_level(logits, deltas, torch.arange(16.0).reshape(4, 4), 1)
    assert level.labels.tolist() == [[2]] and level.logits.tolist() == [[5.0]]
    assert level.boxes.tolist() == [[[12, 13, 14, 15]]]  # place x = 1, anchor 1: the last of four
    assert level.deltas.tolist() == [[[9, 11, 13, 15]]]


def test_best_fills_up_to_the_number_asked_for() -> None:
    boxes = torch.tensor([[[0.0, 0, 4, 4], [0, 0, 4, 5], [9, 9, 12, 12]]])
    found = best(
        boxes,
        torch.tensor([[0.3, 0.9, 0.5]]),
        torch.tensor([[1, 1, 0]]),
        classes=2,
        iou_threshold=0.5,
        most=5,
        form="plain",
    )
    assert found["count"].tolist() == [2]
    assert found["labels"].tolist() == [[1, 0, -1, -1, -1]]
    assert found["boxes"][0].tolist() == [[0, 0, 4, 5], [9, 9, 12, 12], [0] * 4, [0] * 4, [0] * 4]
    assert found["scores"][0].tolist() == pytest.approx([0.9, 0.5, 0, 0, 0])


class Few(nn.Module):
    """The detectors' steps around their heads: of each place of a map one anchor and two classes, at most 50."""

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        logits, deltas = images[:, :2, ::8, ::8], images.repeat(1, 2, 1, 1)[:, :4, ::8, ::8]
        level = best_of_level(logits, deltas, Anchors((1.0,), (1.0,)).of_level(logits, 8), 50)
        boxes = clipped(decode(level.boxes, level.deltas), image_sizes(images, None))
        return best(boxes, level.logits.sigmoid(), level.labels, classes=2, iou_threshold=0.5, most=40, form="plain")


def test_one_trace_holds_where_there_are_fewer_places_than_candidates_and_where_there_are_more() -> None:
    few, draw = Few(), torch.Generator().manual_seed(0)
    size = {2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    traced = torch.export.export(few, (torch.rand(2, 3, 64, 96, generator=draw),), dynamic_shapes=(size,)).module()
    for height, width in ((32, 32), (32, 64), (96, 64)):  # 32, 64 and 192 candidates
        images = torch.rand(2, 3, height, width, generator=draw)
        found, wanted = traced(images), few(images)
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)
        assert found["count"].min() > 0 and found["boxes"].shape == (2, 40, 4)


def test_sizes_that_no_image_of_the_training_had_are_refused() -> None:
    with pytest.raises(ValueError, match="100×160 are no multiples of 32; pad the image"):
        image_sizes(torch.empty(1, 3, 100, 160), None)
