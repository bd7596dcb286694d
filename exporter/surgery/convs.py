"""What several passes ask of a Conv."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from .edit import constant, is_output, is_weight, producer, rearranged, values64


def conv_of(tensor: Any) -> Any:
    """The Conv with known weights that makes `tensor`, or None."""
    conv = producer(tensor, "Conv")
    return conv if conv is not None and all(is_weight(t) for t in conv.inputs[1:]) else None


def conv_readers(graph: gs.Graph, tensor: Any) -> list[Any]:
    """The Convs with known weights that read `tensor` as their map, if nothing else does; else none."""
    if is_output(graph, tensor):
        return []
    convs = list(tensor.outputs)
    fit = all(c.op == "Conv" and c.inputs[0] is tensor and all(map(is_weight, c.inputs[1:])) for c in convs)
    return convs if fit else []


def is_unpadded(conv: Any) -> bool:
    """Whether no window of `conv` reaches past the border."""
    return not any(conv.attrs.get("pads", [])) and conv.attrs.get("auto_pad", "NOTSET") in ("NOTSET", "VALID")


def groups_of(conv: Any) -> int:
    """Its groups."""
    return int(conv.attrs.get("group", 1))


def bias64(conv: Any) -> np.ndarray:
    """b[o] in float64; zeros where the conv has none."""
    return values64(conv.inputs[2]) if len(conv.inputs) > 2 else np.zeros(conv.inputs[1].shape[0])


def set_weights(graph: gs.Graph, conv: Any, w_OIK: np.ndarray, b_O: np.ndarray | None) -> None:
    """Give `conv` new weights, and a bias unless `b_O` is None; whoever shared the old ones keeps them."""
    x, old = conv.inputs[0], conv.inputs[1]
    bias_name = conv.inputs[2].name if len(conv.inputs) > 2 else f"{old.name.removesuffix('.weight')}.bias"
    conv.inputs = [x]
    conv.inputs.append(constant(graph, old.name, w_OIK, old.dtype))
    if b_O is not None:
        conv.inputs.append(constant(graph, bias_name, b_O, old.dtype))


def set_bias(graph: gs.Graph, conv: Any, b_O: np.ndarray) -> None:
    """Give `conv` a new bias; its weights stay the array they are."""
    w, old = conv.inputs[1], list(conv.inputs[2:])
    name = old[0].name if old and not old[0].is_empty() else f"{w.name.removesuffix('.weight')}.bias"
    conv.inputs = [*conv.inputs[:2], constant(graph, name, b_O, w.dtype)]


def move_weights(graph: gs.Graph, conv: Any, move: Callable[[np.ndarray], np.ndarray]) -> None:
    """Lay the weights of `conv` out as `move` does; its bias stays as it is."""
    old, bias = conv.inputs[1], list(conv.inputs[2:])
    conv.inputs = [conv.inputs[0]]
    conv.inputs = [conv.inputs[0], rearranged(graph, old.name, old, move), *bias]


def take_inputs(w_OIK: np.ndarray, place_GI: np.ndarray) -> np.ndarray:
    """w'[o, i] = w[o, place[g, i]] for o in group g."""
    parts = np.split(w_OIK, len(place_GI))
    return np.concatenate([np.take(part, place, axis=1) for part, place in zip(parts, place_GI, strict=True)])


def channels_read(conv: Any) -> np.ndarray:
    """c[o, i]: the input channel that w[o, i] multiplies; output channel o of group g reads g·I … g·I + I − 1."""
    outputs, width = conv.inputs[1].shape[:2]
    group_O = np.arange(outputs) // (outputs // groups_of(conv))
    reads_OI: np.ndarray = group_O[:, None] * width + np.arange(width)
    return reads_OI
