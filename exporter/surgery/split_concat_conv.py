from math import prod
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from .base import Pass
from .channels import ChannelMap, channel_map
from .convs import groups_of
from .edit import add_node, append, constant, detach, is_output, is_weight, spatial, values64


class SplitConcatConv(Pass):
    """w * concat(x₁, …, xₙ) = Σ_j w[:, of j] * x_j, in groups too where each group reads its share of every x_j.

    An interleaved concat is such a one: with x₁, x₂ of C channels and two groups, group 1 reads the first C/2 channels
    of both, group 2 the rest. MACs stay the same; the concat (each element read and written, once for the concat and
    once for the shuffle) goes, and n − 1 sums of the conv's output come.

    Given  (Concat, Gather of channels) → Convs and nothing else, the sums moving no more elements than the concat
    Result a Conv of each source, and Adds
    """

    name = "split-concat-conv"

    def rewrite(self, graph: gs.Graph, node: Any) -> bool:  # noqa: D102
        if node.op not in ("Concat", "Gather"):
            return False
        y = node.outputs[0]
        found = channel_map(graph, y)
        users = list(y.outputs)
        if found is None or len(found.sources) < 2 or is_output(graph, y) or not users:
            return False
        if not all(user.op == "Conv" and _splits(user, found) for user in users) or not _pays(users, found):
            return False
        for conv in users:
            _split(graph, conv, found)
        return True


def _splits(conv: Any, found: ChannelMap) -> bool:
    """Whether each group of `conv` reads, of each source, the share of channels that is the group's own."""
    if not is_weight(conv.inputs[1]) or not any(conv.inputs[0] is n.outputs[0] for n in found.nodes):
        return False
    groups, width = groups_of(conv), conv.inputs[1].shape[1]
    for source, filled_c, from_c in found.parts():
        share, rest = divmod(source.shape[1], groups)
        unique = np.array_equal(np.sort(from_c), np.arange(source.shape[1]))
        if rest or not unique or not np.array_equal(filled_c // width, from_c // share):
            return False
    return True


def _pays(convs: list[Any], found: ChannelMap) -> bool:
    """Whether the sums move no more elements (read or written) than the layout ops do, at batch 1."""
    size = spatial(convs[0].inputs[0])
    if size is None:
        return False
    moved = sum(
        2 * prod(n.outputs[0].shape[1:]) for n in found.nodes if all(isinstance(d, int) for d in n.outputs[0].shape[1:])
    )
    outputs = [spatial(conv.outputs[0]) for conv in convs]
    if any(out is None for out in outputs):
        return False
    n = len(found.sources)
    # Each further source writes its conv's output, and an Add reads two of them and writes one.
    added = sum(
        (n - 1) * 4 * conv.inputs[1].shape[0] * prod(out or ()) for conv, out in zip(convs, outputs, strict=True)
    )
    return bool(added <= moved)


def _split(graph: gs.Graph, conv: Any, found: ChannelMap) -> None:
    w, y, attrs, name = conv.inputs[1], conv.outputs[0], dict(conv.attrs), conv.name
    bias, groups, width = list(conv.inputs[2:]), groups_of(conv), w.shape[1]
    w_OIK, w_name, dtype = values64(w), w.name, w.dtype
    group_O = np.arange(w.shape[0]) // (w.shape[0] // groups)
    detach(graph, conv)
    total = None
    for n, (source, filled_c, from_c) in enumerate(found.parts()):
        share = source.shape[1] // groups
        place_GI = np.empty((groups, share), np.int64)  # channel i of the group's share is weight place[i]
        place_GI[from_c // share, from_c % share] = filled_c % width
        index = np.expand_dims(place_GI[group_O], tuple(range(2, w_OIK.ndim)))
        part = constant(graph, f"{w_name}_{n}", np.take_along_axis(w_OIK, index, axis=1), dtype)
        inputs = [source, part, *(bias if n == 0 else [])]
        output = append(graph, "Conv", inputs, name=f"{name}_{n}", like=y, attrs=attrs)
        if total is None:
            total = output
        elif n < len(found.sources) - 1:
            total = append(graph, "Add", [total, output], name=f"{name}_sum", like=y)
        else:
            add_node(graph, "Add", [total, output], y, name=name)
