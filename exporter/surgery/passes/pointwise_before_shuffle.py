from functools import partial
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from ..base import Pass
from ..channels import inverse, shuffle_of
from ..cost import ACTIVATIONS, POINTWISE, PRODUCTS
from ..edit import add_node, append, is_output, is_weight, producer, rearranged, sole_user
from ..norms import norm_of, parameters

UNARY = ACTIVATIONS - {"PRelu", "Clip"} | {"Neg", "Abs", "Exp", "Sqrt", "Erf"}
BINARY = {"Add", "Sub", "Mul", "Div", "Max", "Min"}


class PointwiseBeforeShuffle(Pass):
    """f(x[index]) = f'(x)[index], where f' does to channel index[c] what f does to channel c.

    What makes x then takes f up, and the shuffle comes to lie before a convolution, which may take it up.

    Given  Gather of channels (a permutation) → an activation, BatchNormalization, or Add, Sub, Mul, Div, Max or Min of
           a constant, nothing else reading the shuffled value; what makes the value before the shuffle takes f up, or
           what reads it behind f takes the shuffle up
    Result the same → Gather of channels
    """

    name = "pointwise-before-shuffle"

    def rewrite(self, graph: gs.Graph, node: Any) -> bool:  # noqa: D102
        found = next((i for i, t in enumerate(node.inputs) if producer(t, "Gather") is not None), None)
        if found is None or len(node.outputs) != 1 or sole_user(graph, node.inputs[found]) is not node:
            return False
        shuffled, y = node.inputs[found], node.outputs[0]
        gather = producer(shuffled)
        index_C = shuffle_of(gather)
        if index_C is None or y.shape is None or list(y.shape) != list(shuffled.shape or []):
            return False
        if producer(gather.inputs[0], "Concat") is not None:
            return False  # an interleaved concat: it is split where it is read
        if not (_joins_maker(graph, gather) or _is_read_by_convs(graph, y)):
            return False
        others = _unshuffled(graph, node, found, inverse(index_C), len(y.shape))
        if others is None:
            return False
        op, attrs, name, index = node.op, dict(node.attrs), node.name, gather.inputs[1]
        inputs = [gather.inputs[0] if i == found else t for i, t in enumerate(others)]
        value = append(graph, op, inputs, name=f"{name}_unshuffled", like=y, attrs=attrs)
        add_node(graph, "Gather", [value, index], y, name=name, attrs={"axis": 1})
        return True


def _joins_maker(graph: gs.Graph, gather: Any) -> bool:
    """Whether the value before the shuffle is made by a kernel that goes on with pointwise ops."""
    x = gather.inputs[0]
    return producer(x, *POINTWISE, *PRODUCTS) is not None and sole_user(graph, x) is gather


def _is_read_by_convs(graph: gs.Graph, y: Any) -> bool:
    """Whether convolutions alone read y, or what a chain of pointwise ops makes of it."""
    while (user := sole_user(graph, y, *POINTWISE)) is not None:
        y = user.outputs[0]
    return bool(y.outputs) and not is_output(graph, y) and all(user.op == "Conv" for user in y.outputs)


def _unshuffled(graph: gs.Graph, node: Any, found: int, place_C: np.ndarray, rank: int) -> list[Any] | None:
    """The inputs of `node`, constants in the order of the channels before the shuffle; None if others depend on it."""
    if node.domain or "":
        return None
    if node.op in UNARY:
        return list(node.inputs)
    if node.op == "BatchNormalization" and norm_of(node.outputs[0]) is not None:
        return [node.inputs[0], *(_moved(graph, t, place_C, 0) for t in parameters(node))]
    if node.op not in BINARY or len(node.inputs) != 2:
        return None
    other = node.inputs[1 - found]
    if not is_weight(other) or len(other.shape) > rank:
        return None
    axis = len(other.shape) - rank + 1  # of the channels
    if axis >= 0 and other.shape[axis] != 1:
        other = _moved(graph, other, place_C, axis)
    return [node.inputs[0], other] if found == 0 else [other, node.inputs[1]]


def _moved(graph: gs.Graph, weight: Any, place_C: np.ndarray, axis: int) -> Any:
    return rearranged(graph, weight.name, weight, partial(np.take, indices=place_C, axis=axis))
