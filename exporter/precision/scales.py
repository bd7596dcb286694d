"""The scales of a quantized graph beside those that calibration gives again."""

from collections.abc import Mapping, Set

import numpy as np
import onnx_ir as ir

from .calibrate import ranges_of
from .formats import QUANTIZED

OTHER = 1.6
"""How many times a scale may be another: it was found on more images, and rounded up to the type around it."""


def scales_off(
    model: ir.Model,
    typed: ir.Model,
    images: Mapping[str, np.ndarray],
    method: str,
    batch: int,
    whole: Set[str] = frozenset(),
) -> dict[str, str]:
    """For each QuantizeLinear of `typed`, by its name, whose scale is another than it ought to be: what it is.

    Args:
        model: the float32 graph that `typed` was made of.
        typed: it in int8 or fp8.
        images: [n, …] by the inputs of `model`, what it was calibrated on.
        method: how, of `METHODS` but "auto".
        batch: how many images a run takes.
        whole: the inputs that have no batch axis.

    """
    ranges = ranges_of(model, images, method, batch, whole)
    largest = {kind.dtype: float(kind.largest) for kind in QUANTIZED.values()}
    found = {}
    for node in typed.graph:
        x, scale, zero = (*node.inputs, None, None, None)[:3]
        if node.op_type != "QuantizeLinear" or x is None or scale is None or scale.const_value is None:
            continue
        dtype = zero.dtype if zero is not None else None
        wanted = ranges.get(str(x.name))
        if not wanted or dtype not in largest or scale.const_value.size != 1:
            continue
        given = float(scale.const_value.numpy().astype(np.float32).item()) * largest[dtype]
        if not wanted / OTHER <= given <= wanted * OTHER:
            times = f"{given / wanted:.2g} times what calibration by {method} gives"
            found[str(node.name)] = f"{x.name} is quantized up to {given:.4g}, {times}"
    return found
