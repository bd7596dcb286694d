"""The affine ATen ops: what each is as a `Linear`, a `Sum` or a `Concat`, or why it is refused."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from .affine import AffineMap, identity_map, map_from_transposed
from .forms import (
    CIRCULAR,
    REFLECT,
    REPLICATE,
    ZEROS,
    Form,
    IllegalError,
    conv_axis,
    identity_form,
    shift_axis,
    transposed_axis,
)
from .graph import channels_of, rank_of, sizes
from .lift import Concat, Lifter, Linear, Op, Sum, rule

aten = torch.ops.aten
EXTENSIONS = {"constant": ZEROS, "circular": CIRCULAR, "reflect": REFLECT, "replicate": REPLICATE}
TO_THE_END = 2**31  # torch writes an open slice end as the largest integer


def _per_axis(value: int | Sequence[int], rank: int) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, (list, tuple)) else (value,) * rank
    return values * rank if len(values) == 1 else values  # type: ignore[return-value]


def _static(*values: object) -> bool:
    """No argument depends on a symbolic size."""
    return not any(
        isinstance(v, fx.Node) for value in values for v in (value if isinstance(value, (list, tuple)) else (value,))
    )


# ------------------------------------------------------------------ convolution, linear, pooling


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
    """y = W·x + b on [N, C]; a Linear over a longer shape acts on the last axis and stays."""
    shape = sizes(a["weight"])
    if rank_of(node) != 0 or shape is None or not lifter.is_constant(a["weight"]) or not lifter.is_constant(a["bias"]):
        return None
    form = Form(shape[0], shape[1], 1, (), a["bias"] is not None)
    return _conv(lifter, a["input"], a["weight"], a["bias"], form)


@rule("avg_pool1d", "avg_pool2d", "avg_pool3d")
def lift_average_pool(lifter: Lifter, node: fx.Node, a: Mapping[str, Any]) -> Op | None:
    """Average pooling: a depthwise convolution with equal weights, where every window weighs its taps alike."""
    rank, channels = rank_of(node), channels_of(node)
    if not _static(a["kernel_size"], a["stride"], a["padding"]):
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


# ------------------------------------------------------------------ per-channel scale and shift


def _identity(source: fx.Node) -> Linear:
    channels, rank = channels_of(source), rank_of(source)
    return Linear(source, identity_form(channels, rank), lambda: identity_map(channels, rank))


def _scale_shift(source: fx.Node, scale: Callable[[], Tensor], shift: Callable[[], Tensor] | None) -> Linear:
    channels, rank = channels_of(source), rank_of(source)
    form = replace(identity_form(channels, rank), biased=shift is not None, identity=False)
    zero = torch.zeros(channels, dtype=torch.float64)

    def build() -> AffineMap:
        kernel = (scale() + zero).reshape(channels, 1, *(1,) * rank)
        return AffineMap(form, kernel, shift() + zero if shift else zero)

    return Linear(source, form, build)


def _norm(lifter: Lifter, source: fx.Node, a: Mapping[str, Any]) -> Linear:
    """norm(x) = s·x + (β − μ·s),   s = γ / sqrt(var + eps)."""

    def scale() -> Tensor:
        var, gamma = lifter.constant(a["running_var"]), lifter.constant(a["weight"])
        assert var is not None
        inverse = (var + a["eps"]).rsqrt()
        return torch.as_tensor(inverse if gamma is None else gamma * inverse)

    def shift() -> Tensor:
        mean, beta = lifter.constant(a["running_mean"]), lifter.constant(a["bias"])
        assert mean is not None
        moved = -mean * scale()
        return moved if beta is None else beta + moved

    return _scale_shift(source, scale, shift)


@rule("batch_norm")
def lift_batch_norm(lifter: Lifter, node: fx.Node, a: Mapping[str, Any]) -> Op | None:
    """Batch norm on its running statistics."""
    if a["training"] or a["running_mean"] is None:
        raise IllegalError("BATCH_STATISTICS", "batch norm over the batch's own statistics", "track running statistics")
    if not all(lifter.is_constant(a[k]) for k in ("weight", "bias", "running_mean", "running_var")):
        return None
    return _norm(lifter, a["input"], a)


@rule("instance_norm")
def lift_instance_norm(lifter: Lifter, node: fx.Node, a: Mapping[str, Any]) -> Op | None:
    """Instance norm on running statistics is batch norm."""
    if a["use_input_stats"]:
        return refuse_sample_statistics(lifter, node, a)
    return lift_batch_norm(lifter, node, {**a, "training": False})


@rule("layer_norm", "native_layer_norm", "group_norm", "native_group_norm", "rms_norm")
def refuse_sample_statistics(lifter: Lifter, node: fx.Node, a: Mapping[str, Any]) -> Op | None:
    """A norm over the sample's own statistics is no affine map of it."""
    name = str(node.target).split(".")[1].removeprefix("native_")
    raise IllegalError(
        "SAMPLE_STATISTICS", f"{name} depends on the statistics of its input", "train with batch norm to merge it"
    )


