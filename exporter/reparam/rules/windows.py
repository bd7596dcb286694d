"""Ops that slide a window: convolutions, plain and transposed, average pools; and Linears, which have none."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from ..affine import AffineMap, map_from_transposed
from ..forms import Form, IllegalError, conv_axis, transposed_axis
from ..graph import channels_of, is_static, rank_of, sizes
from ..lift import Lifter, Linear, Op, rule
from .channels import refuse_product


def _per_axis(value: int | Sequence[int], rank: int) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, (list, tuple)) else (value,) * rank
    return values * rank if len(values) == 1 else values  # type: ignore[return-value]


def _conv(lifter: Lifter, source: fx.Node, weight: object, bias: object, form: Form) -> Linear:
    """A convolution or Linear with those constants."""

    def build() -> AffineMap:
        w, b = lifter.constant(weight), lifter.constant(bias)
        assert w is not None
        return AffineMap(form, w, torch.zeros(form.out_channels, dtype=torch.float64) if b is None else b)

    def build_rows(rows: slice) -> AffineMap:
        w, n = lifter.constant_rows(weight, rows), rows.stop - rows.start
        b = torch.zeros(n, dtype=torch.float64) if bias is None else lifter.constant_rows(bias, rows)
        return AffineMap(replace(form, out_channels=n, in_channels=w.shape[1], groups=1), w, b)

    return Linear(source, form, build, build_rows)


@rule("conv1d", "conv2d", "conv3d", "convolution")
def lift_convolution(lifter: Lifter, node: fx.Node, a: Mapping[str, Any]) -> Op | None:
    """Zero-padded convolution with constant weights (named padding included)."""
    if a.get("transposed"):
        return lift_transposed(lifter, node, a)
    shape, rank = _kernel_shape(lifter, node, a), rank_of(node)
    if shape is None:
        return None
    stride, dilation = _per_axis(a["stride"], rank), _per_axis(a["dilation"], rank)
    taps = shape[2:]
    if isinstance(a["padding"], str):
        total = [d * (k - 1) if a["padding"] == "same" else 0 for d, k in zip(dilation, taps, strict=True)]
        pads = [(t // 2, t - t // 2) for t in total]
    else:
        pads = [(p, p) for p in _per_axis(a["padding"], rank)]
    axes = tuple(conv_axis(k, s, *p, d) for k, s, p, d in zip(taps, stride, pads, dilation, strict=True))
    form = Form(shape[0], shape[1] * a["groups"], a["groups"], axes, a["bias"] is not None)
    return _conv(lifter, a["input"], a["weight"], a["bias"], form)


@rule("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def lift_transposed(lifter: Lifter, node: fx.Node, a: Mapping[str, Any]) -> Op | None:
    """Transposed convolution with constant weights: a convolution of the input with zeros inserted."""
    shape, rank = _kernel_shape(lifter, node, a), rank_of(node)
    if shape is None:
        return None
    stride, dilation = _per_axis(a["stride"], rank), _per_axis(a["dilation"], rank)
    padding, output_padding = _per_axis(a["padding"], rank), _per_axis(a["output_padding"], rank)
    if all(s == 1 for s in stride):
        return None  # a convolution in disguise, and a rare one
    axes = tuple(
        transposed_axis(k, s, p, p, d, o)
        for k, s, p, d, o in zip(shape[2:], stride, padding, dilation, output_padding, strict=True)
    )
    form = Form(shape[1] * a["groups"], shape[0], a["groups"], axes, a["bias"] is not None)

    def build() -> AffineMap:
        w, b = lifter.constant(a["weight"]), lifter.constant(a["bias"])
        assert w is not None
        return map_from_transposed(form, w, torch.zeros(form.out_channels, dtype=torch.float64) if b is None else b)

    return Linear(a["input"], form, build)


def _kernel_shape(lifter: Lifter, node: fx.Node, a: Mapping[str, Any]) -> tuple[int, ...] | None:
    """The weight's shape; None where it is not constant, or the input has no batch axis."""
    rank, shape = rank_of(node), sizes(a["weight"])
    if not lifter.is_constant(a["weight"]) or not lifter.is_constant(a["bias"]):
        return None
    return shape if shape is not None and len(shape) == rank + 2 and rank_of(a["input"]) == rank else None


@rule("linear")
def lift_linear(lifter: Lifter, node: fx.Node, a: Mapping[str, Any]) -> Op | None:
    """y = W·x + b on [N, …, C]."""
    shape = sizes(a["weight"])
    if shape is None or not lifter.is_constant(a["weight"]) or not lifter.is_constant(a["bias"]):
        return None
    form = Form(shape[0], shape[1], 1, (), a["bias"] is not None)
    return _conv(lifter, a["input"], a["weight"], a["bias"], form)


@rule("matmul", "mm")
def lift_product(lifter: Lifter, node: fx.Node, a: Mapping[str, Any]) -> Op | None:
    """x·W on [N, …, C] for a constant matrix W is a Linear of weight Wᵀ."""
    weight = a["other"] if "other" in a else a["mat2"]
    shape = sizes(weight)
    if lifter.is_constant(a["self"]) or not lifter.is_constant(weight) or shape is None or len(shape) != 2:
        return refuse_product(lifter, node, a)
    form = Form(shape[1], shape[0], 1, (), biased=False)

    def build() -> AffineMap:
        w = lifter.constant(weight)
        assert w is not None
        return AffineMap(form, w.t().contiguous(), torch.zeros(shape[1], dtype=torch.float64))

    return Linear(a["self"], form, build)


@rule("avg_pool1d", "avg_pool2d", "avg_pool3d")
def lift_average_pool(lifter: Lifter, node: fx.Node, a: Mapping[str, Any]) -> Op | None:
    """Average pooling: a depthwise convolution with equal weights, where every window weighs its taps alike."""
    rank, channels = rank_of(node), channels_of(node)
    if not is_static(a["kernel_size"], a["stride"], a["padding"]):
        return None
    size = _per_axis(a["kernel_size"], rank)
    stride = _per_axis(a["stride"], rank) if a["stride"] else size
    padding = _per_axis(a["padding"], rank)
    if a["ceil_mode"] and any(s > 1 for s in stride):
        raise IllegalError(
            "CEIL_POOL", "average pooling with ceil_mode may end in partial windows", "use ceil_mode=False"
        )
    if any(padding) and not a["count_include_pad"] and not a.get("divisor_override"):
        raise IllegalError(
            "EDGE_POOL", "count_include_pad=False weighs the border differently", "use count_include_pad=True"
        )
    count = a.get("divisor_override") or torch.Size(size).numel()
    axes = tuple(conv_axis(k, s, p, p, 1) for k, s, p in zip(size, stride, padding, strict=True))
    form = Form(channels, channels, channels, axes, biased=False)

    def build() -> AffineMap:
        kernel = torch.full((channels, 1, *size), 1.0 / count, dtype=torch.float64)
        return AffineMap(form, kernel, torch.zeros(channels, dtype=torch.float64))

    return Linear(a["self"], form, build)
