"""Ops that add up: matrix products, reductions, softmax, normalizations."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .base import OPS, Op, Step, op
from .layout import axes_of

Axes = tuple[int, ...]
REDUCTIONS: dict[str, Callable[[Tensor, Axes, bool], Tensor]] = {
    "ReduceSum": lambda x, axes, keep: x.sum(axes, keep, dtype=x.dtype),
    "ReduceMean": lambda x, axes, keep: x.mean(axes, keep),
    "ReduceMax": lambda x, axes, keep: x.amax(axes, keep),
    "ReduceMin": lambda x, axes, keep: x.amin(axes, keep),
    "ReduceL1": lambda x, axes, keep: x.abs().sum(axes, keep, dtype=x.dtype),
    "ReduceL2": lambda x, axes, keep: x.square().sum(axes, keep, dtype=x.dtype).sqrt(),
    "ReduceSumSquare": lambda x, axes, keep: x.square().sum(axes, keep, dtype=x.dtype),
    "ReduceLogSum": lambda x, axes, keep: x.sum(axes, keep, dtype=x.dtype).log(),
    "ReduceLogSumExp": lambda x, axes, keep: x.logsumexp(axes, keep),
    "ReduceProd": lambda x, axes, keep: _prod(x, axes, keep),
}


def _reduce(step: Step, x: Tensor, axes: list[int] | None = None, *, by: Callable[[Tensor, Axes, bool], Tensor]) -> Any:
    found = axes_of(step, axes, x.dim())
    if not found:  # none given, or an empty list
        if step.get("noop_with_empty_axes", 0):
            return by(x.unsqueeze(0), (0,), False)
        found = list(range(x.dim()))
    return by(x, tuple(found), bool(step.get("keepdims", 1))) if found else by(x.reshape(1), (0,), False)


def _prod(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = x.prod(axis, keep, dtype=x.dtype)
    return x


OPS.update(
    {name: Op(lambda *a, by=by: _reduce(*a, by=by), frozenset({1})) for name, by in REDUCTIONS.items()}
)  # the axes are told


@op("ArgMax", "ArgMin")
def _arg_max(step: Step, x: Tensor) -> Tensor:
    if step.get("select_last_index", 0):
        step.refuse("select_last_index")
    find = torch.argmax if step.op == "ArgMax" else torch.argmin
    return find(x, step.get("axis", 0), bool(step.get("keepdims", 1)))


@op("CumSum", told=(1,))
def _cum_sum(step: Step, x: Tensor, axis: Any) -> Tensor:
    axis = axis[0] if isinstance(axis, list) else axis
    if step.get("exclusive", 0) or step.get("reverse", 0):
        step.refuse("exclusive or reverse sums")
    return x.cumsum(axis, dtype=x.dtype)


# ------------------------------------------------------------------ products


@op("MatMul")
def _matmul(step: Step, a: Tensor, b: Tensor) -> Tensor:
    return torch.matmul(a, b)


@op("Gemm")
def _gemm(step: Step, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    """α·A·B + β·C."""
    a, b = a.T if step.get("transA", 0) else a, b.T if step.get("transB", 0) else b
    alpha, beta = step.get("alpha", 1.0), step.get("beta", 1.0)
    y = torch.matmul(a, b)
    y = y if alpha == 1 else alpha * y
    return y if c is None else y + (c if beta == 1 else beta * c)


@op("Einsum")
def _einsum(step: Step, *xs: Tensor) -> Tensor:
    return torch.einsum(step.text("equation", "").replace(" ", ""), *xs)


# ------------------------------------------------------------------ softmax


@op("Softmax", "LogSoftmax")
def _softmax(step: Step, x: Tensor) -> Tensor:
    """Over one axis; before opset 13 over all axes from one on."""
    softmax = F.softmax if step.op == "Softmax" else F.log_softmax
    if step.opset >= 13:
        return softmax(x, step.get("axis", -1))
    axis = step.get("axis", 1) % max(x.dim(), 1)
    return softmax(x.flatten(axis), -1).reshape(x.shape)


# ------------------------------------------------------------------ normalizations


@op("BatchNormalization")
def _batch_norm(step: Step, x: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    if step.get("training_mode", 0) or not step.get("spatial", 1) or sum(map(bool, step.outputs)) > 1:
        step.refuse("training mode")
    y = F.batch_norm(x.to(mean.dtype), mean, var, gamma.to(mean.dtype), beta.to(mean.dtype), False, 0, _epsilon(step))
    return y.to(x.dtype)


@op("InstanceNormalization")
def _instance_norm(step: Step, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    return F.group_norm(x, x.shape[1], gamma, beta, _epsilon(step))


@op("GroupNormalization")
def _group_norm(step: Step, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    """One scale a channel; one a group before opset 21."""
    groups = step.get("num_groups")
    if step.opset < 21:
        gamma, beta = (t.repeat_interleave(x.shape[1] // groups) for t in (gamma, beta))
    return F.group_norm(x, groups, gamma, beta, _epsilon(step))


@op("LayerNormalization")
def _layer_norm(step: Step, x: Tensor, gamma: Tensor, beta: Tensor | None = None) -> tuple[Tensor, ...]:
    """(y, mean, 1/σ) over all axes from one on."""
    axes = tuple(range(step.get("axis", -1) % x.dim(), x.dim()))
    mean = x.mean(axes, keepdim=True)
    inverse = torch.rsqrt((x - mean).square().mean(axes, keepdim=True) + _epsilon(step))
    y = (x - mean) * inverse * gamma
    return (y if beta is None else y + beta), mean, inverse


@op("RMSNormalization")
def _rms_norm(step: Step, x: Tensor, gamma: Tensor) -> Tensor:
    axes = tuple(range(step.get("axis", -1) % x.dim(), x.dim()))
    return x * torch.rsqrt(x.square().mean(axes, keepdim=True) + _epsilon(step)) * gamma


@op("LRN")
def _lrn(step: Step, x: Tensor) -> Tensor:
    """x / (bias + α/size · Σ x²)^β, the sum over ⌊(size−1)/2⌋ channels before and ⌈(size−1)/2⌉ behind."""
    size = step.get("size")
    ends = [0, 0] * (x.dim() - 2) + [(size - 1) // 2, size // 2]
    squares = F.pad(x.square(), ends).unfold(1, size, 1).sum(-1)
    return x / torch.pow(step.get("bias", 1.0) + step.get("alpha", 1e-4) / size * squares, step.get("beta", 0.75))


@op("LpNormalization")
def _lp_norm(step: Step, x: Tensor) -> Tensor:
    norm = torch.linalg.vector_norm(x, step.get("p", 2), step.get("axis", -1), keepdim=True)
    return torch.where(norm == 0, torch.zeros_like(x), x / norm)


@op("MeanVarianceNormalization")
def _mean_variance_norm(step: Step, x: Tensor) -> Tensor:
    axes = tuple(step.get("axes") or (0, 2, 3))
    x = x - x.mean(axes, keepdim=True)
    return x / (x.square().mean(axes, keepdim=True).sqrt() + 1e-9)


def _epsilon(step: Step) -> float:
    return float(step.get("epsilon", 1e-5))
