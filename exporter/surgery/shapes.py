"""Shapes of the calls that most graphs are made of: PyTorch would load its compiler, a second's work, to tell them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..parity.convolve import map_sizes
from .onnx_ops import CONVS, aten

_ALIKE = {
    aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor, aten.neg.default, aten.alias.default,
    aten.leaky_relu.default,
}  # fmt: skip


def result_of(target: Any, args: Sequence[Any]) -> Tensor | None:
    """What a call gives, without numbers; None where PyTorch has to be asked, as about a call that it refuses."""
    tensors = [x for x in args if isinstance(x, Tensor)]
    if not tensors or len({x.dtype for x in tensors}) > 1:
        return None
    if target is aten.batch_norm.default:
        return tensors[0]
    if target in _ALIKE:
        return _broadcast(tensors)
    return _convolved(*args) if target in CONVS.values() else None


def _broadcast(tensors: list[Tensor]) -> Tensor | None:
    try:
        shape = np.broadcast_shapes(*(tuple(x.shape) for x in tensors))
    except ValueError:
        return None
    return torch.empty(shape, dtype=tensors[0].dtype, device="meta")


def _convolved(
    x: Tensor, w: Tensor, b: Tensor | None, stride: list[int], padding: list[int], dilation: list[int], groups: int
) -> Tensor | None:
    if x.dim() != w.dim() or x.shape[1] != w.shape[1] * groups or w.shape[0] % groups or min(padding) < 0:
        return None
    sizes = map_sizes(x, w, stride, padding, dilation)
    if min(sizes) < 1 or (b is not None and b.shape != w.shape[:1]):
        return None
    return torch.empty((len(x), len(w), *sizes), dtype=x.dtype, device="meta")
