"""Layers that learn their shape from their first input."""

import contextlib

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy


def materialize(module: nn.Module, example: Tensor, seed: int) -> tuple[str, ...]:
    """Run `module` once if any of its layers is lazy, which gives these random weights; a warning where it did.

    What a forward raises is left to whoever runs it next.
    """
    lazy = [name for name, tensor in (*module.named_parameters(), *module.named_buffers()) if is_lazy(tensor)]
    if not lazy:
        return ()
    with torch.random.fork_rng(devices=()), torch.no_grad(), contextlib.suppress(Exception):
        torch.manual_seed(seed)
        module(example)
    return (f"{len(lazy)} weights of lazy layers (first: {lazy[0]}) had no values: they are random, seed {seed}",)
