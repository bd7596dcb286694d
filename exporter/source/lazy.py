"""Layers that learn their shape from their first input."""

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ..errors import SourceError, first_line


def materialize(module: nn.Module, shape: tuple[int, ...], seed: int) -> tuple[str, ...]:
    """Run `module` once if any of its layers is lazy, which gives these random weights; a warning where it did.

    Raises SourceError where it does not run on zeros of `shape`.
    """
    lazy = [name for name, tensor in (*module.named_parameters(), *module.named_buffers()) if is_lazy(tensor)]
    if not lazy:
        return ()
    try:
        with torch.random.fork_rng(devices=()), torch.no_grad():
            torch.manual_seed(seed)
            module(torch.zeros(shape))
    except Exception as error:  # whatever the network's own code raises
        sizes = ",".join(map(str, shape))
        raise SourceError(
            f"{lazy[0]} is lazy, and an input of shape {sizes} does not tell its own ({first_line(error)}); give one "
            "that the network takes: --input-shape N,C,H,W"
        ) from error
    return (f"{len(lazy)} weights of lazy layers (first: {lazy[0]}) had no values: they are random, seed {seed}",)
