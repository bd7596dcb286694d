"""The float64 reference of a network as a job has it: its images, their scale, and whose errors are its own."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import Tensor

from ..count import Cost
from ..onnx_file.file import leaves_order_open
from ..onnx_file.type_names import type_name
from ..parity import Reference, Run, Scale, reference_from_module, run_onnx
from ..parity.inputs import batch_of, has_batch
from ..parity.own_scale import own_scales
from ..parity.turns import detections
from ..source.network import Network
from .steps import fed

WITHIN = 4.0
"""Standard deviations from end to end of a range of pixels."""


def reference_of(
    network: Network,
    cost: Cost,
    *,
    data: Mapping[str, np.ndarray] | None = None,
    examples: Mapping[str, Tensor] | None = None,
) -> Reference:
    """The reference of `network` on random images at its own scale, edges, and `data`, the user's images by input.

    `examples` take the place of the network's own, of which only the shapes and types count.
    """
    examples = network.inputs if examples is None else examples
    return reference_from_module(
        network.module,
        examples,
        output_names=network.output_names,
        macs=cost.macs,
        longest_sum=cost.longest_sum,
        data={**network.data, **(data or {})},
        scales=_scales(network, examples),
        own_runs=_file_runs(network, examples),
    )


def at_batch(network: Network, cost: Cost, reference: Reference, batch: int) -> Reference:
    """`reference` for steps that are run with `batch` images: evaluated anew where images influence one another."""
    if batch == reference.batch or not reference.mixes:
        return replace(reference, batch=batch)
    return reference_of(network, cost, examples=with_batch(network.inputs, batch))


def with_batch(examples: Mapping[str, Tensor], batch: int) -> dict[str, Tensor]:
    """The examples with the first image as often as that."""
    own = batch_of(x.shape for x in examples.values())
    return {
        name: x[:1].repeat(batch, *[1] * (x.dim() - 1)) if has_batch(x.shape, own) else x
        for name, x in examples.items()
    }


def said_of(reference: Reference, *, open_batch: bool) -> tuple[str, ...]:
    """What a user should know of it, one line each."""
    mixed = "the images of a batch influence one another: what one gives depends on those that go with it"
    values, turned = [y.values for y in reference.outputs.values()], int(reference.turns.sum())
    rows = int(detections(values, reference.turns).sum())
    chosen = f"float32 itself may choose {turned} of {rows} detections otherwise than float64: there a step may, too"
    return (*reference.left_out, *([chosen] if turned else []), *([mixed] if reference.mixes and open_batch else []))


def _scales(network: Network, examples: Mapping[str, Tensor]) -> dict[str, Scale]:
    """As the network's first layers normalize, else as its preprocessing, where that does not, leaves its pixels."""
    found = own_scales(network.module, dict(examples))
    given = network.preprocessing
    if not found and given is not None and not any(given.mean) and examples:
        first, high = next(iter(examples)), 255 * given.scale
        found = {first: Scale(high / 2, high / WITHIN)}
    return found


def _file_runs(network: Network, examples: Mapping[str, Tensor]) -> list[Run]:
    """The ONNX file that the network came as, in ONNX Runtime, where that takes it and inputs of these sizes."""
    if network.given is None:
        return []
    types = [type_name(tensor) for tensor in network.given.graph.inputs]
    source = Path(str(network.provenance["source"]))
    if leaves_order_open(source):
        return []
    try:
        file = run_onnx(source)
        run = fed(lambda first, *others: file(network.folded(first), *others), types)
        run(*((x.float() if x.is_floating_point() else x).numpy() for x in examples.values()))
    except Exception:  # the file may be made for one size, where this bundle leaves it open
        return []
    return [run]
