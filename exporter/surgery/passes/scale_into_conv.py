from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from ..base import Pass
from ..convs import channels_read, conv_of, conv_readers
from ..edit import (
    bypass,
    constant,
    detach,
    fresh,
    is_constant,
    is_weight,
    producer,
    redirect,
    sole_user,
    values64,
)
from .pool_first import gate_of


class ScaleIntoConv(Pass):
    """k·(w*x + b) = (k·w)*x + k·b, and w*(k·x) = (w·k)*x, for a constant k, one for all channels or one a channel.

    k passes sums, (a + b)·k = a·k + b·k, and a relu where it is not negative, and moves between the factors of a
    product: z·(g·k) = (z·k)·g.

    Given  Mul of a constant and z, or of a gate times a constant and z; z a Conv, or sums and relus of Convs, that
           nothing else reads; or Mul of a constant → Convs and nothing else
    Result the constant inside the weights of each Conv
    """

    name = "scale-into-conv"

    def rewrite(self, graph: gs.Graph, node: Any) -> bool:  # noqa: D102
        if node.op != "Mul":
            return False
        for z, factor in ((node.inputs[0], node.inputs[1]), (node.inputs[1], node.inputs[0])):
            k_C = per_channel(factor, z)
            if k_C is not None:
                convs = _scalable(graph, z, node, k_C)
                if convs and bypass(graph, node, z):
                    return _scale(graph, convs, k_C)
                if not is_constant(z) and _scale_readers(graph, node, z, k_C):
                    return True
            elif factor is gate_of(node) and (inner := producer(factor, "Mul")) and sole_user(graph, factor) is node:
                for gate, constant in ((inner.inputs[0], inner.inputs[1]), (inner.inputs[1], inner.inputs[0])):
                    k_C = per_channel(constant, z)
                    convs = None if k_C is None else _scalable(graph, z, node, k_C)
                    if convs and k_C is not None and bypass(graph, inner, gate):
                        return _scale(graph, convs, k_C)
        return False


def per_channel(factor: Any, z: Any) -> np.ndarray | None:
    """k[c], or k[0] for all, if `factor` is a constant that broadcasts over all but the channels of z; else None."""
    if not is_weight(factor) or z.shape is None or len(z.shape) < 3:
        return None
    shape = [1] * (len(z.shape) - len(factor.shape)) + list(factor.shape)
    if len(shape) != len(z.shape) or any(size != 1 for axis, size in enumerate(shape) if axis != 1):
        return None
    return values64(factor).reshape(-1)


def _scalable(graph: gs.Graph, z: Any, user: Any, k_C: np.ndarray) -> list[Any] | None:
    """The Convs whose scaling scales z, which `user` alone reads; None where something else makes a part of z."""
    if sole_user(graph, z) is not user:
        return None
    if (conv := conv_of(z)) is not None:
        return [conv]
    if (relu := producer(z, "Relu")) is not None and (k_C >= 0).all():
        return _scalable(graph, relu.inputs[0], relu, k_C)
    if (add := producer(z, "Add")) is not None and add.inputs[0] is not add.inputs[1]:
        parts = [_scalable(graph, t, add, k_C) for t in add.inputs]
        same = all(t.shape is not None and list(t.shape) == list(z.shape) for t in add.inputs)
        return [c for part in parts for c in part or []] if same and None not in parts else None
    return None


def _scale_readers(graph: gs.Graph, mul: Any, x: Any, k_C: np.ndarray) -> bool:
    """Scale what the Convs that read x·k read of each channel, if nothing else reads it."""
    y = mul.outputs[0]
    convs = conv_readers(graph, y)
    if not convs or list(y.shape or []) != list(x.shape):
        return False
    for conv in convs:
        k_OI = k_C[channels_read(conv)] if k_C.size > 1 else k_C.reshape(1, 1)
        _scale_input(graph, conv, 1, np.expand_dims(k_OI, tuple(range(2, len(conv.inputs[1].shape)))))
    detach(graph, mul)
    redirect(y, x)
    return True


def _scale(graph: gs.Graph, convs: list[Any], k_C: np.ndarray) -> bool:
    for conv in convs:
        for slot, rank in ((1, len(conv.inputs[1].shape)), (2, 1)):
            if slot < len(conv.inputs):
                _scale_input(graph, conv, slot, k_C.reshape(-1, *[1] * (rank - 1)))
    return True


def _scale_input(graph: gs.Graph, conv: Any, slot: int, k: np.ndarray) -> None:
    """Scale weights or bias: in their own type where that is exact, by powers of two (2σ), else in float64."""
    old, inputs = conv.inputs[slot], list(conv.inputs)
    conv.inputs = inputs[:slot]
    if np.all(np.frexp(np.abs(k))[0] == 0.5) and not hasattr(old, "exact"):
        scaled = gs.Constant(fresh(graph, old.name), old.values * k.astype(old.dtype))
    else:
        scaled = constant(graph, old.name, values64(old) * k, old.dtype)
    conv.inputs = [*inputs[:slot], scaled, *inputs[slot + 1 :]]
