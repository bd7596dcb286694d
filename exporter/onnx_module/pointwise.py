"""Ops that compute each element by itself, and casts."""

from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor
from torch.nn import functional as F

from .base import OPS, Op, Step, op

UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "Abs": torch.abs, "Acos": torch.acos, "Acosh": torch.acosh, "Asin": torch.asin, "Asinh": torch.asinh,
    "Atan": torch.atan, "Atanh": torch.atanh, "Ceil": torch.ceil, "Cos": torch.cos, "Cosh": torch.cosh,
    "Erf": torch.erf, "Exp": torch.exp, "Floor": torch.floor, "HardSwish": F.hardswish, "Identity": lambda x: x,
    "IsNaN": torch.isnan, "Log": torch.log, "Mish": F.mish, "Neg": torch.neg, "Not": torch.logical_not,
    "Reciprocal": torch.reciprocal, "Relu": F.relu, "Round": torch.round, "Sigmoid": torch.sigmoid,
    "Sign": torch.sign, "Sin": torch.sin, "Sinh": torch.sinh, "Softplus": lambda x: F.softplus(x, threshold=100.0),
    "Softsign": F.softsign, "Sqrt": torch.sqrt, "Tan": torch.tan, "Tanh": torch.tanh,
}  # fmt: skip
BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": torch.add, "Sub": torch.sub, "Mul": torch.mul, "And": torch.logical_and, "Or": torch.logical_or,
    "Xor": torch.logical_xor, "Equal": torch.eq, "Greater": torch.gt, "GreaterOrEqual": torch.ge, "Less": torch.lt,
    "LessOrEqual": torch.le,
}  # fmt: skip
MANY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"Max": torch.maximum, "Min": torch.minimum, "Sum": torch.add}

OPS.update({name: Op(lambda step, x, f=f: f(x)) for name, f in UNARY.items()})
OPS.update({name: Op(lambda step, a, b, f=f: f(a, b)) for name, f in BINARY.items()})
OPS.update({name: Op(lambda step, *xs, f=f: reduce(f, xs)) for name, f in MANY.items()})


@op("Mean")
def _mean(step: Step, *xs: Tensor) -> Tensor:
    return reduce(torch.add, xs) / len(xs)


@op("Div")
def _div(step: Step, a: Tensor, b: Tensor) -> Tensor:
    return torch.div(a, b, rounding_mode=None if a.is_floating_point() else "trunc")


@op("Pow")
def _pow(step: Step, x: Tensor, exponent: Tensor) -> Tensor:
    return torch.pow(x, exponent).to(x.dtype)


@op("Mod")
def _mod(step: Step, a: Tensor, b: Tensor) -> Tensor:
    return torch.fmod(a, b) if step.get("fmod", 0) else torch.remainder(a, b)


@op("IsInf")
def _is_inf(step: Step, x: Tensor) -> Tensor:
    either = [torch.isposinf(x)] * step.get("detect_positive", 1) + [torch.isneginf(x)] * step.get("detect_negative", 1)
    return reduce(torch.logical_or, either) if either else torch.zeros_like(x, dtype=torch.bool)


@op("Where")
def _where(step: Step, condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(condition, a, b)


@op("Clip")
def _clip(step: Step, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    """min(max(x, low), high); attributes before opset 11."""
    bounds = [step.get("min"), step.get("max")] if step.opset < 11 else [low, high]
    for bound, keep in zip(bounds, (torch.maximum, torch.minimum), strict=True):
        if bound is not None:
            x = keep(x, bound if isinstance(bound, Tensor) else torch.tensor(bound, dtype=x.dtype))
    return x


@op("Dropout")
def _dropout(step: Step, x: Tensor, ratio: Tensor | None = None, training: Tensor | None = None) -> Any:
    if training is not None and bool(training):
        step.refuse("training mode")
    return x, torch.ones_like(x, dtype=torch.bool)


# ------------------------------------------------------------------ activations


@op("LeakyRelu")
def _leaky_relu(step: Step, x: Tensor) -> Tensor:
    return F.leaky_relu(x, step.get("alpha", 0.01))


@op("PRelu")
def _prelu(step: Step, x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x < 0, x * slope, x)


@op("Elu")
def _elu(step: Step, x: Tensor) -> Tensor:
    return F.elu(x, step.get("alpha", 1.0))


@op("Celu")
def _celu(step: Step, x: Tensor) -> Tensor:
    return F.celu(x, step.get("alpha", 1.0))


@op("Selu")
def _selu(step: Step, x: Tensor) -> Tensor:
    alpha, gamma = step.get("alpha", 1.6732631921768188), step.get("gamma", 1.0507010221481323)
    return torch.mul(torch.where(x > 0, x, alpha * torch.expm1(x)), gamma)


@op("Gelu")
def _gelu(step: Step, x: Tensor) -> Tensor:
    return F.gelu(x, approximate=step.text("approximate", "none"))


@op("HardSigmoid")
def _hard_sigmoid(step: Step, x: Tensor) -> Tensor:
    return torch.clamp(step.get("alpha", 0.2) * x + step.get("beta", 0.5), 0, 1)


@op("ThresholdedRelu")
def _thresholded_relu(step: Step, x: Tensor) -> Tensor:
    return torch.where(x > step.get("alpha", 1.0), x, torch.zeros_like(x))


@op("Swish")
def _swish(step: Step, x: Tensor) -> Tensor:
    return x * torch.sigmoid(step.get("alpha", 1.0) * x)


# ------------------------------------------------------------------ casts


def torch_dtype(step: Step, onnx_type: int) -> torch.dtype:
    """PyTorch's name of an ONNX type. Raises SourceError for one that it has none for."""
    name = "bfloat16" if onnx_type == onnx.TensorProto.BFLOAT16 else ""
    if not name and onnx_type != onnx.TensorProto.STRING:
        name = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(onnx_type)).name
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        step.refuse(f"the type {onnx.TensorProto.DataType.Name(onnx_type)}")
    return found


@op("Cast")
def _cast(step: Step, x: Tensor) -> Tensor:
    return x.to(torch_dtype(step, step.get("to")))


@op("CastLike")
def _cast_like(step: Step, x: Tensor, like: Tensor) -> Tensor:
    return x.to(like.dtype)
