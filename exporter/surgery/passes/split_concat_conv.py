from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from ..base import Pass
from ..channels import ChannelMap, channel_map
from ..convs import groups_of, take_inputs
from ..cost import elements
from ..edit import add_node, append, detach, fresh, is_output, is_weight, rearranged, sole_user


class SplitConcatConv(Pass):
    """w * concat(x₁, …, xₙ) = Σ_j w[:, of j] * x_j, in groups too where each group reads as much of x_j as any other.

    An interleaved concat is such a one: with x₁, x₂ of C channels and two groups, group 1 reads the first C/2 channels
    of both, group 2 the rest. Where the groups' shares of an x_j do not follow one another, x_j alone is shuffled. MACs
    stay the same. A shuffle goes, which reads and writes each element, and a concat, which does so too where it cannot
    be written in place; n − 1 sums come, which write and read the conv's output once more.

    Given  (Concat, Gather of channels) → Convs and nothing else, the sums moving no more elements than the layout ops
           and being no more nodes
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
        if any(user.op != "Conv" or user.inputs[0] is not y or not is_weight(user.inputs[1]) for user in users):
            return False
        shares = [_shares(conv, found) for conv in users]
        if any(each is None for each in shares) or not _pays(graph, users, found, [s for s in shares if s]):
            return False
        shuffled: dict[tuple[int, bytes], Any] = {}
        for conv, each in zip(users, shares, strict=True):
            _split(graph, conv, each or [], shuffled)
        return True


@dataclass(frozen=True)
class _Share:
    """What a conv reads of one source: order[g·share + i] is the channel that group g reads with weight place[g, i]."""

    source: Any
    order: np.ndarray
    place: np.ndarray

    @property
    def is_shuffled(self) -> bool:
        return not np.array_equal(self.order, np.arange(len(self.order)))


def _shares(conv: Any, found: ChannelMap) -> list[_Share] | None:
    """What each group of `conv` reads of each source, in the source's order; None where it is not as much for each."""
    groups, width = groups_of(conv), conv.inputs[1].shape[1]
    shares = []
    for source, filled_c, from_c in found.parts():
        share, rest = divmod(source.shape[1], groups)
        if rest or not np.array_equal(np.sort(from_c), np.arange(source.shape[1])):
            return None
        group_c = filled_c // width
        if not np.array_equal(np.bincount(group_c, minlength=groups), np.full(groups, share)):
            return None
        by_group = np.lexsort((from_c, group_c))  # in each group, in the source's order
        shares.append(_Share(source, from_c[by_group], (filled_c[by_group] % width).reshape(groups, share)))
    return shares


def _pays(graph: gs.Graph, convs: list[Any], found: ChannelMap, shares: list[list[_Share]]) -> bool:
    """Whether the sums, and the shuffles left, move no more elements than the layout ops do, at batch 1."""
    gone = [n.outputs[0] for n in found.nodes if n.op in ("Gather", "Transpose") or not _in_place(graph, n)]
    left = {(id(s.source), s.order.tobytes()): s.source for each in shares for s in each if s.is_shuffled}
    sums = [conv.outputs[0] for conv in convs for _ in found.sources[1:]]
    sizes = [[elements(t) for t in values] for values in (gone, [*left.values(), *sums])]
    if any(size is None for part in sizes for size in part):
        return False
    before, after = (sum(size or 0 for size in part) for part in sizes)
    more = len(left) + 2 * len(sums)  # a Conv and an Add for each source but the first
    return after <= before and more <= sum(_goes(graph, n, found) for n in found.nodes)


def _goes(graph: gs.Graph, node: Any, found: ChannelMap) -> bool:
    """Whether nothing is left to read what `node` makes."""
    return node is found.nodes[-1] or sole_user(graph, node.outputs[0]) is not None


def _in_place(graph: gs.Graph, node: Any) -> bool:
    """Whether `node` is a view, or a concat that its sources are written straight into."""
    return node.op != "Concat" or all(t.inputs and sole_user(graph, t) is node for t in node.inputs)


def _split(graph: gs.Graph, conv: Any, shares: list[_Share], shuffled: dict[tuple[int, bytes], Any]) -> None:
    w, y, attrs, name = conv.inputs[1], conv.outputs[0], dict(conv.attrs), conv.name
    bias = list(conv.inputs[2:])
    detach(graph, conv)
    total = None
    for n, share in enumerate(shares):
        part = rearranged(graph, f"{w.name}_{n}", w, partial(take_inputs, place_GI=share.place))
        inputs = [_ordered(graph, share, f"{name}_{n}_shuffle", shuffled), part, *(bias if n == 0 else [])]
        output = append(graph, "Conv", inputs, name=f"{name}_{n}", like=y, attrs=attrs)
        if total is None:
            total = output
        elif n < len(shares) - 1:
            total = append(graph, "Add", [total, output], name=f"{name}_sum", like=y)
        else:
            add_node(graph, "Add", [total, output], y, name=name)


def _ordered(graph: gs.Graph, share: _Share, name: str, shuffled: dict[tuple[int, bytes], Any]) -> Any:
    """The source with the channels of each group one after another; one shuffle serves all convs that want it."""
    if not share.is_shuffled:
        return share.source
    key = (id(share.source), share.order.tobytes())
    if key not in shuffled:
        index = gs.Constant(fresh(graph, f"{name}_channels"), share.order.astype(np.int64))
        shuffled[key] = append(graph, "Gather", [share.source, index], name=name, like=share.source, attrs={"axis": 1})
    return shuffled[key]
