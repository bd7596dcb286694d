"""Non-maximum suppression in plain arrays."""

import numpy as np

from ..runner import Array


def kept(boxes_N4: Array, labels_N: Array, iou: float, most: int) -> Array:
    """Indices of the boxes that stay, at most so many; boxes are sorted, the best first.

    One goes where it overlaps a better one that stays, of its own class, by more than `iou`:
    |A ∩ B| / |A ∪ B|, of boxes x1 y1 x2 y2.
    """
    left, top, right, bottom = boxes_N4.T
    area = (right - left).clip(0) * (bottom - top).clip(0)
    alive = np.ones(len(boxes_N4), bool)
    found: list[int] = []
    for i in range(len(boxes_N4)):
        if not alive[i]:
            continue
        found.append(i)
        if len(found) == most:
            break
        rest = np.flatnonzero(alive[i + 1 :] & (labels_N[i + 1 :] == labels_N[i])) + i + 1
        across = np.minimum(right[rest], right[i]) - np.maximum(left[rest], left[i])
        down = np.minimum(bottom[rest], bottom[i]) - np.maximum(top[rest], top[i])
        common = across.clip(0) * down.clip(0)
        alive[rest] = common <= iou * (area[rest] + area[i] - common)
    return np.array(found, np.int64)
