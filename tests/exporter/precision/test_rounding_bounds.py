"""Random networks in every precision: no further off than the type's unit roundoff and the magnitudes summed allow.

Each value v is carried in float64 beside a bound e of what its typed twin is off by:

    rounded to a float type     e' = e + u·(|v| + e) + η         u the unit roundoff, η half the least subnormal
    rounded to int8 by s        e' = e + s/2                     clipping to a range that holds v takes nothing away
    rounded to fp8 by s         e' = e + max(2⁻⁴·(|v| + e), 2⁻¹⁰·s)
    conv, with n terms          e' = (|x| + eₓ)∗(|w| + e_w) − |x|∗|w| + e_b + n·2⁻²⁴·M
    sum                         e' = e₁ + e₂ + 2⁻²⁴·M

M is the sum of the magnitudes that are added up, (|x| + eₓ)∗(|w| + e_w) + |b| + e_b for a conv.
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import pytest
import torch
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import conv2d

from plainconv.exporter.precision import NAMES, precision_of_name
from plainconv.exporter.precision.calibrate import ranges_of
from plainconv.exporter.precision.formats import FLOATS, QUANTIZED
from plainconv.exporter.precision.narrow import narrow
from plainconv.exporter.precision.quantize import quantize
from plainconv.exporter.precision.run import run_of

U32 = 2.0**-24
UNIT = {"fp32": (U32, 2.0**-150), "fp16": (2.0**-11, 2.0**-25), "bf16": (2.0**-8, 2.0**-134)}
"""Unit roundoff, and half the least subnormal."""


@dataclass(frozen=True)
class Value:
    """What a value is in float64, and how far its typed twin may be from it."""

    exact: torch.Tensor
    off: torch.Tensor

    @property
    def most(self):
        return self.exact.abs() + self.off


def rounded(value, rest):
    u, least = UNIT[rest]
    return Value(value.exact, value.off + u * value.most + least)


def quantized(value, kind, rest, dims):
    """As Q and DQ leave it: the scale is the largest magnitude's, along `dims`, rounded up to a number of `rest`."""
    u, least = UNIT[rest]
    largest = value.exact.abs().amax(dims, keepdim=True) * (1 + 64 * U32)  # as found in float32, of a few sums
    scale = largest / QUANTIZED[kind].largest * (1 + 2 * u + U32) + 2 * least
    scale = torch.where(largest > 0, scale, 1.0)
    own = (
        scale * (0.5 + 2.0**-16)
        if kind == "int8"
        else torch.maximum(value.most / 16, scale * 2.0**-10) * (1 + 2.0**-16)
    )
    return rounded(Value(value.exact, value.off + own), rest)


def conved(x, w, b, rest, **options):
    exact = conv2d(x.exact, w.exact, b.exact, **options)
    most = conv2d(x.most, w.most, b.most, **options)
    spread = most - conv2d(x.exact.abs(), w.exact.abs(), b.exact.abs(), **options)
    terms = w.exact[0].numel() + 1
    return rounded(Value(exact, spread + terms * U32 * most + 1e-12 * most), rest)


@st.composite
def networks(draw):
    """A list of layers, each (channels, kernel, stride, padding, groups, relu, residual), and a seed."""
    channels, size, layers = 4, 8, []
    for _ in range(draw(st.integers(1, 4))):
        kernel, stride = draw(st.integers(1, 3)), draw(st.integers(1, 2))
        padding = draw(st.integers(0, kernel // 2))
        after = (size + 2 * padding - kernel) // stride + 1
        if after < 1:
            break
        groups = draw(st.sampled_from([g for g in (1, 2, 4) if channels % g == 0]))
        wide = groups * draw(st.integers(1, 2)) * (1 if channels > 4 else draw(st.sampled_from([1, 2])))
        same = (wide, after) == (channels, size)
        layers.append((wide, kernel, stride, padding, groups, draw(st.booleans()), same and draw(st.booleans())))
        channels, size = wide, after
    return layers, draw(st.integers(0, 1000)), draw(st.sampled_from([1e-3, 1.0, 30.0]))


@pytest.mark.parametrize("name", NAMES[1:])
@settings(max_examples=examples(20))
@given(networks())
def test_error_is_within_what_the_types_allow(made, checked, signature, name, network):
    """Given convs of any groups, stride and kernel, with ReLUs and residuals → valid, same outside, within bounds."""
    layers, seed, size = network
    precision = precision_of_name(name)
    kind, rest = precision.quantized, precision.rest
    rng = np.random.default_rng(seed)
    images = (rng.standard_normal((2, 4, 8, 8)) * size).astype(np.float32)

    text, weights, last, channels = "", {}, "x", 4
    value = Value(torch.tensor(images).double(), torch.zeros(images.shape, dtype=torch.float64))
    value = value if kind else rounded(value, rest)
    for i, (wide, kernel, stride, padding, groups, relu, residual) in enumerate(layers):
        shape = (wide, channels // groups, kernel, kernel)
        weights[f"w{i}"] = (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
        weights[f"b{i}"] = (rng.standard_normal(wide) * 0.1).astype(np.float32)
        text += (
            f"c{i} = Conv<strides=[{stride},{stride}], pads=[{padding},{padding},{padding},{padding}], "
            f"group={groups}>({last}, w{i}, b{i}) "
        )
        w, b = (torch.tensor(weights[f"{letter}{i}"]).double() for letter in "wb")
        w, b = Value(w, 0 * w), rounded(Value(b, 0 * b), rest)
        w = quantized(w, kind, rest, (1, 2, 3)) if kind else rounded(w, rest)
        x = quantized(value, kind, rest, (0, 1, 2, 3)) if kind else value
        made_of = conved(x, w, b, rest, stride=stride, padding=padding, groups=groups)
        name_of = f"c{i}"
        if relu:
            text += f"r{i} = Relu(c{i}) "
            made_of, name_of = Value(made_of.exact.relu(), made_of.off), f"r{i}"
        if residual:
            text += f"s{i} = Add({name_of}, {last}) "
            value = rounded(value, rest) if i == 0 else value  # the network's input, narrowed here
            total = Value(made_of.exact + value.exact, made_of.off + value.off)
            made_of = rounded(Value(total.exact, total.off + U32 * (made_of.most + value.most)), rest)
            name_of = f"s{i}"
        value, last, channels = made_of, name_of, wide
    text += f"y = Identity({last})"

    model = made(f"(float[2,4,8,8] x) => (float[{','.join(map(str, value.exact.shape))}] y) {{ {text} }}", weights)
    before = signature(model)
    if kind:
        quantize(
            model,
            QUANTIZED[kind],
            ranges_of(model, {"x": images}, "minmax", 2),
            rest=FLOATS.get(rest, ir.DataType.FLOAT),
        )
    if rest != "fp32":
        narrow(model, FLOATS[rest])
    checked(model)
    assert signature(model) == before
    off = np.abs(run_of(model)(images)[0].astype(np.float64) - value.exact.numpy())
    assert (off <= value.off.numpy()).all()
