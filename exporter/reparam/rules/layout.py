"""Ops that move values: pads, crops, concatenation."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import fx

from ..affine import identity_map
from ..forms import CIRCULAR, REFLECT, REPLICATE, ZEROS, IllegalError, identity_form, shift_axis
from ..graph import channels_of, is_static, rank_of, sizes
from ..lift import Concat, Lifter, Linear, Op, rule

EXTENSIONS = {"constant": ZEROS, "circular": CIRCULAR, "reflect": REFLECT, "replicate": REPLICATE}
TO_THE_END = 2**31  # torch writes an open slice end as the largest integer


@rule("constant_pad_nd", "pad")
def lift_pad(lifter: Lifter, node: fx.Node, a: Mapping[str, Any]) -> Op | None:
    """Padding (or cropping, where negative) of the spatial axes: a shifted identity on the extended source."""
    rank, pads, mode = rank_of(node), a["pad"], a.get("mode", "constant")
    if not is_static(pads) or len(pads) > 2 * rank:
        return None
    if mode not in EXTENSIONS or (mode == "constant" and a["value"] not in (None, 0)):
        raise IllegalError("PAD_VALUE", f"padding by {mode} {a['value']}", "only padding by zeros or by the map merges")
    pads = [*pads, *[0] * (2 * rank - len(pads))]
    ends = [(pads[2 * d], pads[2 * d + 1]) for d in reversed(range(rank))]
    if any(min(pair) < 0 < max(pair) or (mode != "constant" and min(pair) < 0) for pair in ends):
        return None
    return _shifted(a["self"], ends, EXTENSIONS[mode])


@rule("slice")
def lift_slice(lifter: Lifter, node: fx.Node, a: Mapping[str, Any]) -> Op | None:
    """A crop counted from either end; one at a fixed position from the start would fix the input size."""
    source, dim, start, end = a["self"], a["dim"], a["start"] or 0, a["end"]
    rank = rank_of(node)
    dim = dim % (rank + 2)
    if a["step"] != 1 or not is_static(start, end) or dim < 2 or start < 0:
        return None
    if end is None or end >= TO_THE_END:
        end = 0
    elif end >= 0:
        return None
    crops = [(0, 0)] * rank
    crops[dim - 2] = (-start, end)
    return _shifted(source, crops)


def _shifted(source: fx.Node, pads: Sequence[tuple[int, int]], extension: str = ZEROS) -> Linear:
    """The identity on a domain that grows by (begin, end) per axis."""
    channels, rank = channels_of(source), rank_of(source)
    axes = tuple(shift_axis(begin, end, extension) for begin, end in pads)
    form = replace(identity_form(channels, rank), axes=axes, identity=not any(p for pad in pads for p in pad))
    return Linear(source, form, lambda: replace(identity_map(channels, rank), form=form))


@rule("cat", "concat")
def lift_concat(lifter: Lifter, node: fx.Node, a: Mapping[str, Any]) -> Op | None:
    """Concatenation along the channels."""
    if any(lifter.is_constant(part) or sizes(part) is None for part in a["tensors"]):
        return None
    dim, last = a["dim"] % (rank_of(node) + 2), node in lifter.last
    return Concat(tuple(a["tensors"]), last) if dim == (rank_of(node) + 1 if last else 1) else None