@rule("matmul", "mm", "bmm", "scaled_dot_product_attention", "einsum")
def refuse_product(lifter: Lifter, node: fx.Node, a: Mapping[str, Any]) -> Op | None:
    """A product of two computed values, as in attention."""
    if sum(not lifter.is_constant(value) for value in node.all_input_nodes) > 1:
        raise _product()
    return None


def _product() -> IllegalError:
    return IllegalError(
        "PRODUCT", "a product of two computed values (a gate, attention)", "nothing to do: what feeds it merges"
    )


@rule("dropout", "feature_dropout", "alpha_dropout")
def lift_dropout(lifter: Lifter, node: fx.Node, a: Mapping[str, Any]) -> Op | None:
    """Dropout in eval mode is the identity."""
    return None if a["train"] else _identity(a["input"])


@rule("clone", "alias", "contiguous", "detach", "lift_fresh_copy")
def lift_copy(lifter: Lifter, node: fx.Node, a: Mapping[str, Any]) -> Op | None:
    """A copy is the identity."""
    return _identity(a["self"])


@rule("leaky_relu", "prelu")
def lift_leaky_relu(lifter: Lifter, node: fx.Node, a: Mapping[str, Any]) -> Op | None:
    """LeakyReLU is linear at slope 1 and nowhere else (VanillaNet eq. 1 at the end of deep training)."""
    if "negative_slope" in a:
        linear, slope = a["negative_slope"] == 1, f"{a['negative_slope']:g}"
    else:
        weight = lifter.constant(a["weight"]) if lifter.is_constant(a["weight"]) else None
        linear, slope = weight is not None and bool((weight == 1).all()), "learned"
    if not linear:
        raise IllegalError(
            "SLOPE", f"LeakyReLU with slope {slope}", "a deep-training activation merges only once its slope reached 1"
        )
    return _identity(a["self"])


# ------------------------------------------------------------------ pad, crop, concat


@rule("constant_pad_nd", "pad")
def lift_pad(lifter: Lifter, node: fx.Node, a: Mapping[str, Any]) -> Op | None:
    """Padding (or cropping, where negative) of the spatial axes: a shifted identity on the extended source."""
    rank, pads, mode = rank_of(node), a["pad"], a.get("mode", "constant")
    if not _static(pads) or len(pads) > 2 * rank:
        return None
    if mode not in EXTENSIONS or (mode == "constant" and a["value"] not in (None, 0)):
        raise IllegalError("PAD_VALUE", f"padding by {mode} {a['value']}", "only padding by zeros or by the map merges")
    pads = [*pads, *[0] * (2 * rank - len(pads))]
    ends = [(pads[2 * d], pads[2 * d + 1]) for d in reversed(range(rank))]
    if any(min(pair) < 0 < max(pair) or (mode != "constant" and min(pair) < 0) for pair in ends):
        return None
    return _shifted(a["self"], ends, EXTENSIONS[mode])


@rule("slice")
def lift_slice(lifter: Lifter, node: fx.Node, a: Mapping[str, Any]) -> Op | None:
    """A crop counted from either end; one at a fixed position from the start would fix the input size."""
    source, dim, start, end = a["self"], a["dim"], a["start"] or 0, a["end"]
    rank = rank_of(node)
    dim = dim % (rank + 2)
    if a["step"] != 1 or not _static(start, end) or dim < 2 or start < 0:
        return None
    if end is None or end >= TO_THE_END:
        end = 0
    elif end >= 0:
        return None
    crops = [(0, 0)] * rank
    crops[dim - 2] = (-start, end)
    return _shifted(source, crops)


def _shifted(source: fx.Node, pads: Sequence[tuple[int, int]], extension: str = ZEROS) -> Linear:
    """The identity on a domain that grows by (begin, end) per axis."""
    channels, rank = channels_of(source), rank_of(source)
    axes = tuple(shift_axis(begin, end, extension) for begin, end in pads)
    form = replace(identity_form(channels, rank), axes=axes, identity=not any(p for pad in pads for p in pad))
    return Linear(source, form, lambda: replace(identity_map(channels, rank), form=form))


