"""How a form becomes a convolution: its kernel's box, dilation and own padding, and the pads before it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from .forms import CIRCULAR, REFLECT, REPLICATE, ZEROS, Axis, Form


@dataclass(frozen=True)
class Extend:
    """A pad or crop before a convolution, in `torch.nn.functional.pad`'s order and by its name of the mode."""

    pads: tuple[int, ...]
    mode: str = "constant"


@dataclass(frozen=True)
class ConvGeometry:
    """How a form becomes a convolution: its kernel's taps, dilation and own padding, and what precedes it.

    A transposed one has its taps in descending order in memory, and an output padding.
    """

    boxes: tuple[tuple[int, ...], ...]
    dilations: tuple[int, ...]
    padding: tuple[int, ...]
    output_padding: tuple[int, ...]
    extends: tuple[Extend, ...]


@lru_cache(maxsize=65536)
def conv_geometry(form: Form) -> ConvGeometry:
    """The convolution of a form. Begin padding comes from the first tap, end padding from the size law.

    A convolution does equal zero padding of both ends by itself; any other is an op before it.
    """
    padding, output_padding = [], []
    outer: list[tuple[int, int]] = []
    for axis in form.axes:
        begin, end = (axis.taps[-1],) * 2 if form.transposed else _pads(axis)
        alone = axis.extension == ZEROS and begin == end >= 0
        padding.append(begin if alone else 0)
        output_padding.append(axis.output_padding)
        outer.append((0, 0) if alone else (begin, end))
    return ConvGeometry(
        tuple(axis.box for axis in form.axes),
        tuple(axis.dilation for axis in form.axes),
        tuple(padding),
        tuple(output_padding),
        _extends(form.axes, outer),
    )


def _pads(axis: Axis) -> tuple[int, int]:
    """Begin and end padding (< 0 crops) for a convolution of the axis.

    Other end paddings give the same sizes wherever the network runs (the stride leaves a remainder unused); the one
    that equals the begin padding is preferred.
    """
    begin = -axis.taps[0]
    end = min(axis.laws) - begin + axis.span + 1 - axis.stride
    symmetric = replace(axis, laws=axis.laws | {2 * begin - axis.span - 1 + axis.stride})
    large = 4 * axis.stride * (1 + max(map(abs, symmetric.laws)))
    if begin >= 0 and symmetric.sizes_in(large) == axis.sizes_in(large):
        end = begin
    return begin, end


def _extends(axes: Sequence[Axis], pads: Sequence[tuple[int, int]]) -> tuple[Extend, ...]:
    """One op per padding mode, then one for zeros and crops; the last axis first, as torch wants it."""
    found = []
    for mode in (CIRCULAR, REFLECT, REPLICATE):
        some = [
            tuple(max(p, 0) for p in pad) if a.extension == mode else (0, 0) for a, pad in zip(axes, pads, strict=True)
        ]
        if any(map(any, some)):
            found.append(Extend(tuple(p for pad in reversed(some) for p in pad), mode))
    rest = [pad if a.extension == ZEROS else tuple(min(p, 0) for p in pad) for a, pad in zip(axes, pads, strict=True)]
    if any(map(any, rest)):
        found.append(Extend(tuple(p for pad in reversed(rest) for p in pad)))
    return tuple(found)
