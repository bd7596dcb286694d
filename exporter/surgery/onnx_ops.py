"""ONNX nodes as the ATen calls that compute the same: what the lifter knows of PyTorch it then knows of ONNX.

Each translation gets the node and returns the value of its first output, or None where the node is not of the plain
kind that has an ATen call of its own (dynamic weights, computed pads, "same" padding of a strided window).
"""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from torch import fx

aten = torch.ops.aten
FURTHEST = 1 << 12
PAD_MODES = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}
CONVS = {1: aten.conv1d.default, 2: aten.conv2d.default, 3: aten.conv3d.default}
TRANSPOSED_CONVS = {1: aten.conv_transpose1d.default, 2: aten.conv_transpose2d.input, 3: aten.conv_transpose3d.input}
POOLS = {1: aten.avg_pool1d.default, 2: aten.avg_pool2d.default, 3: aten.avg_pool3d.default}


class Scribe(Protocol):
    """Where a translation writes its calls."""

    def value(self, tensor: Any) -> fx.Node:
        """The value of an ONNX tensor."""

    def call(self, target: Any, *args: Any) -> fx.Node:
        """Add an ATen call."""

    def rank(self, tensor: Any) -> int | None:
        """How many axes the tensor has, or None."""


Translation = Callable[[Scribe, Any], fx.Node | None]
TRANSLATIONS: dict[str, Translation] = {}


def translates(*ops: str) -> Callable[[Translation], Translation]:
    """Register the translation of ONNX ops."""

    def register(function: Translation) -> Translation:
        TRANSLATIONS.update(dict.fromkeys(ops, function))
        return function

    return register


def is_absurd(node: Any) -> bool:
    """Whether a window strides, reaches or pads further than any map is wide: algebra counts in such steps."""
    return any(abs(n) > FURTHEST for name in ("strides", "dilations", "pads") for n in node.attrs.get(name) or [])


def known(tensor: Any) -> bool:
    """Whether the tensor is an initializer of floats."""
    return hasattr(tensor, "values") and not isinstance(tensor.dtype, int) and np.dtype(tensor.dtype).kind == "f"


def optional(node: Any, i: int) -> Any:
    """Input i of the node, or None where it is left out."""
    return node.inputs[i] if len(node.inputs) > i and not node.inputs[i].is_empty() else None


def integers(node: Any, i: int, attribute: str) -> list[int] | None:
    """Integers that newer opsets take as input i and older ones as an attribute; None where they are computed."""
    tensor = optional(node, i)
    if tensor is None:
        return [int(v) for v in node.attrs.get(attribute, [])]
    return [int(v) for v in np.asarray(tensor.values).reshape(-1)] if hasattr(tensor, "values") else None


