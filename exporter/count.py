"""What a network costs: parameters, multiply-accumulates, and the longest sum that it computes.

A multiply-accumulate (MAC) is one product of a weight and a value, added: VanillaNet's "FLOPs" are MACs, ParNet's are
twice that. Convolutions, matrix products and Linears count; elementwise ops and pools do not.
"""

import contextlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from .errors import ReparamError, first_line
from .kept import as_it_was

aten = torch.ops.aten
_PRODUCTS = {aten.mm, aten.addmm, aten.bmm, aten.baddbmm}
_MEANS = {aten.mean, aten.sum, aten._adaptive_avg_pool2d, aten.avg_pool2d}


@dataclass(frozen=True)
class Cost:
    """Of a network at one input size, for the batch given.

    `longest_sum` is the most terms that one value of a convolution, matrix product, mean or sum adds up.
    """

    parameters: int
    macs: int
    longest_sum: int = 1


def count_module(module: nn.Module, example: Tensor | tuple[Tensor, ...]) -> Cost:
    """Parameters, and MACs of one forward of `example`; nothing is computed, unless the module says that it must be.

    Raises ReparamError where the forward needs the values it computes, as data-dependent control flow does.
    """
    examples = example if isinstance(example, tuple) else (example,)
    parameters = sum(p.numel() for p in module.parameters())
    fake = None if getattr(module, "needs_values", False) else FakeTensorMode(allow_non_fake_inputs=True)
    with as_it_was(module), fake or contextlib.nullcontext(), torch.no_grad():
        inputs = examples if fake is None else tuple(fake.from_tensor(t) for t in examples)
        with FlopCounterMode(display=False) as counter, _LongestSum() as sums:
            try:
                module(*inputs)
            except Exception as error:
                raise ReparamError(
                    f"{type(module).__name__} cannot be traced ({first_line(error)}); "
                    "it needs a forward without data-dependent control flow"
                ) from error
    return Cost(parameters, counter.get_total_flops() // 2, sums.terms)


class _LongestSum(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps the largest number of terms that an operation adds up for one value of its result."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.terms = 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        op = func.overloadpacket
        if op is aten.convolution:
            self.terms = max(self.terms, args[1][0].numel())
        elif op in _PRODUCTS:
            self.terms = max(self.terms, args[-1].shape[-2])
        elif op in _MEANS and result.numel():
            self.terms = max(self.terms, args[0].numel() // result.numel())
        return result
