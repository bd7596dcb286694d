"""What detections and masks are worth: AP50 as COCO counts it, mean IoU; in float64."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

RECALLS = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class Boxes:
    """Of one image: boxes [K, 4] x1 y1 x2 y2, labels [K], and scores [K] where they are detections."""

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray


def iou(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """|A ∩ B| / |A ∪ B| of every pair of boxes: [K, 4] and [L, 4] → [K, L]."""
    one, other = one.astype(np.float64), other.astype(np.float64)
    low, high = np.maximum(one[:, None, :2], other[:, :2]), np.minimum(one[:, None, 2:], other[:, 2:])
    both = (high - low).clip(0).prod(2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).clip(0).prod(1) for boxes in (one, other)]
    return both / np.maximum(areas[0][:, None] + areas[1] - both, np.finfo(np.float64).tiny)  # type: ignore[no-any-return]


def detections(decoded: np.ndarray, *, least: float = 0.05, overlap: float = 0.5) -> list[Boxes]:
    """Detections of decoded [N, 4 + C, A]: of each class those above `least`, best first.

    Greedy non-maximum suppression: one that overlaps a better one of its class by more than `overlap` is left out.
    """
    result = []
    for y in decoded.astype(np.float64):
        boxes, scores = y[:4].T, y[4:]
        labels, rows = np.nonzero(scores > least)
        order = np.argsort(-scores[labels, rows], kind="stable")
        labels, rows = labels[order], rows[order]
        beaten = (iou(boxes[rows], boxes[rows]) > overlap) & (labels[:, None] == labels)
        kept: list[int] = []
        for k in range(len(rows)):
            if not beaten[k, kept].any():
                kept.append(k)
        result.append(Boxes(boxes[rows[kept]], labels[kept], scores[labels[kept], rows[kept]]))
    return result


def average_precision(found: Sequence[Boxes], truth: Sequence[Boxes], *, overlap: float = 0.5) -> float:
    """AP of COCO at one IoU: the precision at 101 recalls, mean over recalls and over the classes that there are.

    Precision at a recall is the best from there on. Detections, best first over all images, each take the free box of
    their class and image that they overlap most, from `overlap` on.
    """
    classes = np.unique(np.concatenate([each.labels for each in truth]))
    return float(np.mean([_of_class(found, truth, int(k), overlap) for k in classes]))


def _of_class(found: Sequence[Boxes], truth: Sequence[Boxes], label: int, overlap: float) -> float:
    scores, hits, wanted = [], [], 0
    for mine, right in zip(found, truth, strict=True):
        ours, theirs = mine.labels == label, right.labels == label
        wanted += int(theirs.sum())
        overlaps = iou(mine.boxes[ours], right.boxes[theirs])
        for k in np.argsort(-mine.scores[ours], kind="stable"):
            best = int(overlaps[k].argmax()) if overlaps.shape[1] else -1
            hit = best >= 0 and overlaps[k, best] >= overlap
            if hit:
                overlaps[:, best] = -1
            scores.append(mine.scores[ours][k])
            hits.append(hit)
    right_so_far = np.cumsum(np.asarray(hits, bool)[np.argsort(-np.asarray(scores), kind="stable")])
    precision = right_so_far / np.arange(1, len(hits) + 1)
    best_from_here = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return float(best_from_here[np.searchsorted(right_so_far / max(wanted, 1), RECALLS)].mean())


def mean_iou(masks: Iterable[np.ndarray], truth: np.ndarray, classes: int) -> float:
    """|A ∩ B| / |A ∪ B| of the pixels of each class over all images, mean over the classes that there are."""
    pairs = np.zeros((classes, classes), np.int64)
    for mask, right in zip(masks, truth, strict=True):
        pairs += np.bincount(classes * right.astype(np.int64).ravel() + mask.ravel(), minlength=classes**2).reshape(
            classes, classes
        )
    both, either = np.diag(pairs), pairs.sum(0) + pairs.sum(1) - np.diag(pairs)
    return float(np.mean(both[either > 0] / either[either > 0]))
