"""The operators `plainconv::top`, `nms` and `roi_align`, which a detector may call, and PyTorch's `topk`, in ONNX.

Non-maximum suppression keeps a candidate unless a better one of its label, itself kept, overlaps it too much:

    keep = candidate ∧ ¬(keep·S),  S[j, i] = same label ∧ j better than i ∧ IoU(j, i) > threshold

From keep = candidate on, each round settles at least the next box of every chain of overlaps, so the rounds end at the
only fixed point, which is what taking the boxes one after the other keeps. In ONNX that is a Loop of as many rounds as
the longest chain has boxes; no sort is needed, and no limit on how many boxes there are.
"""

from collections.abc import Callable
from typing import Any

import torch
from onnx import TensorProto
from onnxscript import FLOAT, opset18, script

op: Any = opset18
"""What `torch.onnx` writes, before it converts to the version asked for; its annotations know no Python numbers."""
NAMESPACE = "plainconv"


def custom_translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """What `torch.onnx.export` takes as `custom_translation_table`: `topk`, and those of ours that are registered."""
    known: dict[str, Callable[..., Any]] = {"top": _top, "nms": _nms, "roi_align": _roi_align}
    registered = getattr(torch.ops, NAMESPACE)
    ours = {getattr(registered, name).default: known[name] for name in known if hasattr(registered, name)}
    return {torch.ops.aten.topk.default: _top, **ours}


@script(default_opset=op)
def fixed_point(candidate: FLOAT[...], suppresses: FLOAT[...]) -> FLOAT[...]:  # type: ignore[type-arg,misc]
    """keep = candidate ∧ ¬(keep·S): candidate [B, 1, N] and S [B, N, N], 1 or 0 → [B, 1, N]."""
    keep = op.Identity(candidate)
    changed = op.Cast(op.Constant(value_int=1), to=TensorProto.BOOL)
    while changed:
        suppressed = op.Cast(op.MatMul(keep, suppresses), to=TensorProto.BOOL)  # no constants: surgery keeps none here
        kept = candidate * op.Cast(op.Not(suppressed), to=TensorProto.FLOAT)
        changed = op.Cast(op.ReduceMax(op.Abs(kept - keep), keepdims=0), to=TensorProto.BOOL)
        keep = op.Identity(kept)
    return keep  # type: ignore[no-any-return]


def _top(values: Any, count: Any, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
    """TopK has the first of equal ones; sorted where that is not asked for, too: any other order is a runtime's own."""
    ones = op.Constant(value_ints=[count]) if isinstance(count, int) else op.Reshape(count, [-1])
    return op.TopK(values, ones, axis=dim, largest=int(largest), sorted=1)


def _nms(boxes: Any, scores: Any, labels: Any, iou_threshold: float, classes: int, form: str) -> Any:
    if form == "node":
        return _nms_by_node(boxes, scores, labels, iou_threshold, classes)
    of_row, of_column = [2], [1]  # axes to add: [B, N] as j of S, as i of S
    score_j, score_i = op.Unsqueeze(scores, of_row), op.Unsqueeze(scores, of_column)
    zero = op.Sub(scores, scores)
    place = op.CumSum(op.Add(zero, 1.0), 1)
    earlier = op.Less(op.Unsqueeze(place, of_row), op.Unsqueeze(place, of_column))
    better = op.Or(op.Greater(score_j, score_i), op.And(op.Equal(score_j, score_i), earlier))
    same = op.Equal(op.Unsqueeze(labels, of_row), op.Unsqueeze(labels, of_column))
    overlap = op.Greater(_iou(boxes), iou_threshold)
    suppresses = op.Cast(op.And(op.And(overlap, same), better), to=TensorProto.FLOAT)
    candidate = op.Unsqueeze(op.Cast(op.Greater(scores, 0.0), to=TensorProto.FLOAT), of_column)
    return op.Greater(op.Squeeze(fixed_point(candidate, suppresses), of_column), 0.5)


def _iou(boxes: Any) -> Any:
    """Intersection over union of boxes [B, N, 4] with each other: [B, N, N]."""
    x1, y1, x2, y2 = (op.Slice(boxes, [i], [i + 1], [2]) for i in range(4))
    area = op.Mul(op.Sub(x2, x1), op.Sub(y2, y1))

    def across(side: Any) -> Any:
        return op.Transpose(side, perm=[0, 2, 1])

    width = op.Relu(op.Sub(op.Min(x2, across(x2)), op.Max(x1, across(x1))))
    height = op.Relu(op.Sub(op.Min(y2, across(y2)), op.Max(y1, across(y1))))
    shared = op.Mul(width, height)
    return op.Div(shared, op.Sub(op.Add(area, across(area)), shared))


def _nms_by_node(boxes: Any, scores: Any, labels: Any, iou_threshold: float, classes: int) -> Any:
    """As a NonMaxSuppression node, which takes scores by class and gives a list (image, class, box)."""
    own = op.Equal(op.Unsqueeze(labels, [1]), op.Unsqueeze(op.Constant(value_ints=list(range(classes))), [0, 2]))
    by_class = op.Where(own, op.Unsqueeze(scores, [1]), 0.0)
    count = op.Shape(scores, start=1, end=2)
    chosen = op.NonMaxSuppression(boxes, by_class, count, iou_threshold, 0.0)
    places = op.Gather(chosen, [0, 2], axis=1)
    zeros = op.Sub(scores, scores)
    ones = op.Expand(op.Constant(value_floats=[1.0]), op.Shape(chosen, start=0, end=1))
    return op.Greater(op.ScatterND(zeros, places, ones), 0.5)


def _roi_align(features: Any, rois: Any, images: Any, size: int, scale: float, sampling: int, aligned: bool) -> Any:
    return op.RoiAlign(
        features,
        rois,
        images,
        coordinate_transformation_mode="half_pixel" if aligned else "output_half_pixel",
        mode="avg",
        output_height=size,
        output_width=size,
        sampling_ratio=sampling,
        spatial_scale=scale,
    )
