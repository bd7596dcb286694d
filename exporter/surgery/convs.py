"""What several passes ask of a Conv."""

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from .edit import constant, is_weight, producer, values64


def conv_of(tensor: Any) -> Any:
    """The Conv with known weights that makes `tensor`, or None."""
    conv = producer(tensor, "Conv")
    return conv if conv is not None and all(is_weight(t) for t in conv.inputs[1:]) else None


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
