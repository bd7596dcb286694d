"""What a job leaves open, batch, height and width: whether the network takes the sizes asked for, and parity there.

A trace with open axes claims every size. What is tried is the smallest and the largest of each: by the eager network
before any work is done, and in parity once the ONNX file is written.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor, nn

from ..count import Cost
from ..errors import SourceError, first_line
from ..parity import Reference, Run, run_module
from ..parity.inputs import MAC_BUDGET, batch_of, has_batch
from ..source.network import Network, Request
from ..source.shapes import Batches, Sizes
from .references import reference_of, with_batch
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


def refuse_batch(network: Network) -> None:
    """See that every input has the batch that is to be open. Raises SourceError for one that has another first axis."""
    batch = batch_of(x.shape for x in network.examples)
    other = next((name for name, x in network.inputs.items() if x.dim() and x.shape[0] != batch), None)
    if other is None and batch is not None:
        return
    if batch is None:
        raise SourceError(f"{network.name} has no input with a batch axis; leave --dynamic-batch out")
    first = next(name for name, x in network.inputs.items() if has_batch(x.shape, batch))
    shape = ",".join(map(str, network.inputs[other].shape)) if other is not None else ""
    raise SourceError(
        f"--dynamic-batch opens the first axis of {first}, {batch} in the example, and {other} is {shape}: give both "
        "as many rows, or leave --dynamic-batch out"
    )


def refuse_sizes(network: Network, size: Sizes) -> None:
    """Try the eager network at every size that is asked for.

    Raises SourceError where it has no height and width, or several, the export's own are not among the sizes, it fails
    at one, or gives as many scores for an image as its size brings about.
    """
    shape = tuple(network.example.shape)
    images = {name: tuple(x.shape[2:]) for name, x in network.inputs.items() if x.dim() == 4}
    if not images:
        spelled = ",".join(map(str, shape))
        raise SourceError(f"{network.name} takes {spelled}, which has no height and width; leave --dynamic-size out")
    first, own = next(iter(images.items()))
    other = next((name for name in images if images[name] != own), None)
    if other is not None:
        raise SourceError(
            f"--dynamic-size opens the height and width of {first}, {_spelled(own)}, which are not those of {other}, "
            f"{_spelled(images[other])}; give both one size, or leave --dynamic-size out"
        )
    if not all(a <= n <= b for a, n, b in zip(size[0], own, size[2], strict=True)):
        raise SourceError(
            f"{network.name} is exported at {_spelled(own)}, outside --dynamic-size {_spelled(size[0])} to "
            f"{_spelled(size[2])}; give another --input-shape or --dynamic-size"
        )
    wanted = _output_shapes(network.module, network.examples)
    for each in dict.fromkeys(size):
        try:
            found = _output_shapes(network.module, tuple(at_size(network.inputs, each).values()))
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
        _output_shapes(network.module, tuple(at_size(network.inputs, each).values()))
    except Exception as error:  # whatever the network's own code raises
        return (
            f"{network.name} takes not every size from {_spelled(size[0])} to {_spelled(size[2])}: at {_spelled(each)} "
            f"it fails ({first_line(error)}), where an engine gives numbers without meaning",
        )
    return ()


def refuse_guards(name: str, plain: nn.Module, inputs: Mapping[str, Tensor], size: Sizes) -> None:
    """Try the plain network at both ends: it checks by itself what the trace took for granted of the sizes.

    Raises SourceError with what holds the network to its size.
    """
    for each in dict.fromkeys((size[0], size[2])):
        try:
            with torch.no_grad():
                plain(*at_size(inputs, each).values())
        except Exception as error:  # a guard of torch.export's, or an op that meets a size of its own
            raise SourceError(
                f"{name} is held to sizes like {_spelled(_size_of(inputs))}: {first_line(error)} "
                f"at {_spelled(each)}; give a --dynamic-size within, or another --input-shape"
            ) from error


def refuse_batch_guards(network: Network, plain: nn.Module, cost: Cost, batch: Batches) -> None:
    """As `refuse_guards`, of the batch. Raises SourceError with what holds the network to its own."""
    for images in dict.fromkeys(_affordable(batch, k, cost.macs) for k in (0, 2)):
        try:
            with torch.no_grad():
                plain(*with_batch(network.inputs, images).values())
        except Exception as error:  # as above
            own = batch_of(x.shape for x in network.examples)
            raise SourceError(
                f"{network.name} does something else for a batch of {own} than for others, as a branch on the batch or "
                f"a loop over its images does ({first_line(error)}); leave --dynamic-batch out, or export at another "
                "batch by --input-shape"
            ) from error


def corners(
    network: Network, reference: Reference, cost: Cost, batch: Batches | None, size: Sizes | None
) -> tuple[Corner, ...]:
    """References of the eager network at the smallest and the largest of what is open, each with few images.

    A batch that is too much to compute is cut down to one that is not; `Corner.at` names the one that is tried.

    Raises SourceError where the smallest batch is too much.
    """
    own = batch_of(x.shape for x in network.examples)
    numbers = sum(prod(x.shape[1:]) for x in network.examples if has_batch(x.shape, own))
    if batch is not None and batch[0] * numbers > MAX_ELEMENTS:
        raise SourceError(
            f"the smallest batch is {batch[0]}, of {numbers} numbers each, too much to try; give a smaller MIN"
        )
    found: dict[str, Corner] = {}
    for k in (0, 2):
        pixels = () if size is None else size[k]
        macs = cost.macs if size is None else cost.macs * prod(pixels) / prod(_size_of(network.inputs))
        images = reference.batch if batch is None else _affordable(batch, k, macs)
        differs = (
            batch is not None and images != reference.batch,
            size is not None and pixels != _size_of(network.inputs),
        )
        if not any(differs):
            continue
        here = reference
        mixes = reference.mixes or (differs[0] and images == 1 and not _is_same_alone(network, reference))
        if differs[1] or mixes:  # then what an image gives depends on how many go with it
            few = replace(cost, macs=int(max(macs, FEW_IMAGES)))
            count = images if mixes else reference.batch
            examples = network.inputs if size is None else at_size(network.inputs, pixels)
            here = reference_of(network, few, examples=with_batch(examples, count))
        at = ", ".join([f"batch {images}"] * differs[0] + [_spelled(pixels)] * differs[1])
        found.setdefault(at, Corner(at, replace(here, batch=images)))
    return tuple(found.values())


def _is_same_alone(network: Network, reference: Reference) -> bool:
    """Whether an image by itself gives what it gives among others: a trace of several does not show a branch on one.

    Raises SourceError where the network takes none by itself.
    """
    try:
        run = run_module(network.module, [x.dtype for x in network.examples])
        return not any(p.failed for p in replace(reference.first(1), batch=1).judge("eager", run))
    except Exception as error:  # whatever the network's own code raises
        raise SourceError(
            f"{network.name} takes no batch of 1 ({first_line(error)}); give another --dynamic-batch, or leave it out"
        ) from error


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
def _output_shapes(module: nn.Module, inputs: tuple[Tensor, ...]) -> list[tuple[int, ...]]:
    outputs = module(*inputs)
    return [tuple(y.shape) for y in (outputs if isinstance(outputs, tuple) else (outputs,))]


def at_size(inputs: Mapping[str, Tensor], size: Sequence[int]) -> dict[str, Tensor]:
    """The inputs with all images, as many as they are, of this size."""
    generator = torch.Generator().manual_seed(0)
    found = {}
    for name, x in inputs.items():
        if x.dim() == 4 and x.is_floating_point():
            found[name] = torch.randn((*x.shape[:2], *size), generator=generator).to(x.dtype)
        elif x.dim() == 4:
            rows, columns = (torch.arange(n) % have for n, have in zip(size, x.shape[2:], strict=True))
            found[name] = x[:, :, rows][..., columns]
        else:
            found[name] = x
    return found


def _size_of(inputs: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Height and width of the images; () where there are none."""
    return next((tuple(x.shape[2:]) for x in inputs.values() if x.dim() == 4), ())


def _spelled(size: Sequence[int]) -> str:
    return "×".join(map(str, size))
