"""The structure of affine, shift-equivariant maps between feature maps: which combine into one, and what they cost.

    y[o, p] = b[o] + Σ_{i,t} K[o, i, t] · x[i, (s·p + t) / u],     0 ≤ p < ⌊(u·H + e) / s⌋

for every spatial axis: taps t (a set of offsets), stride s, size law e, zero insertion u (terms whose index u does not
divide are absent), and an extension that says what x is outside 0 ≤ h < H. A convolution has the taps
dilation·k − pad; a transposed one has u = its stride; batch norm, dropout and identity have the one tap 0; average
pooling has equal weights; padding and cropping are a shifted identity. Composition is a Minkowski sum of taps, addition
a union, so dilation, 1×k, even kernels, asymmetric and circular padding need no case of their own.

A `Form` has no numbers: legality and cost are decided on forms alone.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, reduce

ZEROS, CIRCULAR, REFLECT, REPLICATE = "zeros", "circular", "reflect", "replicate"


class IllegalError(Exception):
    """Two maps do not combine into one: a stable code, what was found and the remedy."""

    def __init__(self, code: str, found: str, remedy: str) -> None:
        super().__init__(f"{code}: {found}; {remedy}")
        self.code, self.found, self.remedy = code, found, remedy


@dataclass(frozen=True)
class Axis:
    """One spatial axis of a map: sorted tap offsets, stride, size laws that all must agree, zero insertion, extension.

    Two branches of a sum may follow different laws (⌈H/2⌉ of a padded conv, ⌊H/2⌋ of a pool). The network then only
    runs where they agree, so legality is asked at those sizes alone. An axis that inserts zeros has stride 1; one that
    never reads outside has the extension "zeros".
    """

    taps: tuple[int, ...]
    stride: int = 1
    laws: frozenset[int] = frozenset({0})
    up: int = 1
    extension: str = ZEROS

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

    @property
    def pointwise(self) -> bool:
        """Position p reads position p alone, and there are as many of them."""
        return self.taps == (0,) and self.stride == self.up == 1 and self.laws == {0}

    @property
    def output_padding(self) -> int:
        """How much longer the output of a transposed convolution is than its taps and padding make it."""
        return min(self.laws) + self.up + 2 * self.taps[-1] - self.span - 1

    def size(self, size_in: int) -> int | None:
        """Output size for an input size, or None where the laws disagree (the network cannot run there)."""
        sizes = {(self.up * size_in + e) // self.stride for e in self.laws}
        return sizes.pop() if len(sizes) == 1 else None

    def sizes_in(self, at_least: int) -> list[int]:
        """The input sizes of one period from `at_least` on at which the map exists."""
        return [h for h in range(at_least, at_least + self.stride) if self.size(h) is not None]

    def period(self) -> list[int]:
        """Input sizes of one period at which the map exists, large enough for the two borders not to meet."""
        return self.sizes_in(4 * self.stride * (1 + max(map(abs, (*self.taps, *self.laws)))))

    def outside(self, size: int, positions: int) -> Iterable[int]:
        """The positions outside 0 … size−1 that the map reads when it computes `positions` outputs (u = 1)."""
        for t in self.taps:
            p = t
            while p < 0:
                yield p
                p += self.stride
            p = self.stride * (positions - 1) + t
            while p >= size:
                yield p
                p -= self.stride


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
    def transposed(self) -> bool:
        """Some axis inserts zeros."""
        return any(axis.up > 1 for axis in self.axes)

    @property
    def pointwise(self) -> bool:
        """A scale, shift, crop or pad per channel: there is no convolution in it."""
        return self.depthwise and all(len(axis.taps) == 1 and axis.stride == axis.up == 1 for axis in self.axes)

    def macs(self, sizes_out: Sequence[int]) -> int:
        """Multiply-accumulates of the convolution that computes the map, per sample. Per-channel scales count none.

        A convolution does all its taps at every output position, a transposed one at every input position; a Linear
        has no axes, and all axes beside its channels are positions.
        """
        if self.pointwise:
            return 0
        if not self.axes:
            return self.out_channels * (self.in_channels // self.groups) * math.prod(sizes_out)
        taps = math.prod(len(axis.box) for axis in self.axes)
        positions = [
            (size - min(axis.laws)) // axis.up if self.transposed else size
            for size, axis in zip(sizes_out, self.axes, strict=True)
        ]
        return self.out_channels * (self.in_channels // self.groups) * taps * math.prod(positions)


def identity_form(channels: int, rank: int) -> Form:
    """y = x."""
    return Form(channels, channels, channels, (IDENTITY_AXIS,) * rank, biased=False, identity=True)


def conv_axis(taps: int, stride: int, pad_begin: int, pad_end: int, dilation: int) -> Axis:
    """The axis of a convolution: ⌊(H + p₀ + p₁ − d(k−1) − 1)/s⌋ + 1 positions, taps −p₀ + d·k."""
    law = pad_begin + pad_end - dilation * (taps - 1) - 1 + stride
    return Axis(tuple(dilation * k - pad_begin for k in range(taps)), stride, frozenset({law}))


def transposed_axis(taps: int, stride: int, pad_begin: int, pad_end: int, dilation: int, output_pad: int) -> Axis:
    """The axis of a transposed convolution: x[q] meets y[s·q + d·k − p₀], so taps p₀ − d·k on the zero-inserted x."""
    law = dilation * (taps - 1) + 1 + output_pad - pad_begin - pad_end - stride
    return Axis(tuple(pad_begin - dilation * k for k in reversed(range(taps))), 1, frozenset({law}), up=stride)


def shift_axis(begin: int, end: int, extension: str = ZEROS) -> Axis:
    """The axis of a pad (> 0) or crop (< 0): y[p] = x[p − begin], H + begin + end positions."""
    return settled(Axis((-begin,), 1, frozenset({begin + end}), extension=extension))


@lru_cache(maxsize=65536)
def settled(axis: Axis) -> Axis:
    """The axis, with the extension "zeros" if it never reads outside."""
    if axis.extension == ZEROS:
        return axis
    for source in axis.period():
        out = axis.size(source)
        assert out is not None
        if any(True for _ in axis.outside(source, out)):
            return axis
    return replace(axis, extension=ZEROS)


@lru_cache(maxsize=65536)
def compose_axes(first: Axis, then: Axis) -> tuple[Axis, bool]:
    """`then` after `first` on one axis, and whether `then` reads zeros past the border of what lies between.

    Where it does, the composition is only the same map if `first`, extended there, would be zero too: no tap of
    `first` may see the source from such a position. The positions past the border repeat with the input size modulo
    s₁·s₂, so one period of large sizes decides for all sizes. Where `then` extends what lies between in another way,
    `first` must commute with that extension: a circular convolution of stride 1 does with the circular one, a map of
    the one tap 0 with any. Raises IllegalError (BORDER_WINDOW, EXTENSION, TRANSPOSED, SIZES).
    """
    if first.up > 1 or then.up > 1:
        if not (first if then.up > 1 else then).pointwise:
            raise IllegalError(
                "TRANSPOSED", "a transposed convolution beside one with several taps", "nothing to do: it stays"
            )
        return (then, True) if then.up > 1 else (first, False)
    taps = tuple(sorted({first.stride * t2 + t1 for t2 in then.taps for t1 in first.taps}))
    laws = frozenset(e1 + first.stride * e2 for e1 in first.laws for e2 in then.laws)
    axis = Axis(taps, first.stride * then.stride, laws, extension=first.extension)
    reach = max(map(abs, (*first.taps, *then.taps, *first.laws, *then.laws)))
    large = 4 * first.stride * then.stride * (reach + 1)
    sizes = [size for size in axis.sizes_in(large) if first.size(size) is not None]
    if not sizes:
        raise IllegalError("SIZES", "the branches never have the same size", "check the network's strides and padding")
    if then.extension != ZEROS:
        if not _commutes(first, then.extension):
            raise IllegalError(
                "EXTENSION",
                f"a {then.extension}-padded op follows one that does not commute with that padding",
                "pad once before both, or leave them apart",
            )
        return settled(replace(axis, extension=then.extension)), False
    past_border = False
    for source in sizes:
        between, out = first.size(source), axis.size(source)
        assert between is not None and out is not None
        for p in then.outside(between, out):
            past_border = True
            if first.extension != ZEROS or any(0 <= first.stride * p + t < source for t in first.taps):
                raise IllegalError(
                    "BORDER_WINDOW",
                    f"at input size {source} a zero-padded op reads past the border of a map that is not zero there",
                    "remove the padding, or leave the two convs apart",
                )
    return settled(axis), past_border


def _commutes(first: Axis, extension: str) -> bool:
    """Whether extending the output of `first` is what `first` gives on the extended input."""
    if first.pointwise:
        return True
    return first.extension == extension == CIRCULAR and first.stride == 1 and first.laws == {0}


def compose_forms(first: Form, then: Form) -> Form:
    """`then` after `first`: taps add up, strides multiply, groups = gcd. Raises IllegalError if it is not one map."""
    pairs = [compose_axes(a, b) for a, b in zip(first.axes, then.axes, strict=True)]
    if first.biased and any(past_border for _, past_border in pairs):
        inserts = then.transposed
        raise IllegalError(
            "BORDER_BIAS",
            f"a {'transposed' if inserts else 'zero-padded'} op follows a bias or a batch norm's shift, which "
            + ("the zeros it inserts do not have" if inserts else "the padding erases at the border"),
            "leave the two apart" if inserts else "pad before the bias, or leave the two apart",
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
    axes = tuple(_union_axes(along) for along in zip(*(f.axes for f in forms), strict=True))
    outs = sum(f.out_channels for f in forms)
    return Form(outs, forms[0].in_channels, 1, axes, any(f.biased for f in forms))


@lru_cache(maxsize=65536)
def _union_axes(along: tuple[Axis, ...]) -> Axis:
    first = along[0]
    if len({(axis.stride, axis.up) for axis in along}) > 1:
        raise IllegalError("STRIDES", "branches with different strides", "merge each branch on its own")
    extensions = {axis.extension for axis in along if axis.extension != ZEROS}
    if extensions and (len(extensions) > 1 or any(axis.extension == ZEROS and _reads_outside(axis) for axis in along)):
        modes = ", ".join(sorted({axis.extension for axis in along}))
        raise IllegalError("EXTENSION", f"branches padded in different ways ({modes})", "pad all branches alike")
    taps = tuple(sorted({t for axis in along for t in axis.taps}))
    laws = frozenset[int]().union(*(axis.laws for axis in along))
    axis = Axis(taps, first.stride, laws, first.up, extensions.pop() if extensions else ZEROS)
    if not axis.period() or (axis.up > 1 and len(laws) > 1):
        raise IllegalError("SIZES", "the branches never have the same size", "check strides and padding")
    if axis.up > 1 and not 0 <= axis.output_padding < max(axis.up, axis.dilation):
        raise IllegalError("TRANSPOSED", "no one transposed convolution has these taps", "nothing to do: they stay")
    return axis


def _reads_outside(axis: Axis) -> bool:
    return settled(replace(axis, extension=CIRCULAR)).extension == CIRCULAR
