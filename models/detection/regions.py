"""Features of regions, from the pyramid's level that fits each; and masks of regions, back into the image."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from .ops import roi_align

FINEST = 56.0  # regions up to twice this many pixels wide are of the finest level


def level_of(rois: Tensor, levels: int) -> Tensor:
    """⌊log2(√(w·h) / 56 + 10⁻⁶)⌋, of the levels there are: [..., 4] → [...], whole numbers in the type of `rois`."""
    width, height = rois[..., 2] - rois[..., 0], rois[..., 3] - rois[..., 1]
    return torch.floor(torch.log2(torch.sqrt(width * height) / FINEST + 1e-6)).clamp(0, levels - 1)


def region_features(levels: Sequence[Tensor], strides: Sequence[int], rois: Tensor, size: int, sampling: int) -> Tensor:
    """RoIAlign of each region, aligned, from its own level.

    Args:
        levels: [B, C, h, w] each, the finest first.
        strides: of the levels.
        rois: [B, R, 4], x1 y1 x2 y2 in pixels of the image.
        size: bins along each axis.
        sampling: samples in a bin along each axis: 0 for as many as a bin has pixels, the published way; otherwise
            that many, which is another function and takes ordinary operators alone.

    Returns:
        [B, R, C, size, size].
    """
    if sampling:
        return _sampled(levels, strides, rois, size, sampling)
    batch, count = rois.shape[:2]
    images = torch.arange(batch, device=rois.device)[:, None].expand(batch, count).reshape(-1)
    own = level_of(rois, len(levels))
    total: Tensor | None = None
    for i, (level, stride) in enumerate(zip(levels, strides, strict=True)):
        # a region of no size has no samples: zeros, at no cost
        here = (own == i)[..., None].to(rois.dtype)
        pooled = roi_align(level, (rois * here).reshape(-1, 4), images, size, 1.0 / stride, 0, True)
        pooled = pooled.reshape(batch, count, level.shape[1], size, size) * here[..., None, None]
        total = pooled if total is None else total + pooled
    assert total is not None
    return total


def pasted(masks: Tensor, boxes: Tensor, height: int, width: int) -> Tensor:
    """Masks [B, D, m, m] of boxes [B, D, 4] → [B, D, height, width], bilinear, true from one half on.

    Bilinear sampling takes rows and columns one after the other: R·mask·Cᵀ, hat functions in R and C.
    """
    rows = _hats(boxes[..., 1], boxes[..., 3], height, masks.shape[-2])
    columns = _hats(boxes[..., 0], boxes[..., 2], width, masks.shape[-1])
    return torch.matmul(torch.matmul(rows, masks), columns.transpose(-1, -2)) >= 0.5


def _hats(low: Tensor, high: Tensor, pixels: int, cells: int) -> Tensor:
    """max(0, 1 − |cell − position|), the position of each pixel's centre in cells: [B, D] → [B, D, pixels, cells]."""
    centre = torch.arange(pixels, dtype=low.dtype, device=low.device) + 0.5
    extent = torch.where(high > low, high - low, torch.ones_like(low))
    at = (centre - low[..., None]) / extent[..., None] * cells - 0.5
    cell = torch.arange(cells, dtype=low.dtype, device=low.device)
    return (1 - (at[..., None] - cell).abs()).clamp(min=0) * (high > low)[..., None, None].to(low.dtype)


def _sampled(levels: Sequence[Tensor], strides: Sequence[int], rois: Tensor, size: int, sampling: int) -> Tensor:
    """RoIAlign by one bilinear sampling of all levels, in one map, each region where its level is."""
    batch, count = rois.shape[:2]
    atlas, places = _atlas(levels)
    table = [(1.0 / stride, *place) for stride, place in zip(strides, places, strict=True)]
    columns = [torch.stack([rois.new_full((), value) for value in column]) for column in zip(*table, strict=True)]
    own = level_of(rois, len(levels)).long()
    scale, top, left, height, width = (column[own] for column in columns)
    x1, y1, x2, y2 = (rois * scale[..., None] - 0.5).unbind(-1)
    n = size * sampling
    y, y_inside = _samples(y1, y2 - y1, n, height)
    x, x_inside = _samples(x1, x2 - x1, n, width)
    grid_y = (2 * (y + top[..., None]) + 1) / atlas.shape[-2] - 1
    grid_x = (2 * (x + left[..., None]) + 1) / atlas.shape[-1] - 1
    grid = torch.stack(
        [grid_x[:, :, None].expand(-1, -1, n, -1), grid_y[..., None].expand(-1, -1, -1, n)], dim=-1
    ).reshape(batch, count * n, n, 2)
    inside = (y_inside[..., None] & x_inside[:, :, None]).to(rois.dtype).reshape(batch, 1, count * n, n)
    sampled = functional.grid_sample(atlas, grid, padding_mode="border", align_corners=False) * inside
    pooled = functional.avg_pool2d(sampled, sampling)
    return pooled.reshape(batch, atlas.shape[1], count, size, size).transpose(1, 2)


def _samples(low: Tensor, extent: Tensor, n: int, limit: Tensor) -> tuple[Tensor, Tensor]:
    """n evenly spaced samples of [low, low + extent], moved to within [0, limit − 1], and which of them count."""
    step = (torch.arange(n, dtype=low.dtype, device=low.device) + 0.5) / n
    at = low[..., None] + extent[..., None] * step
    inside = (at >= -1) & (at <= limit[..., None])
    return torch.minimum(at.clamp(min=0), limit[..., None] - 1), inside


def _atlas(levels: Sequence[Tensor]) -> tuple[Tensor, list[tuple[int, int, int, int]]]:
    """All levels in one map, the finest left, the others above each other on its right; top, left, height and width.

    Each level is half of the one before, so that the others together are less tall than the finest.
    """
    finest, *others = levels
    height, left = finest.shape[-2:]
    places = [(0, 0, height, left)]
    column, top = [], 0
    for level in others:
        column.append(functional.pad(level, (0, others[0].shape[-1] - level.shape[-1])))
        places.append((top, left, *level.shape[-2:]))
        top += level.shape[-2]
    parts = [finest, functional.pad(torch.cat(column, 2), (0, 0, 0, height - top))] if column else [finest]
    return torch.cat(parts, 3), places
