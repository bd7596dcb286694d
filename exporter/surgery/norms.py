"""An inference-time BatchNormalization as the affine map that it is."""

from typing import Any, NamedTuple

import numpy as np
import onnx_graphsurgeon as gs

from .edit import is_weight, producer, values64


class Affine(NamedTuple):
    """y[c] = scale[c]·x[c] + shift[c], in float64."""

    scale: np.ndarray
    shift: np.ndarray


def affine_from_norm(norm: Any) -> Affine:
    """BN(x) = γ·(x − μ)/sqrt(var + eps) + β = s·x + t,  s = γ/sqrt(var + eps),  t = β − μ·s."""
    gamma, beta, mean, var = (values64(t) for t in norm.inputs[1:5])
    scale_C = gamma / np.sqrt(var + norm.attrs.get("epsilon", 1e-5))
    return Affine(scale_C, beta - mean * scale_C)


def norm_of(tensor: Any) -> Any:
    """The BatchNormalization in inference mode, its parameters known, that makes `tensor`; else None."""
    norm = producer(tensor, "BatchNormalization")
    if norm is None or norm.attrs.get("training_mode", 0) or len(norm.outputs) != 1:
        return None
    if any(len(t.shape or ()) != 1 for t in norm.inputs[1:5]):
        return None  # before opset 9, spatial=0 normalizes each position by itself
    return norm if all(is_weight(t) for t in norm.inputs[1:5]) else None


def parameters(norm: Any) -> list[gs.Constant]:
    """Its four parameters."""
    return list(norm.inputs[1:5])


MAX_RATIO = 1e4
"""The largest t/s that a rewrite makes of s·x + t = s·(x + t/s): half precision still holds it."""


def finite_ratio(shift_C: np.ndarray, scale_C: np.ndarray, dtype: Any) -> np.ndarray | None:
    """t/s in float64; None where a scale is 0, or so small beside its shift that the ratio leaves half precision.

    x + t/s is rounded to t/s·ε and the product to t·ε, as s·x + t is: nothing is lost.
    """
    if np.dtype(dtype).kind != "f" or not np.all(scale_C):
        return None
    ratio_C: np.ndarray = shift_C / scale_C
    return ratio_C if np.all(np.abs(ratio_C) <= MAX_RATIO) else None
