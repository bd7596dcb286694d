"""Whether the tensors of a state dict are weights: dense numbers, finite, none larger than what the file has."""

from collections.abc import Mapping

import torch
from torch import Tensor


def problem_of(state: Mapping[str, Tensor]) -> str | None:
    """Say what keeps `state` from being weights, None if nothing does."""
    sick: list[str] = []
    for key, value in state.items():
        if value.layout != torch.strided or value.is_quantized or value.is_meta:
            return f"entry {key} is a quantized, sparse or empty-handed tensor; wanted dense numbers"
        distinct = _distinct(value)
        if distinct.numel() * distinct.dtype.itemsize > distinct.untyped_storage().nbytes():
            return (
                f"entry {key} has {value.numel()} elements over {value.untyped_storage().nbytes()} bytes; wanted each "
                "element once: save tensor.contiguous()"
            )
        if value.is_floating_point() and not _is_finite(distinct):
            sick.append(key)
    if sick:
        return (
            f"{len(sick)} of {len(state)} tensors hold NaN or inf (first: {sick[0]}); wanted finite weights; "
            "take a checkpoint from before the training diverged"
        )
    return None


def _distinct(values: Tensor) -> Tensor:
    """Return each element of an expanded tensor once: along an axis of stride 0 all are the same."""
    for axis in range(values.ndim):
        if values.stride(axis) == 0 and values.shape[axis] > 1:
            values = values.narrow(axis, 0, 1)
    return values


def _is_finite(values: Tensor) -> bool:
    """Whether there is no NaN and no inf; one pass, no temporary."""
    if values.numel() == 0:
        return True
    low, high = (values if values.dtype.itemsize > 1 else values.float()).aminmax()
    return bool(low.isfinite() and high.isfinite())
