"""The least time that a network can take: each layer's bytes and MACs at what this card does at most."""

import functools
from dataclasses import dataclass
from typing import Any

from conditions import milliseconds

SIZE = 8192


@dataclass(frozen=True)
class Ceilings:
    """Bytes and, by precision, MACs in a millisecond."""

    bytes: float
    macs: dict[str, float]

    @property
    def words(self) -> str:
        """In the usual units."""
        rates = ", ".join(f"{name} {macs * 2 / 1e9:.0f} TFLOP/s" for name, macs in self.macs.items())
        return f"{self.bytes / 1e6:.0f} GB/s, {rates}"


@functools.cache
def ceilings() -> Ceilings:
    """By a copy of 1 GiB and products of two matrices of 8192²."""
    import torch

    source, target = (torch.empty(1 << 28, device="cuda") for _ in range(2))
    copied = 2 * source.nbytes / milliseconds(lambda: target.copy_(source))
    macs = {}
    for name, dtype in (("fp32", torch.float32), ("tf32", torch.float32), ("fp16", torch.float16)):
        torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
        a = torch.randn(SIZE, SIZE, device="cuda", dtype=dtype)
        macs[name] = SIZE**3 / milliseconds(lambda a=a: a @ a)
    return Ceilings(copied, macs)


def floor(module: Any, x: Any, precision: str) -> float:
    """Milliseconds: of each conv or matrix product the larger of its bytes' and its MACs' time, summed."""
    import torch

    most, total = ceilings(), [0.0]

    def layer(own: Any, inputs: Any, output: Any) -> None:
        weight = own.weight
        macs = output.numel() * weight[0].numel()
        moved = inputs[0].nbytes + output.nbytes + weight.nbytes
        total[0] += max(moved / most.bytes, macs / most.macs[precision])

    layers = [own for own in module.modules() if isinstance(own, (torch.nn.Conv2d, torch.nn.Linear))]
    hooks = [own.register_forward_hook(layer) for own in layers]
    module(x)
    for hook in hooks:
        hook.remove()
    return total[0]
