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
from torch.utils.flop_counter import flop_registry

from .errors import ReparamError, first_line
from .kept import as_it_was
from .modes import DispatchMode

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
    """Parameters, and MACs of one forward of `example`; nothing is computed, unless the module says that it should be.

    Raises ReparamError where the forward needs the values it computes, as data-dependent control flow does.
    """
    examples = example if isinstance(example, tuple) else (example,)
    parameters = sum(p.numel() for p in module.parameters())
    computes = getattr(module, "computes", None)
    fake = None if computes is not None and computes(*examples) else FakeTensorMode(allow_non_fake_inputs=True)
    with as_it_was(module), fake or contextlib.nullcontext(), torch.no_grad():
        inputs = examples if fake is None else tuple(fake.from_tensor(t) for t in examples)
        with _Counter() as counter:
            try:
                module(*inputs)
            except Exception as error:
                raise ReparamError(
                    f"{type(module).__name__} cannot be traced ({first_line(error)}); "
                    "it needs a forward without data-dependent control flow"
                ) from error
    return Cost(parameters, counter.macs, counter.terms)


class _Counter(DispatchMode):
    """Adds up multiply-accumulates; keeps the largest number of terms that an operation adds up for one value."""

    def __init__(self) -> None:
        super().__init__()
        self.macs, self.terms = 0, 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, op = kwargs or {}, func.overloadpacket
        if op not in flop_registry and func.namespace == "aten":  # a composite op may be made of what counts
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        if op in flop_registry:
            self.macs += flop_registry[op](*args, **kwargs, out_val=result) // 2
        if op is aten.convolution:
            self.terms = max(self.terms, args[1][0].numel())
        elif op in _PRODUCTS:
            self.terms = max(self.terms, args[-1].shape[-2])
        elif op in _MEANS and result.numel():
            self.terms = max(self.terms, args[0].numel() // result.numel())
        return result
