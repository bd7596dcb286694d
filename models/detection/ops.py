"""The steps of a detector that are no tensor algebra, as operators: `plainconv::top`, `nms` and `roi_align`.

A trace keeps them whole, so that an exporter may choose how each is expressed.
"""

import torch
from torch import Tensor


@torch.library.custom_op("plainconv::top", mutates_args=())
def top(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The largest `count` of each row, the largest first; of equal ones the first, where `torch.topk` takes any.

    Scores that saturate are equal by the thousand, and ONNX's TopK has the first.

    Args:
        values: [B, N].
        count: how many, at most N.

    Returns:
        Values and their places, [B, count] each.
    """
    least = torch.topk(values, count)[0][:, -1:]
    places = torch.empty(len(values), count, dtype=torch.long)
    for b in range(len(values)):
        (those,) = torch.where(~(values[b] < least[b]))
        places[b] = those[values[b, those].argsort(descending=True, stable=True)[:count]]
    return torch.gather(values, 1, places), places


@top.register_fake
def _(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    shape = (values.shape[0], count)
    return values.new_empty(shape), values.new_empty(shape, dtype=torch.long)


@torch.library.custom_op("plainconv::nms", mutates_args=())
def nms(boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float, classes: int, form: str) -> Tensor:
    """Non-maximum suppression by label: keep a box unless a better one of its label, itself kept, overlaps it more.

    "More" is IoU > threshold, strictly. Of two equal scores the first is the better. A score of 0 or less is no
    candidate, and never kept.

    Args:
        boxes: [B, N, 4], x1 y1 x2 y2.
        scores: [B, N].
        labels: [B, N], whole numbers below `classes`.
        iou_threshold: of the intersection over the union.
        classes: how many labels there are.
        form: how it is expressed in ONNX, which changes nothing of what is kept: "plain", by tensor algebra and a Loop,
            or "node", by NonMaxSuppression.

    Returns:
        [B, N], true where a box is kept.
    """
    keep = torch.zeros_like(scores, dtype=torch.bool)
    for b in range(len(scores)):
        for label in set(labels[b][scores[b] > 0].tolist()):
            (candidates,) = torch.where((labels[b] == label) & (scores[b] > 0))
            best_first = candidates[scores[b, candidates].argsort(descending=True, stable=True)]
            keep[b, best_first] = _greedy(boxes[b, best_first], iou_threshold)
    return keep


@nms.register_fake
def _(boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float, classes: int, form: str) -> Tensor:
    return torch.empty_like(scores, dtype=torch.bool)


@torch.library.custom_op("plainconv::roi_align", mutates_args=())
def roi_align(
    features: Tensor, rois: Tensor, images: Tensor, size: int, scale: float, sampling: int, aligned: bool
) -> Tensor:
    """RoIAlign (Mask R-CNN §3): the mean of bilinear samples in each of size × size bins of a region.

    Args:
        features: [B, C, H, W].
        rois: [R, 4], x1 y1 x2 y2 in pixels of the image.
        images: [R], the image of the batch that each region is of.
        size: bins along each axis.
        scale: from pixels of the image to those of the features.
        sampling: samples in a bin along each axis; 0 takes ⌈bin's height⌉ × ⌈bin's width⌉, the published way.
        aligned: put pixels' centres half a pixel off their corners (ONNX's half_pixel).

    Returns:
        [R, C, size, size]; zeros for a region of no size, if aligned.
    """
    offset = 0.5 if aligned else 0.0
    x1, y1, x2, y2 = (rois * scale - offset).unbind(-1)
    height, width = y2 - y1, x2 - x1
    if not aligned:
        height, width = height.clamp(min=1), width.clamp(min=1)
    rows = _bin_weights(y1, height, size, sampling, features.shape[2])
    columns = _bin_weights(x1, width, size, sampling, features.shape[3])
    pooled = features.new_zeros(len(rois), features.shape[1], size, size)
    for r, image in enumerate(images.tolist()):
        ys, xs = _support(rows[r]), _support(columns[r])
        seen = features[image, :, ys, xs]
        pooled[r] = rows[r, :, ys] @ (seen @ columns[r, :, xs].T)
    return pooled


@roi_align.register_fake
def _(features: Tensor, rois: Tensor, images: Tensor, size: int, scale: float, sampling: int, aligned: bool) -> Tensor:
    return features.new_empty(rois.shape[0], features.shape[1], size, size)


def at_most(count: int, there: int) -> int:
    """The smaller of the two; a trace that leaves `there` open does too, where `min` would settle which it is."""
    return torch.sym_min(count, there)  # type: ignore[no-untyped-call,no-any-return]


def _greedy(boxes: Tensor, iou_threshold: float) -> Tensor:
    """Which of boxes [N, 4], the best first, are kept, one after the other."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    area = (x2 - x1) * (y2 - y1)
    keep = torch.ones(len(boxes), dtype=torch.bool)
    for i in range(len(boxes)):
        if keep[i]:
            rest = slice(i + 1, None)
            width = torch.minimum(x2[i], x2[rest]) - torch.maximum(x1[i], x1[rest])
            height = torch.minimum(y2[i], y2[rest]) - torch.maximum(y1[i], y1[rest])
            shared = width.clamp(min=0) * height.clamp(min=0)
            keep[rest] &= ~(shared / (area[i] + area[rest] - shared) > iou_threshold)
    return keep


def _bin_weights(low: Tensor, extent: Tensor, size: int, sampling: int, limit: int) -> Tensor:
    """W [R, size, limit]: bin i of region r along one axis is Σ_h W[r, i, h]·feature[h].

    A sample further than 1 outside counts as zero, one nearer as if at the border.
    """
    bin_extent = extent / size
    counts = torch.full_like(extent, float(sampling)) if sampling else bin_extent.ceil().clamp(min=0)
    samples = int(counts.max().clamp(min=1)) if len(counts) else 1
    s = torch.arange(samples, dtype=extent.dtype)
    within = (s + 0.5) / counts.clamp(min=1)[:, None]  # [R, samples], in bins
    at = torch.arange(size, dtype=extent.dtype)[None, :, None] + within[:, None]
    at = low[:, None, None] + at * bin_extent[:, None, None]  # [R, size, samples], in pixels
    counted = (s < counts[:, None])[:, None] & (at >= -1) & (at <= limit)
    share = counted.to(extent.dtype) / counts.clamp(min=1)[:, None, None]
    at = at.clamp(0, limit - 1)
    below = at.floor()
    above = (below + 1).clamp(max=limit - 1)
    weights = extent.new_zeros(*at.shape[:2], limit)
    weights.scatter_add_(2, below.long(), share * (1 - (at - below)))
    return weights.scatter_add_(2, above.long(), share * (at - below))


def _support(weights: Tensor) -> slice:
    """The range of features that any bin of [size, limit] takes."""
    (used,) = torch.where((weights != 0).any(0))
    return slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, 0)
