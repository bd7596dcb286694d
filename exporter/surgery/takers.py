"""What can take a factor or a summand up on its way to the convolutions that make a value.

k·f(u) = f(k·u) and f(u) + c = f(u + c) for whatever moves or averages whole channels: concats and shuffles of channels,
pools, resizes. An activation that is a comparison goes along: k·max(u, a) = max(k·u, k·a), or min(k·u, k·a) where k is
negative; relu is max(u, 0). Sums take a factor in both terms and a summand in one. Border and stride never matter: what
is scaled is what a convolution gives, w' = k·w and b' = k·b + c, however it pads.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from .channels import inverse, shuffle_of
from .convs import groups_of, set_bias
from .edit import add_node, constant, fresh, is_weight, producer, sole_user, values64

BROADCASTS = 8
"""The opset from which Max and Min broadcast their inputs."""
Edits = list[Callable[[], None]]
RESIZES = ("Resize", "Upsample")
AVERAGES = ("AveragePool", "GlobalAveragePool")


def per_channel(factor: Any, z: Any) -> np.ndarray | None:
    """k[c], or k[0] for all, if `factor` is a constant that broadcasts over all but the channels of z; else None."""
    if not is_weight(factor) or z.shape is None or len(z.shape) < 3:
        return None
    shape = [1] * (len(z.shape) - len(factor.shape)) + list(factor.shape)
    if len(shape) != len(z.shape) or any(size != 1 for axis, size in enumerate(shape) if axis != 1):
        return None
    return values64(factor).reshape(-1)


def take_scale(graph: gs.Graph, z: Any, user: Any, k_C: np.ndarray) -> Edits | None:
    """What makes z, which `user` alone reads, give k·z; None where something in it cannot."""
    if sole_user(graph, z) is not user:
        return None
    if (conv := made_by(z)) is not None:
        return [lambda: _scale_outputs(graph, conv, k_C)]
    if (found := _comparison(graph, z)) is not None:
        node, u, limit = found
        if not ((k_C >= 0).all() or (k_C <= 0).all()):
            return None
        inner = take_scale(graph, u, node, k_C)
        if inner is None or (limit is None and (k_C >= 0).all()):
            return inner  # a Relu stays one
        return None if graph.opset < BROADCASTS else [*inner, lambda: _compare(graph, node, u, limit, k_C, None)]
    if (add := producer(z, "Add")) is not None and add.inputs[0] is not add.inputs[1]:
        same = all(t.shape is not None and list(t.shape) == list(z.shape or []) for t in add.inputs)
        return _all([take_scale(graph, t, add, k_C) for t in add.inputs]) if same else None
    maximum = producer(z, "MaxPool") is not None
    return _through(graph, z, k_C, take_scale) if not maximum or (k_C > 0).all() else None


def take_shift(graph: gs.Graph, z: Any, user: Any, c_C: np.ndarray) -> Edits | None:
    """What makes z, which `user` alone reads, give z + c; None where something in it cannot."""
    if sole_user(graph, z) is not user:
        return None
    if (conv := made_by(z)) is not None:
        return [lambda: _shift_outputs(graph, conv, c_C)]
    if (found := _comparison(graph, z)) is not None:
        node, u, limit = found
        inner = take_shift(graph, u, node, c_C) if graph.opset >= BROADCASTS else None
        return inner and [*inner, lambda: _compare(graph, node, u, limit, None, c_C)]
    if (add := producer(z, "Add")) is not None and add.inputs[0] is not add.inputs[1]:
        same = [t for t in add.inputs if t.shape is not None and list(t.shape) == list(z.shape or [])]
        return next((edits for t in same if (edits := take_shift(graph, t, add, c_C)) is not None), None)
    averaged = producer(z, "AveragePool")
    counted = averaged is not None and averaged.attrs.get("count_include_pad", 0)
    return _through(graph, z, c_C, take_shift) if not counted else None


def made_by(z: Any) -> Any:
    """The Conv or ConvTranspose with known weights that makes z; or None."""
    conv = producer(z, "Conv", "ConvTranspose")
    return conv if conv is not None and all(is_weight(t) for t in conv.inputs[1:]) else None


def _comparison(graph: gs.Graph, z: Any) -> tuple[Any, Any, Any] | None:
    """(node, u, limit) where z is max(u, limit) or min(u, limit) with a constant limit; None for that of a Relu."""
    node = producer(z, "Relu", "Max", "Min")
    if node is None or node.op == "Relu":
        return None if node is None else (node, node.inputs[0], None)
    if len(node.inputs) != 2:
        return None
    for u, limit in (node.inputs, node.inputs[::-1]):
        if per_channel(limit, z) is not None and u.shape is not None and list(u.shape) == list(z.shape or []):
            return node, u, limit
    return None


def _compare(graph: gs.Graph, node: Any, u: Any, limit: Any, k_C: np.ndarray | None, c_C: np.ndarray | None) -> None:
    """Let `node` compare with k·limit + c, the other way round where k is negative."""
    y, name = node.outputs[0], node.name
    op = "Max" if node.op == "Relu" else node.op
    value_C = np.zeros(1) if limit is None else values64(limit).reshape(-1)
    if k_C is not None:
        value_C = value_C * k_C
        op = {"Max": "Min", "Min": "Max"}[op] if (k_C < 0).any() else op
    value_C = value_C if c_C is None else value_C + c_C
    if np.all(value_C == value_C[0]):
        value_C = value_C[:1]
    tail = [1] * (len(y.shape) - 2)
    stem = limit.name if limit is not None else f"{name}.limit"
    values = value_C.reshape(-1, *tail) + 0.0  # no negative zero
    add_node(graph, op, [u, constant(graph, stem, values, y.dtype)], y, name=name)


def _through(graph: gs.Graph, z: Any, v_C: np.ndarray, take: Callable[..., Edits | None]) -> Edits | None:
    """`take` of what z is made of by an op that treats all channels alike, or moves them."""
    node = producer(z, "Concat", "Gather", "MaxPool", *AVERAGES, *RESIZES)
    if node is None or len(node.outputs) != 1:
        return None
    x = node.inputs[0]
    if node.op == "Concat":
        widths = [t.shape[1] if t.shape is not None and len(t.shape) > 2 else None for t in node.inputs]
        if node.attrs.get("axis") != 1 or not all(isinstance(width, int) for width in widths):
            return None
        ends = np.cumsum([width or 0 for width in widths])[:-1]
        parts = np.split(v_C, ends) if v_C.size > 1 else [v_C] * len(widths)
        return _all([take(graph, t, node, part) for t, part in zip(node.inputs, parts, strict=True)])
    if node.op == "Gather":
        index_C = shuffle_of(node)
        return None if index_C is None else take(graph, x, node, v_C[inverse(index_C)] if v_C.size > 1 else v_C)
    alike = x.shape is not None and z.shape is not None and len(x.shape) == len(z.shape) and x.shape[1] == z.shape[1]
    if not alike or not isinstance(x.shape[1], int):
        return None
    if node.attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        return None  # it fills in a value of its own
    return take(graph, x, node, v_C)


def _all(parts: list[Edits | None]) -> Edits | None:
    found = [part for part in parts if part is not None]
    return [edit for part in found for edit in part] if len(found) == len(parts) else None


def _scale_outputs(graph: gs.Graph, conv: Any, k_C: np.ndarray) -> None:
    weight = conv.inputs[1]
    if conv.op == "Conv":
        scale_input(graph, conv, 1, k_C.reshape(-1, *[1] * (len(weight.shape) - 1)))
    else:
        scale_input(graph, conv, 1, _of_rows(conv, k_C))
    if len(conv.inputs) > 2:
        scale_input(graph, conv, 2, k_C)


def _of_rows(conv: Any, k_C: np.ndarray) -> np.ndarray:
    """k of each weight of a ConvTranspose, w[i, o]: i of group g makes the outputs g·O + o."""
    inputs, width, *taps = conv.inputs[1].shape
    groups = groups_of(conv)
    k_GO = np.broadcast_to(k_C, groups * width).reshape(groups, width)
    return np.repeat(k_GO, inputs // groups, axis=0).reshape(inputs, width, *[1] * len(taps))


def _shift_outputs(graph: gs.Graph, conv: Any, c_C: np.ndarray) -> None:
    weight = conv.inputs[1]
    outputs = weight.shape[0] if conv.op == "Conv" else weight.shape[1] * groups_of(conv)
    bias = values64(conv.inputs[2]) if len(conv.inputs) > 2 else np.zeros(outputs)
    set_bias(graph, conv, bias + c_C)


def scale_input(graph: gs.Graph, conv: Any, slot: int, k: np.ndarray) -> None:
    """Scale weights or bias: in their own type where that is exact, by powers of two (2σ), else in float64."""
    old, inputs = conv.inputs[slot], list(conv.inputs)
    conv.inputs = inputs[:slot]
    if np.all(np.frexp(np.abs(k))[0] == 0.5) and not hasattr(old, "exact"):
        scaled = gs.Constant(fresh(graph, old.name), old.values * k.astype(old.dtype))
    else:
        scaled = constant(graph, old.name, values64(old) * k, old.dtype)
    conv.inputs = [*inputs[:slot], scaled, *inputs[slot + 1 :]]
