"""The algebra of affine maps against torch's own convolutions, in float64."""

from dataclasses import replace

import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from plainconv.exporter.reparam.affine import (
    AffineMap,
    add,
    compose,
    concat,
    conv_weight,
    identity_map,
    regrouped,
)
from plainconv.exporter.reparam.forms import (
    CIRCULAR,
    REFLECT,
    REPLICATE,
    ZEROS,
    Axis,
    Form,
    IllegalError,
    conv_axis,
    settled,
    transposed_axis,
)
from plainconv.exporter.reparam.geometry import conv_geometry

CHANNELS = 4
EXACT = 1e-12


@st.composite
def convs(draw: st.DrawFn, rank: int = 2, padded: bool = True, extensions: tuple[str, ...] = (ZEROS,)) -> AffineMap:
    """A random convolution 4 → 4 with its own taps, stride, padding, dilation, groups and extension per axis."""
    axes, shape = [], []
    for _ in range(rank):
        taps, stride, dilation = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 2))
        begin, end = (draw(st.integers(0, 2)), draw(st.integers(0, 2))) if padded else (0, 0)
        axis = conv_axis(taps, stride, begin, end, dilation)
        axes.append(settled(replace(axis, extension=draw(st.sampled_from(extensions)))))
        shape.append(taps)
    return numbered(draw, axes, shape)


@st.composite
def transposed(draw: st.DrawFn) -> AffineMap:
    """A random transposed convolution 4 → 4."""
    axes, shape = [], []
    up = draw(st.integers(2, 3))
    for _ in range(2):
        taps, dilation, pad = draw(st.integers(1, 4)), draw(st.integers(1, 2)), draw(st.integers(0, 2))
        axes.append(transposed_axis(taps, up, pad, pad, dilation, draw(st.integers(0, up - 1))))
        shape.append(taps)
    return numbered(draw, axes, shape)


def numbered(draw: st.DrawFn, axes: list[Axis], shape: list[int]) -> AffineMap:
    """Random numbers for the form."""
    groups = draw(st.sampled_from([1, 2, 4]))
    biased = draw(st.booleans())
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    kernel = torch.randn(CHANNELS, CHANNELS // groups, *shape, dtype=torch.float64, generator=generator)
    bias = torch.randn(CHANNELS, dtype=torch.float64, generator=generator) * biased
    return AffineMap(Form(CHANNELS, CHANNELS, groups, tuple(axes), biased), kernel, bias)


ALL = (ZEROS, CIRCULAR, REFLECT, REPLICATE)


def apply(m: AffineMap, x: Tensor) -> Tensor:
    """The map by its definition: its source extended, zeros put between, and the taps of every output weighted."""
    far = 12
    wide = x
    for d, axis in enumerate(m.form.axes):
        wide = extended(wide, 2 + d, far, axis)
    for d, (axis, h) in enumerate(zip(m.form.axes, x.shape[2:], strict=True)):
        size = axis.size(h)
        assert size is not None
        read = far + axis.stride * torch.arange(size)[:, None] + torch.tensor(axis.taps)  # positions × taps
        wide = wide.index_select(2 + 2 * d, read.flatten()).unflatten(2 + 2 * d, read.shape)
    windows, kernel = wide.unflatten(1, (m.form.groups, -1)), m.kernel.unflatten(0, (m.form.groups, -1))
    weighted = {1: "ngcpt,goct->ngop", 2: "ngcptqs,gocts->ngopq"}[len(m.form.axes)]
    out = torch.einsum(weighted, windows, kernel).flatten(1, 2)
    return out + m.bias.reshape(-1, *(1,) * len(m.form.axes))


def extended(x: Tensor, dim: int, far: int, axis: Axis) -> Tensor:
    """x with `far` positions more at both ends of an axis, and u − 1 zeros between any two of its own."""
    size = x.shape[dim]
    if axis.up > 1:
        shape = (*x.shape[:dim], axis.up * size, *x.shape[dim + 1 :])
        x = x.new_zeros(shape).index_copy_(dim, axis.up * torch.arange(size), x)
        size *= axis.up
    places = torch.arange(-far, size + far)
    inside = {
        ZEROS: places.clamp(0, size - 1),
        REPLICATE: places.clamp(0, size - 1),
        CIRCULAR: places % size,
        REFLECT: (size - 1) - ((size - 1) - places % (2 * size - 2)).abs(),
    }[axis.extension]
    there = (places >= 0) & (places < size) | (axis.extension != ZEROS)
    return x.index_select(dim, inside) * there.reshape(-1, *(1,) * (x.dim() - dim - 1))


def as_conv(m: AffineMap, x: Tensor) -> Tensor:
    """The map as the one convolution that is exported."""
    geometry = conv_geometry(m.form)
    for extend in geometry.extends:
        x = F.pad(x, extend.pads, extend.mode)
    rank = len(m.form.axes)
    if m.form.transposed:
        up = [axis.up for axis in m.form.axes]
        transposed = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}[rank]
        own = (geometry.padding, geometry.output_padding, m.form.groups, geometry.dilations)
        return transposed(x, conv_weight(m), m.bias, up, *own)
    strides = [axis.stride for axis in m.form.axes]
    conv = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[rank]
    return conv(x, conv_weight(m), m.bias, strides, geometry.padding, geometry.dilations, m.form.groups)


