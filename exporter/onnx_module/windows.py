"""Ops on windows: convolutions and pools of one to three axes."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .base import Step, op

Pads = list[tuple[int, int]]
MAX_POOLS = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
AVERAGE_POOLS: dict[int, Any] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def pads_of(step: Step, x: Tensor, taps: list[int], stride: list[int], dilation: list[int]) -> Pads:
    """(begin, end) of each axis; "same" padding pads to ⌈size / stride⌉ windows."""
    auto = step.text("auto_pad", "NOTSET")
    if not auto.startswith("SAME"):
        flat = step.get("pads") if auto != "VALID" else None
        flat = list(flat or [0] * (2 * len(taps)))
        return list(zip(flat[: len(taps)], flat[len(taps) :], strict=True))
    pads = []
    for size, k, s, d in zip(x.shape[2:], taps, stride, dilation, strict=True):
        total = max((-(-size // s) - 1) * s + d * (k - 1) + 1 - size, 0)
        pads.append((total // 2, total - total // 2) if auto == "SAME_UPPER" else (total - total // 2, total // 2))
    return pads


def padded(x: Tensor, pads: Pads, value: float = 0.0) -> Tensor:
    """x with its last axes padded by a constant; a negative pad crops."""
    flat = [p for pair in reversed(pads) for p in pair]
    return F.pad(x, flat, value=value) if any(flat) else x


def windows(x: Tensor, taps: list[int], stride: list[int], dilation: list[int]) -> Tensor:
    """[N, C, *positions, *taps]: what each window sees."""
    for axis, (k, s, d) in enumerate(zip(taps, stride, dilation, strict=True), 2):
        x = x.unfold(axis, d * (k - 1) + 1, s)[..., ::d]
    return x


@op("Conv")
def _conv(step: Step, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    taps, stride, dilation = _geometry(step, list(w.shape[2:]))
    pads = pads_of(step, x, taps, stride, dilation)
    own = [begin for begin, _ in pads]
    if any(begin != end or begin < 0 for begin, end in pads):
        x, own = padded(x, pads), [0] * len(pads)
    return torch.convolution(x, w, b, stride, own, dilation, False, [0] * len(pads), step.get("group", 1))


@op("ConvTranspose")
def _conv_transpose(step: Step, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    """Every tap lands somewhere in (size − 1)·s + d·(k − 1) + 1 places; pads crop these, output_padding adds places."""
    taps, stride, dilation = _geometry(step, list(w.shape[2:]))
    more = list(step.get("output_padding") or [0] * len(taps))
    full = [(n - 1) * s + d * (k - 1) + 1 for n, k, s, d in zip(x.shape[2:], taps, stride, dilation, strict=True)]
    auto, wanted = step.text("auto_pad", "NOTSET"), step.get("output_shape")
    if wanted is None and auto.startswith("SAME"):
        wanted = [n * s for n, s in zip(x.shape[2:], stride, strict=True)]
    if wanted is None:
        crops = pads_of(step, x, taps, stride, dilation)
    else:
        totals = [f + o - n for f, o, n in zip(full, more, wanted[-len(taps) :], strict=True)]
        lower = auto != "SAME_UPPER"
        crops = [(t - t // 2, t // 2) if lower else (t // 2, t - t // 2) for t in totals]
    zeros = [0] * len(taps)
    y = torch.convolution(x, w, None, stride, zeros, dilation, True, zeros, step.get("group", 1))
    y = padded(y, [(-begin, o - end) for (begin, end), o in zip(crops, more, strict=True)])
    return y if b is None else y + b.reshape(-1, *[1] * len(taps))


@op("MaxPool")
def _max_pool(step: Step, x: Tensor) -> Tensor:
    if len(step.outputs) > 1 and step.outputs[1]:
        step.refuse("the output Indices")
    taps, stride, dilation = _geometry(step, list(step.get("kernel_shape")))
    pads = _with_ceil(step, x, taps, stride, dilation)
    wide = x if x.is_floating_point() else x.to(torch.float64)
    y = MAX_POOLS[len(taps)](padded(wide, pads, float("-inf")), taps, stride, 0, dilation)
    return y if x.is_floating_point() else y.to(x.dtype)


@op("AveragePool")
def _average_pool(step: Step, x: Tensor) -> Tensor:
    """y = Σ_t x / Σ_t counted: padding is counted on demand, what ceil_mode adds at the end never."""
    taps, stride, dilation = _geometry(step, list(step.get("kernel_shape")))
    pads = pads_of(step, x, taps, stride, dilation)
    counts = bool(step.get("count_include_pad", 0))
    halves = all(a == b and 0 <= 2 * a <= k for (a, b), k in zip(pads, taps, strict=True))
    if halves and not step.get("ceil_mode", 0) and all(d == 1 for d in dilation):
        return AVERAGE_POOLS[len(taps)](x, taps, stride, [a for a, _ in pads], False, counts)  # type: ignore[no-any-return]
    all_pads = _with_ceil(step, x, taps, stride, dilation)
    ones = torch.ones(1, 1, *x.shape[2:], dtype=x.dtype)
    ones = padded(ones, pads, float(counts))
    late = [(0, b - e) for (_, b), (_, e) in zip(all_pads, pads, strict=True)]
    axes = list(range(-len(taps), 0))
    total = windows(padded(x, all_pads), taps, stride, dilation).sum(axes)
    return total / windows(padded(ones, late), taps, stride, dilation).sum(axes)


@op("LpPool")
def _lp_pool(step: Step, x: Tensor) -> Tensor:
    taps, stride, dilation = _geometry(step, list(step.get("kernel_shape")))
    p = step.get("p", 2)
    seen = windows(padded(x, _with_ceil(step, x, taps, stride, dilation)), taps, stride, dilation)
    return seen.abs().pow(p).sum(list(range(-len(taps), 0))).pow(1 / p)


@op("GlobalAveragePool")
def _global_average_pool(step: Step, x: Tensor) -> Tensor:
    return x.mean(tuple(range(2, x.dim())), keepdim=True)


@op("GlobalMaxPool")
def _global_max_pool(step: Step, x: Tensor) -> Tensor:
    return x.amax(tuple(range(2, x.dim())), keepdim=True)


def _geometry(step: Step, taps: list[int]) -> tuple[list[int], list[int], list[int]]:
    """Taps, stride and dilation of each axis."""
    if len(taps) not in MAX_POOLS:
        step.refuse(f"{len(taps)} spatial axes")
    ones = [1] * len(taps)
    return taps, list(step.get("strides") or ones), list(step.get("dilations") or ones)


def _with_ceil(step: Step, x: Tensor, taps: list[int], stride: list[int], dilation: list[int]) -> Pads:
    """The pads, and those that ceil_mode adds: for a last window that is not full, but starts before the end pads."""
    pads = pads_of(step, x, taps, stride, dilation)
    if not step.get("ceil_mode", 0):
        return pads
    added = []
    for size, (begin, end), k, s, d in zip(x.shape[2:], pads, taps, stride, dilation, strict=True):
        span, whole = d * (k - 1) + 1, size + begin + end
        count = -(-(whole - span) // s) + 1
        count -= (count - 1) * s >= size + begin
        added.append((begin, end + max((count - 1) * s + span - whole, 0)))
    return added
