"""Affine, shift-equivariant maps with their numbers, in float64: composition, sum, concatenation, conv weights.

What may be combined, and into which form, `forms` decides.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .forms import Form, add_forms, compose_forms, concat_forms, identity_form


@dataclass(frozen=True)
class AffineMap:
    """A form and its numbers: kernel [O, I/groups, *taps] and bias [O], float64."""

    form: Form
    kernel: Tensor
    bias: Tensor


def identity_map(channels: int, rank: int) -> AffineMap:
    """y = x, with numbers."""
    kernel = torch.ones(channels, 1, *(1,) * rank, dtype=torch.float64)
    return AffineMap(identity_form(channels, rank), kernel, torch.zeros(channels, dtype=torch.float64))


def regrouped(kernel: Tensor, form: Form, groups: int) -> Tensor:
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
    k1_gmx = regrouped(k1_oiT, first, groups).reshape(groups, between // groups, -1)

    def product(k2_oi: Tensor) -> Tensor:
        k2_gom = regrouped(k2_oi, then, groups).reshape(groups, outs // groups, -1)
        return torch.bmm(k2_gom, k1_gmx).reshape(outs, first.in_channels // groups, -1)

    return product


def add(maps: Sequence[AffineMap], coefficients: Sequence[float]) -> AffineMap:
    """Σ cⱼ · mapⱼ over one source; maps with the same taps first, as to reach few taps among many costs as all do."""
    form = add_forms([m.form for m in maps])
    bias = torch.zeros(form.out_channels, dtype=torch.float64)
    sums: dict[tuple[tuple[int, ...], ...], Tensor] = {}
    for m, c in zip(maps, coefficients, strict=True):
        own, taps = regrouped(m.kernel, m.form, form.groups), tuple(axis.taps for axis in m.form.axes)
        if taps in sums:
            sums[taps].add_(own, alpha=c)
        else:
            sums[taps] = own * c
        bias.add_(m.bias, alpha=c)
    new = tuple(axis.taps for axis in form.axes)
    shape = (form.out_channels, form.in_channels // form.groups, *map(len, new))
    kernel = sums.pop(new) if new in sums else torch.zeros(shape, dtype=torch.float64)
    for old, own in sums.items():
        places = _places(old, new)
        if places is None:
            kernel.add_(_on_taps(own, old, new))
        else:
            kernel[:, :, *places].add_(own)
    return AffineMap(form, kernel, bias)


def _places(old: Sequence[Sequence[int]], new: Sequence[Sequence[int]]) -> list[slice] | None:
    """Where taps `old` are among a superset `new`, per axis; None unless they are evenly spaced there."""
    found = []
    for few, many in zip(old, new, strict=True):
        index = [list(many).index(t) for t in few]
        places = slice(index[0], index[-1] + 1, index[1] - index[0] if len(index) > 1 else 1)
        if index != list(range(len(many))[places]):
            return None
        found.append(places)
    return found


def concat(maps: Sequence[AffineMap]) -> AffineMap:
    """Maps over one source, stacked along the output channels."""
    form = concat_forms([m.form for m in maps])
    kernels = [_on_taps(regrouped(m.kernel, m.form, form.groups), *_taps(m.form, form)) for m in maps]
    return AffineMap(form, torch.cat(kernels), torch.cat([m.bias for m in maps]))


def _taps(old: Form, new: Form) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    return [a.taps for a in old.axes], [a.taps for a in new.axes]


def conv_weight(m: AffineMap) -> Tensor:
    """The weight of the convolution: K on the dense box of its taps, [O, I/groups, *box].

    A transposed one is [I, O/groups, *box] with the taps reversed: its tap t of x[q] is the place p − u·q of y.
    """
    kernel = _on_taps(m.kernel, [a.taps for a in m.form.axes], [a.box for a in m.form.axes])
    if not m.form.transposed:
        return kernel
    outs, ins, groups = m.form.out_channels, m.form.in_channels, m.form.groups
    w_goiT = kernel.reshape(groups, outs // groups, ins // groups, *kernel.shape[2:])
    w_IoT = w_goiT.transpose(1, 2).reshape(ins, outs // groups, *kernel.shape[2:])
    return w_IoT.flip(tuple(range(2, w_IoT.dim())))


def map_from_transposed(form: Form, weight: Tensor, bias: Tensor) -> AffineMap:
    """The map of a transposed convolution's weight [I, O/groups, *taps]; the inverse of `conv_weight`."""
    outs, ins, groups = form.out_channels, form.in_channels, form.groups
    w_gioT = weight.reshape(groups, ins // groups, outs // groups, *weight.shape[2:])
    kernel = w_gioT.transpose(1, 2).reshape(outs, ins // groups, *weight.shape[2:])
    return AffineMap(form, kernel.flip(tuple(range(2, kernel.dim()))), bias)
