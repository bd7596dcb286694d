"""Regions from their own level, by either form; masks pasted."""

from types import ModuleType

import pytest
import torch
from torch import nn
from torch.nn import functional

from plainconv.models.detection.ops import roi_align
from plainconv.models.detection.regions import level_of, pasted, region_features

STRIDES = (4, 8, 16, 32)


def _levels(batch: int) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(batch, 3, 160 // s, 224 // s, generator=draw).double() for s in STRIDES]


def _rois(batch: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(1)
    low = torch.rand(batch, 40, 2, generator=draw) * 150 - 20
    extent = torch.rand(batch, 40, 2, generator=draw) ** 2 * 900
    return torch.cat([low, low + extent], -1).double()


def test_level_follows_the_region_s_size() -> None:
    sides = torch.tensor([0.0, 10, 111, 112, 223, 224, 448, 2000])
    rois = torch.stack([torch.zeros(8), torch.zeros(8), sides, sides], -1)
    assert level_of(rois, 4).tolist() == [0, 0, 0, 1, 1, 2, 3, 3]


@pytest.mark.parametrize("sampling", [0, 2, 3])
def test_each_region_is_of_its_own_level_and_image(sampling: int) -> None:
    levels, rois = _levels(2), _rois(2)
    found = region_features(levels, STRIDES, rois, 7, sampling)
    own = level_of(rois, 4).long()
    assert {int(level) for level in own.flatten()} == {0, 1, 2, 3}
    for b in range(2):
        for r in range(40):
            level = int(own[b, r])
            wanted = roi_align(
                levels[level], rois[b, r][None], torch.tensor([b]), 7, 1 / STRIDES[level], sampling, True
            )
            torch.testing.assert_close(found[b, r], wanted[0], rtol=0, atol=1e-12)


class Sampled(nn.Module):
    """Features [B, C, H, W] and every 4th, 8th … pixel of them as levels; two samples in a bin."""

    def forward(self, pixels: torch.Tensor, rois: torch.Tensor) -> torch.Tensor:
        return region_features([pixels[:, :, ::s, ::s] for s in STRIDES], STRIDES, rois, 3, 2)


def test_plain_form_traced_at_one_size_holds_at_others() -> None:
    draw, size = torch.Generator().manual_seed(0), {2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    example = torch.randn(2, 3, 160, 224, generator=draw).double()
    traced = torch.export.export(Sampled(), (example, _rois(2)), dynamic_shapes=(size, None)).module()
    for height, width in ((96, 64), (224, 320)):
        pixels = torch.randn(2, 3, height, width, generator=draw).double()
        assert torch.equal(traced(pixels, _rois(2)), Sampled()(pixels, _rois(2)))


def test_plain_form_is_torchvision_s_at_two_samples(conformance: ModuleType) -> None:
    vector = conformance.load_parts("roi_align")
    features, rois = (torch.from_numpy(vector.outputs[name]).double() for name in ("features", "rois"))
    found = torch.stack(
        [region_features([features[int(r[0])][None]], [4], r[None, None, 1:], 7, 2)[0, 0] for r in rois]
    )
    assert vector.error("aligned1_sampling2_out7", found.numpy()) < 1e-12


def test_pasted_masks_are_those_of_a_bilinear_sampling() -> None:
    draw = torch.Generator().manual_seed(0)
    masks = torch.rand(1, 3, 28, 28, generator=draw).double()
    boxes = torch.tensor([[[10.3, 5.2, 60.9, 44.0], [-8, -3, 20, 90], [7, 7, 7, 7]]]).double()
    found = pasted(masks, boxes, 50, 70)
    assert found.shape == (1, 3, 50, 70) and found.dtype == torch.bool
    for i in range(2):
        x1, y1, x2, y2 = boxes[0, i].tolist()
        x = (torch.arange(70).double() + 0.5 - x1) / (x2 - x1) * 2 - 1
        y = (torch.arange(50).double() + 0.5 - y1) / (y2 - y1) * 2 - 1
        grid = torch.stack([x.expand(50, 70), y[:, None].expand(50, 70)], -1)[None]
        assert torch.equal(
            found[0, i], functional.grid_sample(masks[:, i, None], grid, align_corners=False)[0, 0] >= 0.5
        )
    assert not found[0, 2].any()  # a box of no size
