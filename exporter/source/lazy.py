"""Layers that learn their shape from their first input."""

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ..errors import SourceError, first_line
from .signature import Call


def materialize(module: nn.Module, call: Call, seed: int, remedy: str) -> tuple[str, ...]:
    """Run `module` once if any of its layers is lazy, which gives these random weights; a warning where it did.

    Raises SourceError, which ends in `remedy`, where it does not run on zeros of the call's shapes.
    """
    lazy = [name for name, tensor in (*module.named_parameters(), *module.named_buffers()) if is_lazy(tensor)]
    if not lazy:
        return ()
    try:
        with torch.random.fork_rng(devices=()), torch.no_grad():
            torch.manual_seed(seed)
            call.run(module, [torch.zeros_like(x) for x in call.inputs.values()])
    except Exception as error:  # whatever the network's own code raises
        raise SourceError(
            f"{lazy[0]} is lazy, and an input of {call} does not tell its own ({first_line(error)}); {remedy}"
        ) from error
    return (f"{len(lazy)} weights of lazy layers (first: {lazy[0]}) had no values: they are random, seed {seed}",)
