"""Ops that move values about: shapes, slices, pads, and the few that make values of nothing."""

from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .base import Step, op

PAD_MODES = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}


def axes_of(step: Step, given: list[int] | None, rank: int) -> list[int] | None:
    """The axes, an input in new opsets and an attribute in old ones, from 0 on; None where none are given."""
    found = given if given is not None else step.get("axes")
    return None if found is None else [int(a) % max(rank, 1) for a in found]


@op("Shape")
def _shape(step: Step, x: Tensor) -> Tensor:
    return torch.tensor(list(x.shape)[slice(step.get("start", 0), step.get("end"))], dtype=torch.int64)


@op("Size")
def _size(step: Step, x: Tensor) -> Tensor:
    return torch.tensor(x.numel())


@op("ConstantOfShape", told=(0,))
def _constant_of_shape(step: Step, shape: list[int]) -> Tensor:
    value = step.get("value")
    return torch.zeros(shape) if value is None else value.reshape(()).expand(shape)


@op("Range")
def _range(step: Step, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    """start + i·delta for i < ⌈(limit − start) / delta⌉."""
    count = torch.ceil((limit - start).to(torch.float64) / delta.to(torch.float64))
    return start + torch.arange(max(int(count), 0)).to(delta.dtype) * delta


@op("Reshape", told=(1,))
def _reshape(step: Step, x: Tensor, shape: list[int]) -> Tensor:
    if not step.get("allowzero", 0):
        shape = [x.shape[i] if size == 0 else size for i, size in enumerate(shape)]
    return x.reshape(shape)


@op("Flatten")
def _flatten(step: Step, x: Tensor) -> Tensor:
    axis = step.get("axis", 1)
    axis += x.dim() if axis < 0 else 0
    return x.reshape(prod(x.shape[:axis]), prod(x.shape[axis:]))


@op("Squeeze", told=(1,))
def _squeeze(step: Step, x: Tensor, axes: list[int] | None = None) -> Tensor:
    found = axes_of(step, axes, x.dim())
    return x.squeeze(tuple(found)) if found is not None else x.squeeze()


@op("Unsqueeze", told=(1,))
def _unsqueeze(step: Step, x: Tensor, axes: list[int] | None = None) -> Tensor:
    given = axes if axes is not None else step.get("axes")
    for axis in sorted(axes_of(step, given, x.dim() + len(given)) or []):
        x = x.unsqueeze(axis)
    return x


@op("Transpose")
def _transpose(step: Step, x: Tensor) -> Tensor:
    return x.permute(step.get("perm") or list(range(x.dim()))[::-1])


@op("Expand", told=(1,))
def _expand(step: Step, x: Tensor, shape: list[int]) -> Tensor:
    return x.expand(torch.broadcast_shapes(x.shape, shape))  # type: ignore[no-untyped-call]


@op("Tile", told=(1,))
def _tile(step: Step, x: Tensor, repeats: list[int]) -> Tensor:
    return x.repeat(repeats)


@op("Concat")
def _concat(step: Step, *xs: Tensor) -> Tensor:
    return torch.cat(xs, step.get("axis"))


@op("Split", told=(1,))
def _split(step: Step, x: Tensor, sizes: list[int] | None = None) -> tuple[Tensor, ...]:
    axis, count = step.get("axis", 0), len(step.outputs)
    sizes = sizes if sizes is not None else step.get("split")
    if sizes is None:
        chunk = -(-x.shape[axis] // count)
        sizes = [min(chunk, x.shape[axis] - i * chunk) for i in range(count)]
    return tuple(torch.split(x, sizes, axis))


@op("Slice", told=(1, 2, 3, 4))
def _slice(step: Step, x: Tensor, *given: Any) -> Tensor:
    names = ("starts", "ends", "axes", "steps")
    told = [*given, *[None] * (4 - len(given))]
    starts, ends, axes, steps = (t if t is not None else step.get(n) for t, n in zip(told, names, strict=True))
    for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
        axis = (axes[i] if axes is not None else i) % x.dim()
        taken = range(x.shape[axis])[start : end : steps[i] if steps is not None else 1]
        if taken.step > 0:
            x = x[(slice(None),) * axis + (slice(taken.start, taken.stop, taken.step),)]
        else:
            x = x.index_select(axis, torch.tensor(list(taken), dtype=torch.int64))
    return x


@op("Gather")
def _gather(step: Step, x: Tensor, index: Tensor) -> Tensor:
    axis = step.get("axis", 0) % x.dim()
    found = x.index_select(axis, _from_0(index, x.shape[axis]).reshape(-1))
    return found.reshape((*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]))


@op("GatherElements")
def _gather_elements(step: Step, x: Tensor, index: Tensor) -> Tensor:
    axis = step.get("axis", 0)
    return torch.gather(x, axis, _from_0(index, x.shape[axis]))


def _from_0(index: Tensor, size: int) -> Tensor:
    index = index.to(torch.int64)
    return torch.where(index < 0, index + size, index)


@op("Pad", told=(1, 2, 3))
def _pad(
    step: Step, x: Tensor, pads: list[int] | None = None, value: Any = None, axes: list[int] | None = None
) -> Tensor:
    pads = pads if pads is not None else step.get("pads")
    value = value if value is not None else step.get("value", 0)
    value = value[0] if isinstance(value, list) else value
    chosen = axes_of(step, axes, x.dim()) or list(range(x.dim()))
    ends = {axis: (pads[i], pads[i + len(chosen)]) for i, axis in enumerate(chosen)}
    mode = step.text("mode", "constant")
    if mode == "constant":
        return F.pad(x, [p for axis in reversed(range(x.dim())) for p in ends.get(axis, (0, 0))], value=value)
    for axis, (begin, end) in ends.items():
        x = _mirrored(step, x, axis, begin, end, mode)
    return x


def _mirrored(step: Step, x: Tensor, axis: int, begin: int, end: int, mode: str) -> Tensor:
    """x[i] for i from −begin to size + end, each i outside brought back inside as the mode says."""
    size = x.shape[axis]
    places = torch.arange(-begin, size + end)
    if mode == "edge":
        places = places.clamp(0, size - 1)
    elif mode == "wrap":
        places = places % size
    elif mode == "reflect":
        turn = max(2 * (size - 1), 1)
        places = size - 1 - (places % turn - (size - 1)).abs() if size > 1 else places * 0
    else:
        step.refuse(f"the mode {mode!r}")
    return x.index_select(axis, places) if begin or end else x


@op("DepthToSpace")
def _depth_to_space(step: Step, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    b = step.get("blocksize")
    if step.text("mode", "DCR") == "DCR":
        return x.reshape(n, b, b, c // b**2, h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, c // b**2, h * b, w * b)
    return x.reshape(n, c // b**2, b, b, h, w).permute(0, 1, 4, 2, 5, 3).reshape(n, c // b**2, h * b, w * b)


@op("SpaceToDepth")
def _space_to_depth(step: Step, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    b = step.get("blocksize")
    order = (0, 3, 5, 1, 2, 4) if step.text("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    return x.reshape(n, c, h // b, b, w // b, b).permute(order).reshape(n, c * b**2, h // b, w // b)


@op("Trilu", told=(1,))
def _trilu(step: Step, x: Tensor, k: int | None = None) -> Tensor:
    return (torch.triu if step.get("upper", 1) else torch.tril)(x, k or 0)
