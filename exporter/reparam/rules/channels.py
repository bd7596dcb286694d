"""Ops that keep positions apart: norms, scales, shifts, sums, and what is the identity."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from ..affine import AffineMap, identity_map
from ..forms import IllegalError, identity_form
from ..graph import channel_axis, channels_of, rank_of, sizes
from ..lift import Lifter, Linear, Op, Sum, rule

aten = torch.ops.aten


@dataclass(frozen=True)
class _Vector:
    """A constant that varies along the channels alone, [C] or []; `last` says that these are the last axis."""

    make: Callable[[], Tensor]
    last: bool


def _identity(lifter: Lifter, source: fx.Node) -> Linear:
    channels, rank = _channels_and_rank(source, source in lifter.last)
    return Linear(source, identity_form(channels, rank), lambda: identity_map(channels, rank))


def _channels_and_rank(source: fx.Node, last: bool) -> tuple[int, int]:
    shape = sizes(source)
    assert shape is not None
    return (shape[-1], 0) if last else (channels_of(source), rank_of(source))


def _scale_shift(
    source: fx.Node, scale: Callable[[], Tensor], shift: Callable[[], Tensor] | None, last: bool = False
) -> Linear:
    channels, rank = _channels_and_rank(source, last)
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


@rule("bmm", "scaled_dot_product_attention", "einsum")
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
    return None if a["train"] and a["p"] != 0 else _identity(lifter, a["input"])


@rule("clone", "alias", "contiguous", "detach", "lift_fresh_copy")
def lift_copy(lifter: Lifter, node: fx.Node, a: Mapping[str, Any]) -> Op | None:
    """A copy is the identity."""
    return _identity(lifter, a["self"])


@rule("leaky_relu", "prelu", "rrelu")
def lift_leaky_relu(lifter: Lifter, node: fx.Node, a: Mapping[str, Any]) -> Op | None:
    """LeakyReLU is linear at slope 1 and nowhere else (VanillaNet eq. 1 at the end of deep training).

    Randomized, it has the mean of its slopes in eval mode.
    """
    if "upper" in a:
        mean = (a["lower"] + a["upper"]) / 2
        linear, slope = mean == 1, f"{mean:g}"
    elif "negative_slope" in a:
        linear, slope = a["negative_slope"] == 1, f"{a['negative_slope']:g}"
    else:
        weight = lifter.constant(a["weight"]) if lifter.is_constant(a["weight"]) else None
        linear, slope = weight is not None and bool((weight == 1).all()), "learned"
    if not linear:
        raise IllegalError(
            "SLOPE",
            f"LeakyReLU with slope {slope}",
            "nothing to do, unless training was to bring the slope to 1: at 1 it merges",
        )
    return _identity(lifter, a["self"])


@rule("add", "sub")
def lift_add(lifter: Lifter, node: fx.Node, a: Mapping[str, Any]) -> Op | None:
    """x ± y, and x ± a constant per channel."""
    left, right = a["self"], a["other"]
    sign = -1.0 if node.target.overloadpacket is aten.sub else 1.0  # type: ignore[union-attr]
    weight = sign * a["alpha"]
    constant_left, constant_right = lifter.is_constant(left), lifter.is_constant(right)
    if not (constant_left or constant_right):
        same = sizes(left) == sizes(right) == sizes(node)
        return Sum(((left, 1.0), (right, weight)), node in lifter.last) if same else None
    constant, value = (left, right) if constant_left else (right, left)
    shift = _per_channel(lifter, constant, value, node)
    if shift is None:
        return None
    scale = weight if constant_left else 1.0
    made = shift.make if constant_left else _scaled(shift, weight)
    return _scale_shift(value, lambda: scale * _one(), made, shift.last)


def _scaled(vector: _Vector, weight: float) -> Callable[[], Tensor]:
    return lambda: weight * vector.make()


@rule("mul", "div")
def lift_scale(lifter: Lifter, node: fx.Node, a: Mapping[str, Any]) -> Op | None:
    """x · c and x / c for a constant per channel."""
    left, right = a["self"], a["other"]
    divides = node.target.overloadpacket is aten.div  # type: ignore[union-attr]
    if lifter.is_constant(right) and not a.get("rounding_mode"):
        scale = _per_channel(lifter, right, left, node)
        if scale is None:
            return None
        return _scale_shift(left, _inverse(scale) if divides else scale.make, None, scale.last)
    if lifter.is_constant(left) and not divides:
        scale = _per_channel(lifter, left, right, node)
        return None if scale is None else _scale_shift(right, scale.make, None, scale.last)
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
    if scale is None or shift is None or scale.last != shift.last:
        return None
    return _scale_shift(x, _scaled(scale, a["value"]), shift.make, scale.last)


@rule("rsub")
def lift_reversed_subtraction(lifter: Lifter, node: fx.Node, a: Mapping[str, Any]) -> Op | None:
    """c − v·x for a constant per channel."""
    shift = _per_channel(lifter, a["other"], a["self"], node) if lifter.is_constant(a["other"]) else None
    if shift is None:
        return None
    return _scale_shift(a["self"], lambda: -a["alpha"] * _one(), shift.make, shift.last)


@rule("neg")
def lift_negation(lifter: Lifter, node: fx.Node, a: Mapping[str, Any]) -> Op | None:
    """−x."""
    return _scale_shift(a["self"], lambda: -_one(), None, node in lifter.last)


def _inverse(vector: _Vector) -> Callable[[], Tensor]:
    return lambda: 1.0 / vector.make()


def _one() -> Tensor:
    return torch.ones((), dtype=torch.float64)


def _per_channel(lifter: Lifter, constant: object, value: fx.Node, node: fx.Node) -> _Vector | None:
    """A constant that broadcasts along the channels alone; None where it varies over positions."""
    shape = sizes(value)
    if shape is None or shape != sizes(node):
        return None
    last = node in lifter.last
    if isinstance(constant, fx.Node) and any(size != 1 for size in sizes(constant) or (0,)):
        axis = channel_axis(constant, len(shape))
        if axis is None:
            return None
        last = axis != 1

    def vector() -> Tensor:
        c = lifter.constant(constant)
        assert c is not None
        return c.double().reshape(-1) if c.numel() > 1 else c.double().reshape(())

    return _Vector(vector, last)
