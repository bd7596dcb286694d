"""Resize and its ancestor Upsample, one axis after the other."""

from math import ceil, floor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .base import Step, op

ROUND = {
    "round_prefer_floor": lambda p: ceil(p - 0.5),
    "round_prefer_ceil": lambda p: floor(p + 0.5),
    "floor": floor,
    "ceil": ceil,
}


@op("Resize", told=(1, 2, 3))
def _resize(step: Step, x: Tensor, roi: Any = None, scales: Any = None, sizes: Any = None) -> Tensor:
    if step.opset < 11:  # then the scales were the second input
        return _upsample(step, x, roi)
    if step.get("antialias", 0) or step.text("keep_aspect_ratio_policy", "stretch") != "stretch":
        step.refuse("antialias or keep_aspect_ratio_policy")
    mode, where = step.text("mode", "nearest"), step.text("coordinate_transformation_mode", "half_pixel")
    axes = [a % x.dim() for a in step.get("axes") or range(x.dim())]
    for i, axis in enumerate(axes):
        scale = scales[i] if scales else sizes[i] / x.shape[axis]
        size = sizes[i] if sizes else _scaled(x.shape[axis], scale)
        if size != x.shape[axis] or scale != 1:
            x = _along(step, x, axis, size, scale, mode, where)
    return x


@op("Upsample", told=(1,))
def _upsample(step: Step, x: Tensor, scales: Any = None) -> Tensor:
    mode = step.text("mode", "nearest")
    for axis, scale in enumerate(scales if scales is not None else step.get("scales")):
        size = _scaled(x.shape[axis], scale)
        x = _along(step, x, axis, size, scale, mode, "asymmetric", "floor") if scale != 1 else x
    return x


def _scaled(size: int, scale: float) -> int:
    """⌊size · scale⌋, a product in float32."""
    return int(np.float32(size) * np.float32(scale))


def _along(step: Step, x: Tensor, axis: int, size: int, scale: float, mode: str, where: str, how: str = "") -> Tensor:
    """Nearest: y[i] = x[round(p(i))]; linear: y[i] = (1 − f)·x[⌊p⌋] + f·x[⌊p⌋ + 1], f = p − ⌊p⌋; clamped to x."""
    last = x.shape[axis] - 1
    places = [_place(step, i, size, last + 1, scale, where) for i in range(size)]
    if mode == "nearest":
        rounded = ROUND[how or step.text("nearest_mode", "round_prefer_floor")]
        return x.index_select(axis, torch.tensor([min(max(rounded(p), 0), last) for p in places]))
    if mode != "linear" and not (mode == "bilinear" and step.opset < 11):
        step.refuse(f"the mode {mode!r}")
    inside = [min(max(p, 0.0), float(last)) for p in places]
    low = [min(floor(p), max(last - 1, 0)) for p in inside]
    shape = [size if a == axis else 1 for a in range(x.dim())]
    share = torch.tensor([p - i for p, i in zip(inside, low, strict=True)], dtype=torch.float64).reshape(shape)
    share = share.to(x.dtype)
    below = x.index_select(axis, torch.tensor(low))
    return below + share * (x.index_select(axis, torch.tensor([min(i + 1, last) for i in low])) - below)


def _place(step: Step, i: int, size: int, given: int, scale: float, where: str) -> float:
    """Where in x output i lies."""
    if where == "align_corners":
        return i * (given - 1) / (size - 1) if size > 1 else 0.0
    if where == "asymmetric":
        return i / scale
    if where == "pytorch_half_pixel" and size == 1:
        return 0.0
    if where in ("half_pixel", "pytorch_half_pixel"):
        return (i + 0.5) / scale - 0.5
    if where == "half_pixel_symmetric":
        return given / 2 * (1 - size / (scale * given)) + (i + 0.5) / scale - 0.5
    step.refuse(f"the coordinates {where!r}")
