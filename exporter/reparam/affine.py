"""Affine, shift-equivariant maps between feature maps, and their algebra.

    y[o, p] = b[o] + Σ_{i,t} K[o, i, t] · x[i, s·p + t],     0 ≤ p < ⌊(H + e) / s⌋,     x = 0 outside 0 ≤ h < H

for every spatial axis: taps t (a set of offsets), stride s, size law e. A convolution has the taps dilation·k − pad;
batch norm, dropout and identity have the one tap 0; average pooling has equal weights; zero padding and cropping are a
shifted identity. Composition is a Minkowski sum of taps, addition a union, so dilation, 1×k, even kernels and
asymmetric padding need no case of their own.

A `Form` is the structure of such a map without its numbers; legality and cost are decided on forms alone. An
`AffineMap` adds the numbers, in float64.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, reduce

import torch
from torch import Tensor


class IllegalError(Exception):
    """Two maps do not combine into one: a stable code, what was found and the remedy."""

    def __init__(self, code: str, found: str, remedy: str) -> None:
        super().__init__(f"{code}: {found}; {remedy}")
        self.code, self.found, self.remedy = code, found, remedy


@dataclass(frozen=True)
class Axis:
    """One spatial axis of a map: sorted tap offsets, stride, and the size laws ⌊(H + e) / s⌋ that all must agree.

    Two branches of a sum may follow different laws (⌈H/2⌉ of a padded conv, ⌊H/2⌋ of a pool). The network then only
    runs where they agree, so legality is asked at those sizes alone.
    """

    taps: tuple[int, ...]
    stride: int = 1
    laws: frozenset[int] = frozenset({0})

    @property
    def span(self) -> int:
        """Last tap minus first."""
        return self.taps[-1] - self.taps[0]

    @property
    def dilation(self) -> int:
        """Greatest common divisor of the tap distances; 1 for a single tap."""
        return reduce(math.gcd, (t - self.taps[0] for t in self.taps), 0) or 1

    @property
    def box(self) -> tuple[int, ...]:
        """The taps completed to an arithmetic sequence, which is what a convolution kernel can hold."""
        return tuple(range(self.taps[0], self.taps[-1] + 1, self.dilation))

    def size(self, size_in: int) -> int | None:
        """Output size for an input size, or None where the laws disagree (the network cannot run there)."""
        sizes = {(size_in + e) // self.stride for e in self.laws}
        return sizes.pop() if len(sizes) == 1 else None

    def sizes_in(self, at_least: int) -> list[int]:
        """The input sizes of one period from `at_least` on at which the map exists."""
        return [h for h in range(at_least, at_least + self.stride) if self.size(h) is not None]


IDENTITY_AXIS = Axis((0,))


@dataclass(frozen=True)
class Form:
    """The structure of a map: channels out and in, groups, one `Axis` per spatial axis (none for a Linear)."""

    out_channels: int
    in_channels: int
    groups: int
    axes: tuple[Axis, ...]
    biased: bool
    identity: bool = False

    @property
    def depthwise(self) -> bool:
        """Output channel c reads input channel c alone."""
        return self.groups == self.out_channels == self.in_channels

    @property
    def pointwise(self) -> bool:
        """A scale, shift, crop or pad per channel: there is no convolution in it."""
        return self.depthwise and all(len(axis.taps) == 1 and axis.stride == 1 for axis in self.axes)

    def macs(self, sizes_out: Sequence[int]) -> int:
        """Multiply-accumulates of the convolution that computes the map, per sample. Per-channel scales count none."""
        if self.pointwise:
            return 0
        taps = math.prod(len(axis.box) for axis in self.axes)
        return self.out_channels * (self.in_channels // self.groups) * taps * math.prod(sizes_out)


@dataclass(frozen=True)
class AffineMap:
    """A form and its numbers: kernel [O, I/groups, *taps] and bias [O], float64."""

    form: Form
    kernel: Tensor
    bias: Tensor


# ------------------------------------------------------------------ forms


def identity_form(channels: int, rank: int) -> Form:
    """y = x."""
    return Form(channels, channels, channels, (IDENTITY_AXIS,) * rank, biased=False, identity=True)


def conv_axis(taps: int, stride: int, pad_begin: int, pad_end: int, dilation: int) -> Axis:
    """The axis of a convolution: ⌊(H + p₀ + p₁ − d(k−1) − 1)/s⌋ + 1 positions, taps −p₀ + d·k."""
    law = pad_begin + pad_end - dilation * (taps - 1) - 1 + stride
    return Axis(tuple(dilation * k - pad_begin for k in range(taps)), stride, frozenset({law}))


@lru_cache(maxsize=65536)
def compose_axes(first: Axis, then: Axis) -> tuple[Axis, bool]:
    """`then` after `first` on one axis, and whether `then` reads past the border of what lies between.

    Where it does, it reads zeros, so the composition is only the same map if `first`, extended there, would be zero
    too: no tap of `first` may see the source from such a position. The positions past the border repeat with the input
    size modulo s₁·s₂, so one period of large sizes decides for all sizes. Raises IllegalError (BORDER_WINDOW, SIZES).
    """
    taps = tuple(sorted({first.stride * t2 + t1 for t2 in then.taps for t1 in first.taps}))
    laws = frozenset(e1 + first.stride * e2 for e1 in first.laws for e2 in then.laws)
    axis = Axis(taps, first.stride * then.stride, laws)
    reach = max(map(abs, (*first.taps, *then.taps, *first.laws, *then.laws)))
    large = 4 * first.stride * then.stride * (reach + 1)
    sizes = [size for size in axis.sizes_in(large) if first.size(size) is not None]
    if not sizes:
        raise IllegalError("SIZES", "the branches never have the same size", "check the network's strides and padding")
    past_border = False
    for source in sizes:
        between, out = first.size(source), axis.size(source)
        assert between is not None and out is not None
        for p in _outside(then, between, out):
            past_border = True
            if any(0 <= first.stride * p + t < source for t in first.taps):
                raise IllegalError(
                    "BORDER_WINDOW",
                    f"at input size {source} a padded op reads past the border of a map that is not zero there",
                    "remove the padding, or leave the two convs apart",
                )
    return axis, past_border


def _outside(axis: Axis, size: int, positions: int) -> Iterable[int]:
    """The positions outside 0 … size−1 that a map reads when it computes `positions` outputs."""
    for t in axis.taps:
        p = t
        while p < 0:
            yield p
            p += axis.stride
        p = axis.stride * (positions - 1) + t
        while p >= size:
            yield p
            p -= axis.stride


def compose_forms(first: Form, then: Form) -> Form:
    """`then` after `first`: taps add up, strides multiply, groups = gcd. Raises IllegalError if it is not one map."""
    pairs = [compose_axes(a, b) for a, b in zip(first.axes, then.axes, strict=True)]
    if first.biased and any(past_border for _, past_border in pairs):
        raise IllegalError(
            "BORDER_BIAS",
            "a zero-padded op follows a bias or a batch norm's shift, which the padding erases at the border",
            "pad before the bias, or leave the two apart",
        )
    groups = math.gcd(first.groups, then.groups)
    axes = tuple(axis for axis, _ in pairs)
    biased = first.biased or then.biased
    return Form(then.out_channels, first.in_channels, groups, axes, biased, first.identity and then.identity)


def add_forms(forms: Sequence[Form]) -> Form:
    """Σ of maps over one source: union of taps, groups = gcd. Raises IllegalError where strides or sizes differ."""
    first = forms[0]
    if len({(f.out_channels, f.in_channels) for f in forms}) > 1:
        raise IllegalError("CHANNELS", "branches with different channel counts", "broadcast sums stay as they are")
    return replace(_union(forms), out_channels=first.out_channels, groups=math.gcd(*(f.groups for f in forms)))


def concat_forms(forms: Sequence[Form]) -> Form:
    """Maps over one source stacked along the output channels: union of taps, dense. Raises IllegalError."""
    return _union(forms)


def _union(forms: Sequence[Form]) -> Form:
    first = forms[0]
    axes = []
    for along in zip(*(f.axes for f in forms), strict=True):
        if len({axis.stride for axis in along}) > 1:
            raise IllegalError("STRIDES", "branches with different strides", "merge each branch on its own")
        taps = tuple(sorted({t for axis in along for t in axis.taps}))
        axis = Axis(taps, along[0].stride, frozenset().union(*(axis.laws for axis in along)))
        if not axis.sizes_in(4 * axis.stride * (1 + max(map(abs, axis.laws)))):
            raise IllegalError("SIZES", "the branches never have the same size", "check strides and padding")
        axes.append(axis)
    outs = sum(f.out_channels for f in forms)
    return Form(outs, first.in_channels, 1, tuple(axes), any(f.biased for f in forms))


# ------------------------------------------------------------------ numbers


def identity_map(channels: int, rank: int) -> AffineMap:
    """y = x, with numbers."""
    kernel = torch.ones(channels, 1, *(1,) * rank, dtype=torch.float64)
    return AffineMap(identity_form(channels, rank), kernel, torch.zeros(channels, dtype=torch.float64))


def _regrouped(kernel: Tensor, form: Form, groups: int) -> Tensor:
    """K [O, I/g, …] of a form for fewer groups: zeros where the new groups join channels the old ones kept apart."""
    old = form.groups
    if old == groups:
        return kernel
    outs, ins = form.out_channels, form.in_channels
    wide = kernel.new_zeros(outs, ins // groups, *kernel.shape[2:])
    row = torch.arange(outs)
    group_in_new = row // (outs // old) % (old // groups)
    column = group_in_new[:, None] * (ins // old) + torch.arange(ins // old)
    wide[row[:, None], column] = kernel
    return wide


def _on_taps(kernel: Tensor, old: Sequence[Sequence[int]], new: Sequence[Sequence[int]]) -> Tensor:
    """K re-indexed from taps `old` to a superset `new`, per axis."""
    for axis, (few, many) in enumerate(zip(old, new, strict=True)):
        if tuple(few) == tuple(many):
            continue
        dim = 2 + axis
        shape = (*kernel.shape[:dim], len(many), *kernel.shape[dim + 1 :])
        index = torch.tensor([list(many).index(t) for t in few])
        kernel = kernel.new_zeros(shape).index_copy_(dim, index, kernel)
    return kernel


def compose(first: AffineMap, then: AffineMap) -> AffineMap:
    """K[o,i, s₁·t₂ + t₁] = Σ_m K₂[o,m,t₂] · K₁[m,i,t₁],   b = b₂ + Σ_{m,t₂} K₂[o,m,t₂] · b₁[m]."""
    form = compose_forms(first.form, then.form)
    if first.form.identity or then.form.identity:
        return replace(then if first.form.identity else first, form=form)
    k1_oiT = first.kernel.reshape(*first.kernel.shape[:2], -1)
    k2_oiT = then.kernel.reshape(*then.kernel.shape[:2], -1)
    place = {offset: i for i, offset in enumerate(itertools.product(*(axis.taps for axis in form.axes)))}
    taps = [axis.taps for axis in first.form.axes]
    strides = [axis.stride for axis in first.form.axes]
    product = _channel_product(first.form, then.form, k1_oiT, form.groups)
    if k2_oiT.shape[2] == 1:  # one tap: the sum has one term, and no tap moves past another
        kernel_oiT = product(k2_oiT[:, :, 0])
    else:
        kernel_oiT = torch.zeros(form.out_channels, form.in_channels // form.groups, len(place), dtype=torch.float64)
        for t2, offset in enumerate(itertools.product(*(axis.taps for axis in then.form.axes))):
            moved = [[s * o + t for t in along] for s, o, along in zip(strides, offset, taps, strict=True)]
            index = torch.tensor([place[to] for to in itertools.product(*moved)])
            kernel_oiT.index_add_(2, index, product(k2_oiT[:, :, t2]))
    bias = then.bias
    if first.form.biased:
        g = then.form.groups
        k2_goi = (k2_oiT[:, :, 0] if k2_oiT.shape[2] == 1 else k2_oiT.sum(2)).reshape(
            g, then.form.out_channels // g, -1
        )
        bias = bias + torch.bmm(k2_goi, first.bias.reshape(g, -1, 1)).reshape(-1)
    kernel = kernel_oiT.reshape(*kernel_oiT.shape[:2], *(len(axis.taps) for axis in form.axes))
    return AffineMap(form, kernel, bias)


def _channel_product(first: Form, then: Form, k1_oiT: Tensor, groups: int) -> Callable[[Tensor], Tensor]:
    """K₂[o,m] ↦ Σ_m K₂[o,m] · K₁[m,i,t] for one tap of the second map, by the cheapest of its equivalents."""
    outs, between = then.out_channels, first.out_channels
    if then.depthwise:  # a scale per output channel of `first`
        return lambda k2_oi: k2_oi.reshape(-1, 1, 1) * k1_oiT
    if first.depthwise:  # a scale per input channel of `then`
        scale = k1_oiT.reshape(then.groups, 1, between // then.groups, -1)
        return lambda k2_oi: (k2_oi.reshape(then.groups, -1, scale.shape[2], 1) * scale).reshape(
            outs, scale.shape[2], -1
        )
    k1_gmx = _regrouped(k1_oiT, first, groups).reshape(groups, between // groups, -1)

    def product(k2_oi: Tensor) -> Tensor:
        k2_gom = _regrouped(k2_oi, then, groups).reshape(groups, outs // groups, -1)
        return torch.bmm(k2_gom, k1_gmx).reshape(outs, first.in_channels // groups, -1)

    return product


def add(maps: Sequence[AffineMap], coefficients: Sequence[float]) -> AffineMap:
    """Σ cⱼ · mapⱼ over one source."""
    form = add_forms([m.form for m in maps])
    kernel = torch.zeros(1, dtype=torch.float64)
    bias = torch.zeros(1, dtype=torch.float64)
    for m, c in zip(maps, coefficients, strict=True):
        kernel = kernel + c * _on_taps(_regrouped(m.kernel, m.form, form.groups), *_taps(m.form, form))
        bias = bias + c * m.bias
    return AffineMap(form, kernel, bias)


def concat(maps: Sequence[AffineMap]) -> AffineMap:
    """Maps over one source, stacked along the output channels."""
    form = concat_forms([m.form for m in maps])
    kernels = [_on_taps(_regrouped(m.kernel, m.form, form.groups), *_taps(m.form, form)) for m in maps]
    return AffineMap(form, torch.cat(kernels), torch.cat([m.bias for m in maps]))


def _taps(old: Form, new: Form) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    return [a.taps for a in old.axes], [a.taps for a in new.axes]


# ------------------------------------------------------------------ a map as one convolution


@dataclass(frozen=True)
class ConvGeometry:
    """How a form becomes a convolution: per axis the kernel's taps, dilation and (begin, end) padding; < 0 crops."""

    boxes: tuple[tuple[int, ...], ...]
    dilations: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]

    @property
    def symmetric(self) -> bool:
        """True where the convolution can do its own padding; else a pad or crop precedes it."""
        return all(begin == end >= 0 for begin, end in self.pads)


def conv_geometry(form: Form) -> ConvGeometry:
    """The convolution of a form. Begin padding comes from the first tap, end padding from the size law.

    Other end paddings give the same sizes wherever the network runs (the stride leaves a remainder unused); the one
    that equals the begin padding is preferred, since a convolution does symmetric padding by itself.
    """
    pads = []
    for axis in form.axes:
        begin = -axis.taps[0]
        law = min(axis.laws)
        end = law - begin + axis.span + 1 - axis.stride
        symmetric = Axis(axis.taps, axis.stride, axis.laws | {2 * begin - axis.span - 1 + axis.stride})
        large = 4 * axis.stride * (1 + max(map(abs, symmetric.laws)))
        if begin >= 0 and symmetric.sizes_in(large) == axis.sizes_in(large):
            end = begin
        pads.append((begin, end))
    return ConvGeometry(tuple(axis.box for axis in form.axes), tuple(axis.dilation for axis in form.axes), tuple(pads))


def conv_kernel(m: AffineMap) -> Tensor:
    """K on the dense box of its taps, as a convolution holds it."""
    return _on_taps(m.kernel, [a.taps for a in m.form.axes], [a.box for a in m.form.axes])