def _pads(node: Any, taps: list[int], dilation: list[int], stride: list[int]) -> list[tuple[int, int]] | None:
    """(begin, end) per axis; None where they depend on the input's size."""
    rank = len(taps)
    auto = node.attrs.get("auto_pad", "NOTSET")
    if auto == "VALID":
        return [(0, 0)] * rank
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        if any(s != 1 for s in stride):
            return None
        total = [d * (k - 1) for d, k in zip(dilation, taps, strict=True)]
        return [(t // 2, t - t // 2) if auto == "SAME_UPPER" else (t - t // 2, t // 2) for t in total]
    pads = node.attrs.get("pads") or [0] * (2 * rank)
    return list(zip(pads[:rank], pads[rank:], strict=True))


def _padded(scribe: Scribe, x: fx.Node, pads: list[tuple[int, int]]) -> tuple[fx.Node, list[int]]:
    """x and the padding left to the op: an op of torch pads both ends alike."""
    uneven = [(0, 0) if begin == end else (begin, end) for begin, end in pads]
    own = [begin if begin == end else 0 for begin, end in pads]
    if not any(map(any, uneven)):
        return x, own
    flat = [p for pair in reversed(uneven) for p in pair]
    return scribe.call(aten.constant_pad_nd.default, x, flat, 0.0), own


@translates("Conv", "ConvTranspose")
def _conv(scribe: Scribe, node: Any) -> fx.Node | None:
    weight, bias = node.inputs[1], optional(node, 2)
    if not known(weight) or (bias is not None and not known(bias)) or node.attrs.get("output_shape"):
        return None
    if is_absurd(node):
        return None
    transposed = node.op == "ConvTranspose"
    taps = list(weight.shape[2:])
    stride, dilation = (list(node.attrs.get(name) or [1] * len(taps)) for name in ("strides", "dilations"))
    pads = _pads(node, taps, dilation, stride)
    if (
        pads is None
        or len(taps) not in CONVS
        or (transposed and (any(a != b for a, b in pads) or "SAME" in node.attrs.get("auto_pad", "")))
    ):
        return None
    x, own = _padded(scribe, scribe.value(node.inputs[0]), pads)
    w, b, group = scribe.value(weight), scribe.value(bias) if bias is not None else None, node.attrs.get("group", 1)
    if not transposed:
        return scribe.call(CONVS[len(taps)], x, w, b, stride, own, dilation, group)
    output_padding = list(node.attrs.get("output_padding") or [0] * len(taps))
    return scribe.call(TRANSPOSED_CONVS[len(taps)], x, w, b, stride, own, output_padding, group, dilation)


@translates("BatchNormalization")
def _batch_norm(scribe: Scribe, node: Any) -> fx.Node | None:
    if node.attrs.get("training_mode", 0) or not all(map(known, node.inputs[1:])):
        return None
    if any(len(t.shape) != 1 for t in node.inputs[1:]):
        return None  # before opset 9, spatial=0 normalizes each position by itself
    x, scale, shift, mean, var = map(scribe.value, node.inputs)
    eps = node.attrs.get("epsilon", 1e-5)
    return scribe.call(aten.batch_norm.default, x, scale, shift, mean, var, False, 0.0, eps, False)


@translates("Gemm")
def _gemm(scribe: Scribe, node: Any) -> fx.Node | None:
    """α·A·B + β·C for constant B and C."""
    weight, bias = node.inputs[1], optional(node, 2)
    if not known(weight) or node.attrs.get("transA", 0) or scribe.rank(node.inputs[0]) != 2:
        return None
    w = scribe.value(weight)
    w = w if node.attrs.get("transB", 0) else scribe.call(aten.t.default, w)
    if (alpha := node.attrs.get("alpha", 1.0)) != 1:
        w = scribe.call(aten.mul.Tensor, w, alpha)
    if bias is None:
        return scribe.call(aten.linear.default, scribe.value(node.inputs[0]), w, None)
    outs = weight.shape[0 if node.attrs.get("transB", 0) else 1]
    if not known(bias) or int(np.prod(bias.shape)) not in (1, outs) or (len(bias.shape) == 2 and bias.shape[0] != 1):
        return None
    b = scribe.call(aten.expand.default, scribe.call(aten.reshape.default, scribe.value(bias), [-1]), [outs])
    if (beta := node.attrs.get("beta", 1.0)) != 1:
        b = scribe.call(aten.mul.Tensor, b, beta)
    return scribe.call(aten.linear.default, scribe.value(node.inputs[0]), w, b)


@translates("MatMul")
def _matmul(scribe: Scribe, node: Any) -> fx.Node | None:
    x, weight = node.inputs
    if not known(weight) or len(weight.shape) != 2 or scribe.rank(x) != 2:
        return None
    w = scribe.call(aten.t.default, scribe.value(weight))
    return scribe.call(aten.linear.default, scribe.value(x), w, None)


def _elementwise(target: Any) -> Translation:
    def translate(scribe: Scribe, node: Any) -> fx.Node | None:
        return scribe.call(target, *map(scribe.value, node.inputs))

    return translate


for _op, _target in {
    "Add": aten.add.Tensor,
    "Sub": aten.sub.Tensor,
    "Mul": aten.mul.Tensor,
    "Div": aten.div.Tensor,
    "Neg": aten.neg.default,
    "Identity": aten.alias.default,
}.items():
    translates(_op)(_elementwise(_target))


@translates("Sum")
def _sum(scribe: Scribe, node: Any) -> fx.Node | None:
    total = scribe.value(node.inputs[0])
    for tensor in node.inputs[1:]:
        total = scribe.call(aten.add.Tensor, total, scribe.value(tensor))
    return total if len(node.inputs) > 1 else scribe.call(aten.alias.default, total)


@translates("Dropout")
def _dropout(scribe: Scribe, node: Any) -> fx.Node | None:
    training = optional(node, 2)
    if training is not None and not (hasattr(training, "values") and not np.any(training.values)):
        return None
    return scribe.call(aten.alias.default, scribe.value(node.inputs[0]))


@translates("LeakyRelu")
def _leaky_relu(scribe: Scribe, node: Any) -> fx.Node | None:
    return scribe.call(aten.leaky_relu.default, scribe.value(node.inputs[0]), node.attrs.get("alpha", 0.01))


@translates("PRelu")
def _prelu(scribe: Scribe, node: Any) -> fx.Node | None:
    slope = node.inputs[1]
    if not known(slope) or not np.all(np.asarray(slope.values) == 1):
        return None
    return scribe.call(aten.alias.default, scribe.value(node.inputs[0]))


@translates("AveragePool")
def _average_pool(scribe: Scribe, node: Any) -> fx.Node | None:
    taps = list(node.attrs["kernel_shape"])
    stride = list(node.attrs.get("strides") or [1] * len(taps))
    if is_absurd(node) or len(taps) not in POOLS or any(d != 1 for d in node.attrs.get("dilations") or []):
        return None
    pads = _pads(node, taps, [1] * len(taps), stride)
    ceil, counts = bool(node.attrs.get("ceil_mode", 0)), bool(node.attrs.get("count_include_pad", 0))
    if pads is None or (any(a != b for a, b in pads) and (ceil or not counts)):
        return None
    if any(2 * a > k for (a, b), k in zip(pads, taps, strict=True) if a == b):
        return None  # torch pads half a window at most
    x, own = _padded(scribe, scribe.value(node.inputs[0]), pads)
    return scribe.call(POOLS[len(taps)], x, taps, stride, own, ceil, counts)


@translates("Pad")
def _pad(scribe: Scribe, node: Any) -> fx.Node | None:
    rank = scribe.rank(node.inputs[0])
    pads, axes, fill = integers(node, 1, "pads"), integers(node, 3, "axes"), optional(node, 2)
    mode = node.attrs.get("mode", "constant")
    if rank is None or pads is None or axes is None or (fill is not None and not known(fill)):
        return None
    value = float(np.asarray(fill.values).reshape(())) if fill is not None else float(node.attrs.get("value", 0.0))
    ends = [(0, 0)] * rank
    for i, axis in enumerate(axes or range(rank)):
        ends[axis] = (pads[i], pads[i + len(pads) // 2])
    if any(ends[0]) or any(ends[1]) or (mode != "constant" and mode not in PAD_MODES):
        return None
    flat = [p for pair in reversed(ends[2:]) for p in pair]
    x = scribe.value(node.inputs[0])
    if mode == "constant":
        return scribe.call(aten.constant_pad_nd.default, x, flat, value)
    return scribe.call(aten.pad.default, x, flat, PAD_MODES[mode]) if min(flat) >= 0 else None


@translates("Concat")
def _concat(scribe: Scribe, node: Any) -> fx.Node | None:
    return scribe.call(aten.cat.default, [scribe.value(t) for t in node.inputs], node.attrs["axis"])


@translates("Slice")
def _slice(scribe: Scribe, node: Any) -> fx.Node | None:
    starts, ends = integers(node, 1, "starts"), integers(node, 2, "ends")
    axes, steps = integers(node, 3, "axes"), integers(node, 4, "steps")
    if starts is None or ends is None or axes is None or steps is None:
        return None
    x = scribe.value(node.inputs[0])
    for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
        step = steps[i] if steps else 1
        if step != 1 or start < 0:
            return None
        x = scribe.call(aten.slice.Tensor, x, axes[i] if axes else i, start, end, 1)
    return x
