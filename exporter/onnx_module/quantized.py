"""Rounding to integers and back, as graphs that were trained or calibrated so have it between their layers."""

import torch
from torch import Tensor

from .base import Step, op

_TYPES = {2: torch.uint8, 3: torch.int8, 5: torch.int16, 6: torch.int32}
"""PyTorch's types by ONNX's numbers."""


@op("QuantizeLinear")
def _quantize(step: Step, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    """clip(round(x / s) + z), halves to even."""
    dtype = _TYPES.get(step.get("output_dtype", 0) or 2) if zero is None else zero.dtype
    if dtype is None or dtype not in _TYPES.values() or step.get("block_size", 0):
        step.refuse(f"the type {str(dtype).removeprefix('torch.')}, or blocks")
    info = torch.iinfo(dtype)
    shift = 0 if zero is None else _along(step, x, zero).to(torch.int64)
    return torch.clamp(torch.round(x / _along(step, x, scale)) + shift, info.min, info.max).to(dtype)


@op("DequantizeLinear")
def _dequantize(step: Step, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    """(x − z)·s."""
    if x.dtype not in _TYPES.values() or step.get("block_size", 0):
        step.refuse(f"the type {str(x.dtype).removeprefix('torch.')}, or blocks")
    shift = 0 if zero is None else _along(step, x, zero).to(torch.int64)
    return (x.to(torch.int64) - shift).to(scale.dtype) * _along(step, x, scale)


def _along(step: Step, x: Tensor, values: Tensor) -> Tensor:
    """One value, or one for each index of the axis."""
    if values.numel() == 1:
        return values.reshape(())
    shape = [1] * x.dim()
    shape[step.get("axis", 1)] = values.numel()
    return values.reshape(shape)
