"""At what scale a network takes its inputs, where it normalizes them itself.

Given   y = a·x + b, all that is done to an input before its first layer: subtract a mean, divide by a deviation or by
        255, scale and shift by a batch norm, change the type, the order of axes or of channels
Result  x = (n − b) / a for normal n: with mean −b/a and standard deviation 1/|a|, over all elements
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from ..kept import as_it_was
from ..modes import DispatchMode
from .inputs import Scale

aten = torch.ops.aten
_MOVED = {
    aten.alias, aten.clone, aten.detach, aten._to_copy, aten.permute, aten.transpose, aten.t, aten.view, aten.flip,
    aten.reshape, aten._unsafe_view, aten.unsqueeze, aten.squeeze, aten.contiguous, aten.index_select, aten.expand,
    aten.slice, aten.constant_pad_nd, aten.cat, aten.pixel_unshuffle,
}  # fmt: skip
_LAYERS = {aten.convolution, aten.linear, aten.addmm, aten.mm, aten.bmm, aten.matmul, aten._convolution, aten.conv2d}
_SCALED = {aten.add, aten.sub, aten.rsub, aten.mul, aten.div, aten.neg}
_NORMS = {aten.native_batch_norm, aten._native_batch_norm_legit_no_training, aten.batch_norm}
_LARGEST = 1e6


@torch.no_grad()
def own_scales(module: nn.Module, examples: dict[str, Tensor]) -> dict[str, Scale]:
    """For each float input the scale that `module`, called with all of them, takes it at; those of scale 1 left out."""
    at = []
    for value in (0.0, 1.0):
        inputs = [torch.full_like(x, value) if x.is_floating_point() else x for x in examples.values()]
        watch = _Watch({i: x for i, x in enumerate(inputs) if x.is_floating_point()})
        try:
            with as_it_was(module), watch:
                module(*inputs)
        except Exception:  # ours, which the network may have put into its own, or whatever it makes of such an image
            if watch.waiting:
                return {}
        at.append(watch.seen)
    found = {}
    for i, name in enumerate(examples):
        if i in at[0] and i in at[1]:
            b, a = at[0][i], at[1][i] - at[0][i]
            a, b = a[a != 0], b[a != 0]  # but for what was padded
            if a.numel() and bool(torch.isfinite(b / a).all()):
                mean, std = float((-b / a).mean()), float((1 / a.abs()).mean())
                near = abs(mean) < 1e-6 and abs(std - 1) < 1e-6
                if not near and max(abs(mean), std, 1 / std) < _LARGEST:
                    found[name] = Scale(mean, std)
    return found


class _SeenError(Exception):
    """Every input has come to its first layer."""


class _Watch(DispatchMode):
    """Follows inputs through what only scales and moves them; `seen` is each as its first layer gets it."""

    def __init__(self, inputs: dict[int, Tensor]) -> None:
        super().__init__()
        self.seen: dict[int, Tensor] = {}
        self.waiting = set(inputs)
        self._of = {id(x): (i, x) for i, x in inputs.items()}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        leaves = [t for t in tree_flatten((args, kwargs or {}))[0] if isinstance(t, Tensor)]
        followed = [self._of[id(t)] for t in leaves if id(t) in self._of]
        result = func(*args, **(kwargs or {}))
        if not followed:
            return result
        (i, x), op = followed[0], func.overloadpacket
        alone = len(followed) == 1 or (op is aten.cat and {k for k, _ in followed} == {i})
        only = alone and not (op is aten.div and args[0] is not x)
        y = result[0] if isinstance(result, (tuple, list)) and result else result
        is_eval = op is not aten.native_batch_norm or not args[5]
        if only and isinstance(y, Tensor) and (op in _MOVED | _SCALED or (op in _NORMS and is_eval)):
            self._of[id(y)] = (i, y)
        elif i in self.waiting:
            if op in _LAYERS:
                self.seen[i] = x.double()
            self.waiting.discard(i)
            if not self.waiting:
                raise _SeenError
        return result