@rule("cat", "concat")
def lift_concat(lifter: Lifter, node: fx.Node, a: Mapping[str, Any]) -> Op | None:
    """Concatenation along the channels."""
    on_channels = a["dim"] % (rank_of(node) + 2) == 1
    if not on_channels or any(lifter.is_constant(part) or sizes(part) is None for part in a["tensors"]):
        return None
    return Concat(tuple(a["tensors"]))


# ------------------------------------------------------------------ arithmetic


@rule("add", "sub")
def lift_add(lifter: Lifter, node: fx.Node, a: Mapping[str, Any]) -> Op | None:
    """x ± y, and x ± a constant per channel."""
    left, right = a["self"], a["other"]
    sign = -1.0 if node.target.overloadpacket is aten.sub else 1.0  # type: ignore[union-attr]
    weight = sign * a["alpha"]
    constant_left, constant_right = lifter.is_constant(left), lifter.is_constant(right)
    if not (constant_left or constant_right):
        return Sum(((left, 1.0), (right, weight))) if sizes(left) == sizes(right) == sizes(node) else None
    constant, value = (left, right) if constant_left else (right, left)
    shift = _per_channel(lifter, constant, value, node)
    if shift is None:
        return None
    scale = weight if constant_left else 1.0
    return _scale_shift(value, lambda: scale * _one(), shift if constant_left else _scaled(shift, weight))


def _scaled(vector: Callable[[], Tensor], weight: float) -> Callable[[], Tensor]:
    return lambda: weight * vector()


@rule("mul", "div")
def lift_scale(lifter: Lifter, node: fx.Node, a: Mapping[str, Any]) -> Op | None:
    """x · c and x / c for a constant per channel."""
    left, right = a["self"], a["other"]
    divides = node.target.overloadpacket is aten.div  # type: ignore[union-attr]
    if lifter.is_constant(right) and not a.get("rounding_mode"):
        scale = _per_channel(lifter, right, left, node)
        return scale and _scale_shift(left, _inverse(scale) if divides else scale, None)
    if lifter.is_constant(left) and not divides:
        scale = _per_channel(lifter, left, right, node)
        return scale and _scale_shift(right, scale, None)
    if not (lifter.is_constant(left) or lifter.is_constant(right)):
        raise _product()
    return None


@rule("addcmul")
def lift_addcmul(lifter: Lifter, node: fx.Node, a: Mapping[str, Any]) -> Op | None:
    """c + v·s·x for constants s and c per channel."""
    one, two = a["tensor1"], a["tensor2"]
    x, scale_of = (two, one) if lifter.is_constant(one) else (one, two)
    if lifter.is_constant(x) or not lifter.is_constant(scale_of) or not lifter.is_constant(a["self"]):
        return None
    scale, shift = _per_channel(lifter, scale_of, x, node), _per_channel(lifter, a["self"], x, node)
    return scale and shift and _scale_shift(x, _scaled(scale, a["value"]), shift)


@rule("rsub")
def lift_reversed_subtraction(lifter: Lifter, node: fx.Node, a: Mapping[str, Any]) -> Op | None:
    """c − v·x for a constant per channel."""
    shift = _per_channel(lifter, a["other"], a["self"], node) if lifter.is_constant(a["other"]) else None
    return shift and _scale_shift(a["self"], lambda: -a["alpha"] * _one(), shift)


@rule("neg")
def lift_negation(lifter: Lifter, node: fx.Node, a: Mapping[str, Any]) -> Op | None:
    """−x."""
    return _scale_shift(a["self"], lambda: -_one(), None)


def _inverse(vector: Callable[[], Tensor]) -> Callable[[], Tensor]:
    return lambda: 1.0 / vector()


def _one() -> Tensor:
    return torch.ones((), dtype=torch.float64)


def _per_channel(lifter: Lifter, constant: object, value: fx.Node, node: fx.Node) -> Callable[[], Tensor] | None:
    """A constant that broadcasts along the channels alone, as a vector; None where it varies over positions."""
    shape = sizes(value)
    if shape is None or shape != sizes(node):
        return None
    if isinstance(constant, fx.Node):
        own = sizes(constant)
        if own is None or len(own) > len(shape):
            return None
        aligned = (1,) * (len(shape) - len(own)) + own
        if any(size != 1 for axis, size in enumerate(aligned) if axis != 1):
            return None

    def vector() -> Tensor:
        c = lifter.constant(constant)
        assert c is not None
        return c.double().reshape(-1) if c.numel() > 1 else c.double().reshape(())

    return vector
