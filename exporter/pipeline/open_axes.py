"""What a job leaves open, batch, height and width: whether the network takes the sizes asked for, and parity there.

A trace with open axes claims every size. What is tried is the smallest and the largest of each: by the eager network
before any work is done, and in parity once the ONNX file is written.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor, nn

from ..count import Cost
from ..errors import SourceError, first_line
from ..parity import Reference, Run
from ..parity.inputs import MAC_BUDGET
from ..source.network import Network, Request
from ..source.shapes import Batches, Sizes
from .references import examples_of, reference_of
from .steps import Steps

FEW_IMAGES = MAC_BUDGET / 5
"""Multiply-accumulates of one image from which on a reference has five: enough for each kind of them."""
BATCH_BUDGET = 4 * MAC_BUDGET
"""Multiply-accumulates that one call at the largest batch may take; a smaller batch is tried where it would be more."""

MAX_ELEMENTS = 2**28
"""Numbers in the inputs of one call: a gigabyte in float32, and many times that in the network."""


@dataclass(frozen=True)
class Corner:
    """The smallest or largest batch and size: `at` says in words what differs from the export's own."""

    at: str
    reference: Reference


def at_usual_size(request: Request, size: Sizes | None) -> Request:
    """The request with the usual height and width for whatever shape it leaves to the source."""
    return request if size is None else replace(request, usual_size=size[1])


def refuse_sizes(network: Network, size: Sizes) -> None:
    """Try the eager network at every size that is asked for.

    Raises SourceError where it has no height and width, the export's own are not among the sizes, it fails at one, or
    gives as many scores for an image as its size brings about.
    """
    shape = tuple(network.example.shape)
    if len(shape) != 4:
        spelled = ",".join(map(str, shape))
        raise SourceError(f"{network.name} takes {spelled}, which has no height and width; leave --dynamic-size out")
    own = (shape[2], shape[3])
    if not all(a <= n <= b for a, n, b in zip(size[0], own, size[2], strict=True)):
        raise SourceError(
            f"{network.name} is exported at {_spelled(own)}, outside --dynamic-size {_spelled(size[0])} to "
            f"{_spelled(size[2])}; give another --input-shape or --dynamic-size"
        )
    wanted = _output_shapes(network.module, network.example)
    for each in dict.fromkeys(size):
        try:
            found = _output_shapes(network.module, _images(network.example, each))
        except Exception as error:  # whatever the network's own code raises
            raise SourceError(
                f"{network.name} cannot take {_spelled(each)} ({first_line(error)}); give another --dynamic-size, or "
                "leave it out"
            ) from error
        for y, y_own in zip(found, wanted, strict=True):
            if len(y) != len(y_own) or (len(y) < 3 and y != y_own):
                raise SourceError(
                    f"{network.name} gives {list(y)} at {_spelled(each)} and {list(y_own)} at {_spelled(own)}, so "
                    "it is made for one size; leave --dynamic-size out"
                )


def gaps(network: Network, size: Sizes) -> tuple[str, ...]:
    """A warning where the network refuses the size one pixel above the smallest: its engine will not."""
    (low_h, low_w), _, (high_h, high_w) = size
    each = (min(low_h + 1, high_h), min(low_w + 1, high_w))
    try:
        _output_shapes(network.module, _images(network.example, each))
    except Exception as error:  # whatever the network's own code raises
        return (
            f"{network.name} takes not every size from {_spelled(size[0])} to {_spelled(size[2])}: at {_spelled(each)} "
            f"it fails ({first_line(error)}), where an engine gives numbers without meaning",
        )
    return ()


def refuse_guards(name: str, plain: nn.Module, example: Tensor, size: Sizes) -> None:
    """Try the plain network at both ends: it checks by itself what the trace took for granted of the sizes.

    Raises SourceError with what holds the network to its size.
    """
    for each in dict.fromkeys((size[0], size[2])):
        try:
            with torch.no_grad():
                plain(_images(example, each))
        except Exception as error:  # a guard of torch.export's, or an op that meets a size of its own
            raise SourceError(
                f"{name} is held to sizes like {_spelled((example.shape[2], example.shape[3]))}: {first_line(error)} "
                f"at {_spelled(each)}; give a --dynamic-size within, or another --input-shape"
            ) from error


def corners(
    network: Network, reference: Reference, cost: Cost, batch: Batches | None, size: Sizes | None
) -> tuple[Corner, ...]:
    """References of the eager network at the smallest and the largest of what is open, each with few images.

    A batch that is too much to compute is cut down to one that is not; `Corner.at` names the one that is tried.

    Raises SourceError where the smallest batch is too much.
    """
    own = tuple(int(n) for n in network.example.shape)
    if batch is not None and batch[0] * prod(own[1:]) > MAX_ELEMENTS:
        raise SourceError(
            f"the smallest batch is {batch[0]}, of {prod(own[1:])} numbers each, too much to try; give a smaller MIN"
        )
    found: dict[str, Corner] = {}
    for k in (0, 2):
        pixels = own[2:] if size is None else size[k]
        macs = cost.macs * prod(pixels) / prod(own[2:])
        images = reference.batch if batch is None else _affordable(batch, k, macs)
        differs = (batch is not None and images != reference.batch, pixels != own[2:])
        if not any(differs):
            continue
        here = reference
        if differs[1] or reference.mixes:  # then what an image gives depends on how many go with it
            image = _images(network.example, pixels)
            name = next(iter(examples_of(network)))
            few = replace(cost, macs=int(max(macs, FEW_IMAGES)))
            count = images if reference.mixes else reference.batch
            here = reference_of(network, few, examples={name: image[:1].repeat(count, *[1] * (image.dim() - 1))})
        at = ", ".join([f"batch {images}"] * differs[0] + [_spelled(pixels)] * differs[1])
        found.setdefault(at, Corner(at, replace(here, batch=images)))
    return tuple(found.values())


def check_corners(steps: Steps, at_corners: Sequence[Corner], step: str, run: Run) -> None:
    """Compare one step at each corner, under the step's own name and what differs there."""
    for corner in at_corners:
        for parity in corner.reference.judge(f"{step}, {corner.at}", run):
            steps.add(parity)


def within(batch: int, batches: Batches | None) -> int:
    """The batch that is nearest to `batch` among those that are asked for."""
    return batch if batches is None else min(max(batch, batches[0]), batches[2])


def _affordable(batch: Batches, k: int, macs: float) -> int:
    """The smallest (k = 0) or largest (k = 2) batch; where the largest is too much, a smaller one, at least 2."""
    return batch[k] if not macs or k == 0 else max(batch[0], min(batch[2], max(2, int(BATCH_BUDGET / macs))))


@torch.no_grad()
def _output_shapes(module: nn.Module, image: Tensor) -> list[tuple[int, ...]]:
    outputs = module(image)
    return [tuple(y.shape) for y in (outputs if isinstance(outputs, tuple) else (outputs,))]


def _images(example: Tensor, size: Sequence[int]) -> Tensor:
    """As many images of this size as the example has."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn((*example.shape[:2], *size), generator=generator).to(example.dtype)


def _spelled(size: Sequence[int]) -> str:
    return "×".join(map(str, size))
