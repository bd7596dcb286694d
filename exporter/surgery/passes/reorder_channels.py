"""Shuffles that the weights around them can take up, however far away."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from ..base import Pass
from ..channels import inverse, shuffle_of
from ..convs import take_inputs
from ..cost import ACTIVATIONS
from ..edit import bypass, is_constant, is_output, is_weight, rearranged, spatial
from ..norms import norm_of

SAME = ACTIVATIONS - {"PRelu", "Clip"} | {
    "GlobalAveragePool", "GlobalMaxPool", "MaxPool", "AveragePool", "Neg", "Abs", "Exp", "Sqrt", "Erf", "Identity",
}  # fmt: skip
"""Ops that do to each channel what they do to any."""
BINARY = {"Add", "Sub", "Mul", "Div", "Max", "Min"}


class ReorderChannels(Pass):
    """y = x[:, index]: store x in the order of y, and every weight around it in that order too.

    Rows of the weights that make x are permuted, columns of those that read it. Between them the order passes through
    whatever treats channels alike or one by one: activations, pools, norms, depthwise convs, gates x·g, skips x + z;
    all values that meet there change their order together. It stops at dense convs, at grouped ones where each group
    keeps its channels, and at other shuffles, whose index changes. If it reaches an input or output of the graph, or a
    grouped conv whose groups it would mix, no order of weights undoes the shuffle and it stays.

    Given  Gather of channels (a permutation) of such an x
    Result x in another order, no Gather
    """

    name = "reorder-channels"

    def rewrite(self, graph: gs.Graph, node: Any) -> bool:  # noqa: D102
        index_C = shuffle_of(node) if node.op == "Gather" else None
        if index_C is None or is_output(graph, node.outputs[0]):
            return False
        order = _Order(graph, node, index_C)
        if not order.fits():
            return False
        x = node.inputs[0]
        if not bypass(graph, node, x):
            return False
        for edit in order.edits:
            edit()
        return True


class _Order:
    """The values that are stored in the order of one shuffle's outcome, and what must be edited for that."""

    def __init__(self, graph: gs.Graph, shuffle: Any, index_C: np.ndarray) -> None:
        self.graph, self.shuffle, self.index_C, self.place_C = graph, shuffle, index_C, inverse(index_C)
        self.edits: list[Callable[[], None]] = []
        self._values: dict[int, Any] = {}
        self._nodes: set[int] = set()

    def fits(self) -> bool:
        """Follow the order from the shuffle's input until it stops everywhere; False where it cannot."""
        waiting = [self.shuffle.inputs[0]]
        while waiting:
            value = waiting.pop()
            if id(value) in self._values:
                continue
            self._values[id(value)] = value
            maker = value.inputs[0] if value.inputs else None
            if maker is None or is_output(self.graph, value) or not self._has_channels(value):
                return False
            if value is self.shuffle.outputs[0]:
                return False  # it would have to be in two orders
            for node in (maker, *value.outputs):
                if node is self.shuffle or (id(node) in self._nodes and node.op in SAME | BINARY):
                    continue
                more = self._through(node, value)
                if more is None:
                    return False
                self._nodes.add(id(node))
                waiting += more
        return True

    def _has_channels(self, value: Any) -> bool:
        return value.shape is not None and len(value.shape) > 2 and value.shape[1] == len(self.index_C)

    def _through(self, node: Any, value: Any) -> list[Any] | None:
        """The values beyond `node` that take the order over; None where `node` does not let it pass."""
        made = any(t is value for t in node.outputs)
        if not node.outputs:
            return None
        if (node.domain or "") or any(True for _ in node.subgraphs()) or (made and node.outputs[0] is not value):
            return None
        if node.op == "Conv" and all(is_weight(t) for t in node.inputs[1:]):
            return self._through_conv(node, made)
        if node.op in SAME and len(node.outputs) == 1:
            return [node.inputs[0], node.outputs[0]]
        if node.op == "BatchNormalization" and norm_of(node.outputs[0]) is not None:
            if id(node) not in self._nodes:
                for slot in range(1, 5):
                    self._permute(node, slot, 0, self.index_C)
            return [node.inputs[0], node.outputs[0]]
        if node.op in BINARY and len(node.inputs) == 2:
            return self._through_binary(node)
        if node.op == "Gather" and (index_C := shuffle_of(node)) is not None and id(node) not in self._nodes:
            # As its source: y = x[i] = x'[place[i]]. As its outcome: y' = y[index] = x[i[index]].
            other = index_C[self.index_C] if made else self.place_C[index_C]
            self._move(node, 1, lambda _: other)
            return []
        return self._through_head(node, value) if not made else None

    def _through_conv(self, conv: Any, made: bool) -> list[Any] | None:
        w, groups = conv.inputs[1], int(conv.attrs.get("group", 1))
        outputs, width = w.shape[:2]
        if width == 1 and groups == outputs == len(self.index_C):
            if id(conv) not in self._nodes:
                for slot in range(1, len(conv.inputs)):
                    self._permute(conv, slot, 0, self.index_C)
            return [conv.inputs[0], conv.outputs[0]]
        if made:
            if not _keeps_groups(self.index_C, outputs // groups):
                return None
            for slot in range(1, len(conv.inputs)):
                self._permute(conv, slot, 0, self.index_C)
        else:
            if not _keeps_groups(self.index_C, width) or any(t is conv.inputs[0] for t in conv.inputs[1:]):
                return None
            place_GI = self.index_C.reshape(groups, width) % width
            self._move(conv, 1, partial(take_inputs, place_GI=place_GI))
        return []

    def _through_binary(self, node: Any) -> list[Any] | None:
        y = node.outputs[0]
        if not self._has_channels(y):
            return None
        found = [y]
        for slot, t in enumerate(node.inputs):
            if t.shape is None or (len(t.shape) != len(y.shape) and not is_constant(t)):
                return None
            axis = len(t.shape) - len(y.shape) + 1
            if axis < 0 or t.shape[axis] == 1:
                continue
            if not is_constant(t):
                found.append(t)
            elif is_weight(t):
                self._permute(node, slot, axis, self.index_C)
            else:
                return None
        return found

    def _through_head(self, node: Any, value: Any) -> list[Any] | None:
        """Flatten of a 1×1 map, or a mean that drops the map, into a Gemm: its columns."""
        y = node.outputs[0]
        dropped = node.op == "ReduceMean" and not node.attrs.get("keepdims", 1)
        if not dropped and not (node.op == "Flatten" and set(spatial(value) or [0]) == {1}):
            return None
        if list(y.shape or []) != list(value.shape[:2]) or is_output(self.graph, y):
            return None
        for gemm in y.outputs:
            if gemm.op != "Gemm" or gemm.inputs[0] is not y or not is_weight(gemm.inputs[1]):
                return None
            if gemm.attrs.get("transA", 0) or any(t is y for t in gemm.inputs[1:]):
                return None
            self._permute(gemm, 1, 1 if gemm.attrs.get("transB", 0) else 0, self.index_C)
        return []

    def _permute(self, node: Any, slot: int, axis: int, index_C: np.ndarray) -> None:
        self._move(node, slot, partial(np.take, indices=index_C, axis=axis))

    def _move(self, node: Any, slot: int, move: Callable[[np.ndarray], np.ndarray]) -> None:
        self.edits.append(lambda: self._set(node, slot, move))

    def _set(self, node: Any, slot: int, move: Callable[[np.ndarray], np.ndarray]) -> None:
        old, inputs = node.inputs[slot], list(node.inputs)
        node.inputs = [t for t in inputs if t is not old]
        inputs[slot] = rearranged(self.graph, old.name, old, move)
        node.inputs = inputs


def _keeps_groups(index_C: np.ndarray, width: int) -> bool:
    """Whether the permutation moves channels only within runs of `width`."""
    return np.array_equal(index_C // width, np.arange(len(index_C)) // width)
