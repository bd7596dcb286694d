"""Whether the tensors of a state dict are weights: dense numbers, finite, none larger than what the file has."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def problem_of(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str | None:
    """Say what keeps `state` from being weights for entries of the types of `wanted`, None if nothing does."""
    sick: list[str] = []
    for key, value in state.items():
        if kind := _kind_of(value):
            return f"entry {key} is {kind}"
        if key in wanted and (numbers := _foreign_numbers(value, wanted[key])):
            return f"entry {key} holds {numbers}; wanted any float type, for a network of {_dtype(wanted[key])}"
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


def _kind_of(value: Tensor) -> str:
    """What a tensor is that is not dense numbers of its own, and what was wanted; nothing where it is."""
    if type(value) not in (Tensor, nn.Parameter, nn.Buffer):
        return f"a {type(value).__name__}, whose numbers may lie elsewhere; wanted them all: save tensor.full_tensor()"
    if value.is_meta:
        return "on the meta device, a shape without numbers; wanted numbers"
    if value.is_quantized:
        return f"quantized, {_dtype(value)}; wanted the weights of before, or tensor.dequantize()"
    sparse = str(value.layout).removeprefix("torch.")
    return "" if value.layout == torch.strided else f"{sparse}; wanted dense numbers: save tensor.to_dense()"


def _foreign_numbers(value: Tensor, wanted: Tensor) -> str:
    """The type of `value` where its numbers would be lost or mean something else in `wanted`: an int8 without scale."""
    lost = value.is_complex() and not wanted.is_complex()
    whole = isinstance(wanted, nn.Parameter) and not (value.is_floating_point() or value.is_complex())
    return _dtype(value) if lost or whole else ""


def _dtype(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


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
