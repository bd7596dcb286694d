"""Boxes x1 y1 x2 y2 in pixels: anchors, what a head's numbers make of them, and the best of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from .ops import at_most, nms, top

MULTIPLE = 32  # of heights and widths
LARGEST_RATIO = abs(math.log(16 / 1000))  # between a box and its anchor, either way


@dataclass(frozen=True)
class Anchors:
    """Boxes of every ratio and scale at every place of a level: h = stride·scale·√ratio, w = stride·scale / √ratio."""

    scales: tuple[float, ...]
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)

    @property
    def at_each_place(self) -> int:
        """How many there are at a place."""
        return len(self.scales) * len(self.ratios)

    def of_level(self, features: Tensor, stride: int) -> Tensor:
        """Given features [B, C, H, W] → [H·W·A, 4] about (x·stride, y·stride), in the order y, x, ratio, scale."""
        height, width = features.shape[-2:]
        base = features.new_tensor(self._base(stride))
        x = torch.arange(width, dtype=features.dtype, device=features.device) * stride
        y = torch.arange(height, dtype=features.dtype, device=features.device) * stride
        shift = torch.stack([x[None].expand(height, width), y[:, None].expand(height, width)] * 2, dim=-1)
        return (shift[:, :, None] + base).reshape(-1, 4)

    def _base(self, stride: int) -> list[list[float]]:
        """The anchors at the origin, in float32 whatever the network is, as they were when it was trained."""
        root = np.sqrt(np.asarray(self.ratios, np.float32))
        scales = np.asarray(self.scales, np.float32)
        heights = (np.float32(stride) * root[:, None] * scales).ravel()
        widths = (np.float32(stride) * (1 / root)[:, None] * scales).ravel()
        half = np.float32(0.5)
        return np.stack([-half * widths, -half * heights, half * widths, half * heights], -1).tolist()  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Level:
    """A level's candidates, best first: boxes before `decode` [B, K, 4] and their shifts, logits and labels [B, K]."""

    boxes: Tensor
    deltas: Tensor
    logits: Tensor
    labels: Tensor


def best_of_level(logits: Tensor, deltas: Tensor, anchors: Tensor, most: int) -> Level:
    """Take the best (anchor, class) of a level.

    Given logits [B, A·C, H, W] and deltas [B, A·4, H, W], anchors [H·W·A, 4] → K = min(most, H·W·A·C) candidates.
    """
    batch, places = logits.shape[0], anchors.shape[0]
    classes = 4 * logits.shape[1] // deltas.shape[1]
    flat = logits.permute(0, 2, 3, 1).reshape(batch, places * classes)
    flat_deltas = deltas.permute(0, 2, 3, 1).reshape(batch, places, 4)
    best, index = top(flat, at_most(most, places * classes))
    anchor = index // classes
    return Level(anchors[anchor], rows(flat_deltas, anchor), best, index % classes)


def rows(table: Tensor, index: Tensor) -> Tensor:
    """table[b, index[b, k]]: [B, N, D] and [B, K] → [B, K, D]."""
    return torch.gather(table, 1, index[..., None].expand(-1, -1, table.shape[-1]))


def decode(boxes: Tensor, deltas: Tensor, stds: Sequence[float] = (1.0, 1.0, 1.0, 1.0)) -> Tensor:
    """centre + size·(dx, dy), size·e^(dw, dh), dw and dh clamped; boxes and deltas [..., 4] → [..., 4]."""
    deltas = deltas * deltas.new_tensor(stds)
    low, high = boxes[..., :2], boxes[..., 2:]
    size = high - low
    centre = (low + high) * 0.5 + size * deltas[..., :2]
    half = size * deltas[..., 2:].clamp(-LARGEST_RATIO, LARGEST_RATIO).exp() * 0.5
    return torch.cat([centre - half, centre + half], dim=-1)


def clipped(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Boxes [B, N, 4] within images of heights and widths `sizes` [B, 2]."""
    limits = sizes.flip(-1).repeat(1, 2)[:, None]
    return torch.minimum(boxes.clamp(min=0), limits)


def check_padded(images: Tensor) -> None:
    """Raise ValueError for images [B, C, H, W] that are not padded as those of the training were."""
    height, width = images.shape[-2:]
    if height % MULTIPLE or width % MULTIPLE:
        raise ValueError(f"{height}×{width} are no multiples of {MULTIPLE}; pad the image, right and bottom")


def image_sizes(images: Tensor, sizes: Tensor | None) -> Tensor:
    """`sizes` [B, 2] in the type of the images [B, C, H, W]; H and W for each where there are none.

    Raises ValueError as `check_padded` does.
    """
    check_padded(images)
    if sizes is not None:
        return sizes.to(images.dtype)
    return torch.stack([images.new_full(images.shape[:1], extent) for extent in images.shape[-2:]], dim=-1)


def best(
    boxes: Tensor, scores: Tensor, labels: Tensor, *, classes: int, iou_threshold: float, most: int, form: str
) -> dict[str, Tensor]:
    """What non-maximum suppression keeps, best first.

    Given boxes [B, N, 4], scores [B, N], 0 for no candidate, labels [B, N] below `classes` →
    boxes [B, most, 4] and scores [B, most], 0 behind the last, labels [B, most], −1 behind it, and their count [B].
    """
    wide = torch.promote_types(boxes.dtype, torch.float32)  # ONNX suppresses in no half precision
    keep = nms(boxes.to(wide), scores.to(wide), labels, iou_threshold, classes, form)
    kept = at_most(most, scores.shape[1])
    best_scores, index = top(torch.where(keep, scores, torch.zeros_like(scores)), kept)
    found = best_scores > 0
    best_boxes = rows(boxes, index) * found[..., None].to(boxes.dtype)
    best_labels = torch.where(found, torch.gather(labels, 1, index), torch.full_like(index, -1))
    missing = most - kept
    return {
        "boxes": functional.pad(best_boxes, (0, 0, 0, missing)),
        "scores": functional.pad(best_scores, (0, missing)),
        "labels": functional.pad(best_labels, (0, missing), value=-1),
        "count": found.sum(1),
    }