def image(*size: int) -> Tensor:
    return torch.randn(2, CHANNELS, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool((a - b).abs().max() <= EXACT * (1 + b.abs().max()))


def runs(m: AffineMap, *size: int) -> bool:
    """At that size the map exists and has outputs."""
    return all((axis.size(h) or 0) > 0 for axis, h in zip(m.form.axes, size, strict=True))


@given(convs(extensions=ALL), st.integers(7, 11), st.integers(7, 11))
def test_a_map_is_the_convolution_it_is_exported_as(m: AffineMap, height: int, width: int) -> None:
    assume(runs(m, height, width))
    assert same(as_conv(m, image(height, width)), apply(m, image(height, width)))


@given(convs(rank=1, extensions=ALL), convs(rank=1, extensions=ALL), st.integers(9, 24))
def test_a_legal_composition_holds_at_every_size(first: AffineMap, then: AffineMap, size: int) -> None:
    try:
        both = compose(first, then)
    except IllegalError:
        return
    assume(runs(first, size) and runs(both, size))
    x = image(size)
    try:
        chain = as_conv(then, as_conv(first, x))
    except RuntimeError:  # the map between is too small to be padded so
        return
    assert same(as_conv(both, x), chain)


@given(transposed(), st.integers(2, 6), st.integers(2, 6))
def test_a_transposed_map_is_the_transposed_convolution(m: AffineMap, height: int, width: int) -> None:
    assume(runs(m, height, width) and all(p >= 0 for p in conv_geometry(m.form).output_padding))
    x = image(height, width)
    assert same(as_conv(m, x), apply(m, x))


@given(transposed(), convs(padded=False), st.integers(2, 6))
def test_a_transposed_map_takes_what_is_pointwise_around_it(m: AffineMap, other: AffineMap, size: int) -> None:
    assume(runs(m, size, size))
    x = image(size, size)
    for first, then in ((m, other), (other, m)):
        try:
            both = compose(first, then)
        except IllegalError as error:
            assert error.code in ("TRANSPOSED", "BORDER_BIAS")
            continue
        assert same(as_conv(both, x), as_conv(then, as_conv(first, x)))


@given(transposed(), transposed(), st.integers(2, 6))
def test_transposed_branches_add_up(a: AffineMap, b: AffineMap, size: int) -> None:
    try:
        both = add([a, b], [1.0, -2.0])
    except IllegalError as error:
        assert error.code in ("STRIDES", "SIZES", "TRANSPOSED")
        return
    assume(runs(both, size, size))
    x = image(size, size)
    assert same(as_conv(both, x), as_conv(a, x) - 2 * as_conv(b, x))


@given(convs(rank=1, extensions=ALL), convs(rank=1, extensions=ALL), st.integers(9, 24))
def test_branches_padded_alike_add_up_and_others_are_refused(a: AffineMap, b: AffineMap, size: int) -> None:
    try:
        both = add([a, b], [1.0, 1.0])
    except IllegalError as error:
        assert error.code in ("STRIDES", "SIZES", "EXTENSION")
        return
    assume(runs(both, size))
    assert same(as_conv(both, image(size)), as_conv(a, image(size)) + as_conv(b, image(size)))


@given(convs(rank=1), convs(rank=1))
def test_a_refused_composition_is_wrong_at_some_size(first: AffineMap, then: AffineMap) -> None:
    """Somewhere `then` reads past the border, where `first` evaluated there is not the zero of the padding."""
    try:
        compose(first, then)
        return
    except IllegalError as error:
        assert error.code in ("BORDER_BIAS", "BORDER_WINDOW")
    one, two = first.form.axes[0], then.form.axes[0]
    far = 12
    differs = False
    for size in range(60, 60 + one.stride * two.stride):
        between = apply(first, image(size))
        positions = two.size(between.shape[2])
        assert positions is not None
        extended = apply(first, F.pad(image(size), (far * one.stride, far * one.stride)))
        zeros = F.pad(between, (far, far))
        read = torch.tensor([two.stride * q + t + far for q in range(positions) for t in two.taps])
        error = (extended - zeros)[:, :, read].abs().amax((0, 1))
        differs = differs or bool((error > EXACT * (1 + zeros[:, :, read].abs().amax((0, 1)))).any())
    assert differs


@given(convs(padded=False), convs(padded=False), convs(padded=False))
def test_composition_is_associative(a: AffineMap, b: AffineMap, c: AffineMap) -> None:
    left, right = compose(compose(a, b), c), compose(a, compose(b, c))
    assert left.form == right.form
    assert same(left.kernel, right.kernel) and same(left.bias, right.bias)


@given(convs())
def test_identity_is_neutral(m: AffineMap) -> None:
    identity = identity_map(CHANNELS, 2)
    for both in (compose(identity, m), compose(m, identity)):
        assert both.form.axes == m.form.axes and both.form.groups == m.form.groups
        assert same(both.kernel, m.kernel) and same(both.bias, m.bias)


@given(convs(), st.sampled_from([1, 2, 4]))
def test_regrouping_is_neutral(m: AffineMap, groups: int) -> None:
    """Given the kernel for fewer groups → Result the same map, in sums and in compositions too."""
    assume(m.form.groups % groups == 0 and runs(m, 11, 11))
    wider = AffineMap(replace(m.form, groups=groups), regrouped(m.kernel, m.form, groups), m.bias)
    x = image(11, 11)
    assert same(as_conv(wider, x), as_conv(m, x))
    twice = AffineMap(replace(m.form, groups=1), regrouped(wider.kernel, wider.form, 1), m.bias)
    assert same(twice.kernel, regrouped(m.kernel, m.form, 1))


@given(convs(padded=False), convs(padded=False))
def test_addition_commutes_and_concat_stacks(a: AffineMap, b: AffineMap) -> None:
    try:
        one, other = add([a, b], [1.0, -2.0]), add([b, a], [-2.0, 1.0])
        stacked = concat([a, b])
    except IllegalError as error:
        assert error.code in ("STRIDES", "SIZES")
        return
    assert one.form == other.form and same(one.kernel, other.kernel)
    size = next((h for h in range(11, 20) if runs(one, h, h)), None)
    assume(size is not None)
    x = image(size, size)
    assert same(as_conv(one, x), as_conv(a, x) - 2 * as_conv(b, x))
    assert same(as_conv(stacked, x), torch.cat([as_conv(a, x), as_conv(b, x)], 1))


@given(convs(padded=False), convs(padded=False), convs(padded=False))
def test_composition_distributes_over_addition(a: AffineMap, b: AffineMap, then: AffineMap) -> None:
    try:
        left = compose(add([a, b], [1.0, 1.0]), then)
        right = add([compose(a, then), compose(b, then)], [1.0, 1.0])
    except IllegalError:
        return
    bias_once = AffineMap(right.form, right.kernel, right.bias - then.bias)
    assert same(left.kernel, bias_once.kernel) and same(left.bias, bias_once.bias)


def test_a_2x2_stride_2_conv_under_a_padded_3x3_is_refused_for_its_odd_sizes() -> None:
    first = AffineMap(
        Form(4, 4, 1, (conv_axis(2, 2, 0, 0, 1),) * 2, False), torch.randn(4, 4, 2, 2).double(), torch.zeros(4).double()
    )
    then = AffineMap(
        Form(4, 4, 1, (conv_axis(3, 1, 1, 1, 1),) * 2, False), torch.randn(4, 4, 3, 3).double(), torch.zeros(4).double()
    )
    try:
        compose(first, then)
    except IllegalError as error:
        assert error.code == "BORDER_WINDOW" and "input size" in error.found
    else:
        raise AssertionError("merged, though it is wrong at odd sizes")
