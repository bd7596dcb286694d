"""Random weights under which every op of a network matters, for a network without a checkpoint."""

import contextlib
import math
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from ..parity.inputs import batch_of, has_batch, patchy

_Norm = nn.modules.batchnorm._BatchNorm
IMAGES, FEWEST, NUMBERS = 8, 2, 8 * 3 * 512**2
"""Random images that statistics are taken of: behind a global pool there is one number of each. Fewer large ones: as
many as have so many numbers together."""


@torch.no_grad()
def randomized(module: nn.Module, seed: int, example: Tensor | Mapping[str, Tensor] | None = None) -> nn.Module:
    """Give a network random weights and statistics, in place; returns it, in eval mode.

    Kernels N(0, 1/√fan_in), batch norms with γ U(½, 3/2) and β N(0, ½): a freshly initialized network has identity
    norms, which would hide an error in folding them. Their statistics are N(0, ½) and U(½, 2) or, given an `example`
    [N, C, …] of the input, what `IMAGES` random images of that size really have there, off by a little: the statistics
    of a trained network fit its data, and without that a deep one hardly depends on its input any more.
    """
    module.eval()
    generator = torch.Generator().manual_seed(seed)
    norms = [m for m in module.modules() if isinstance(m, _Norm)]
    of_norms = {id(p) for m in norms for p in m.parameters(recurse=False)}
    for parameter in module.parameters():
        if id(parameter) not in of_norms and parameter.is_floating_point():
            fan_in = math.prod(parameter.shape[1:]) if parameter.dim() > 1 else 4
            parameter.normal_(0, 1 / math.sqrt(fan_in), generator=generator)
    for norm in norms:
        if norm.affine:
            norm.weight.uniform_(0.5, 1.5, generator=generator)
            norm.bias.normal_(0, 0.5, generator=generator)
        if norm.running_mean is not None and norm.running_var is not None:
            norm.running_mean.normal_(0, 0.5, generator=generator)
            norm.running_var.uniform_(0.5, 2, generator=generator)
    if example is not None:
        examples = {"": example} if isinstance(example, Tensor) else example
        batch = batch_of(x.shape for x in examples.values())

        def run(count: int) -> None:
            rng = np.random.default_rng(seed)
            module(*(_images(x, rng, count) if has_batch(x.shape, batch) else x for x in examples.values()))

        with _fitting_statistics(norms):
            largest = max((x[0].numel() for x in examples.values() if has_batch(x.shape, batch)), default=1)
            try:
                run(min(max(NUMBERS // max(largest, 1), FEWEST), IMAGES))
            except Exception:  # whatever the code of a network raises that is made for its batch
                run(batch or 1)
    return module


def _images(example: Tensor, rng: np.random.Generator, count: int) -> Tensor:
    """So many random ones, or as many of the example's own integers."""
    shape = (count, *example.shape[1:])
    if example.is_floating_point():
        return torch.from_numpy(patchy(rng, shape)).to(example.dtype)
    return example[:1].expand(shape)


@contextlib.contextmanager
def _fitting_statistics(norms: list[_Norm]) -> Iterator[None]:
    """Within it, each batch norm that runs moves its statistics, once, to those of its input: μ + σ·mean, σ²·var."""
    done: set[int] = set()

    def fit(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, _Norm)
        if id(norm) in done or norm.running_mean is None or norm.running_var is None:
            return
        done.add(id(norm))
        axes = [axis for axis in range(inputs[0].dim()) if axis != 1]
        var, mean = torch.var_mean(inputs[0], dim=axes)
        var = var.clamp_min(float(var.mean()) * 1e-2 + 1e-12)  # a channel that hardly moves stays as good as constant
        norm.running_mean.mul_(var.sqrt()).add_(mean)
        norm.running_var.mul_(var)

    handles = [norm.register_forward_pre_hook(fit) for norm in norms]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
