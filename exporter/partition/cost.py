"""What each node of an ONNX graph takes on a device, and what it takes to send a value to another.

The roofline: a kernel's sums and its memory traffic overlap, and it starts after the one before it,

    alone = kernel + max(macs / (rate · filled), bytes / bandwidth)      seconds, of a kernel with the device to itself
    busy  = max(macs / rate, bytes / bandwidth)                          seconds of all of the device

`filled` is the share of the device that has something to do: at batch 1 a small map has fewer elements than a GPU has
threads. Two kernels side by side take turns where the shares busy / alone add up to more than 1. A pointwise op joins
the kernel of a value that it alone reads, and costs only the traffic of what else it reads. A view costs nothing.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import onnx_ir as ir

from ..errors import PlanError
from ..onnx_file.layer_types import WEIGHTED, types_of_layers
from ..reading import SMALL, read_at_most
from .wiring import Op, Wiring, values_read

VIEWS = {"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Dropout", "Shape", "Size"} | {"DequantizeLinear"}
"""Ops that cost nothing: no byte moves, or the kernel that reads them does it on its way (DequantizeLinear)."""
POINTWISE = {
    "Relu", "LeakyRelu", "PRelu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Elu", "Selu", "Celu", "Gelu",
    "Softplus", "Softsign", "Mish", "ThresholdedRelu", "Swish", "Add", "Sub", "Mul", "Div", "Min", "Max", "Sum", "Mean",
    "Pow", "Neg", "Abs", "Exp", "Log", "Sqrt", "Reciprocal", "Erf", "Floor", "Ceil", "Round", "Sign", "Sin", "Cos",
    "Where", "Equal", "Greater", "Less", "Not", "And", "Or", "Cast", "BatchNormalization", "QuantizeLinear",
}  # fmt: skip
"""Ops whose outputs depend on their inputs element by element, as `exporter.surgery.cost` has them, and Q/DQ."""


@dataclass(frozen=True)
class Device:
    """Rates that real kernels reach, not those of a data sheet; a measured profile replaces what they predict.

    `macs` are multiply-accumulates a second by type ("fp32"; other types as the first), `bandwidth` bytes a second,
    `kernel`, `part` and `event` seconds for one more kernel, one more part, and for one stream to wait for another.
    `lanes` elements are computed at once; even the smallest kernel splits its sums over a 32nd of them.
    """

    name: str
    macs: Mapping[str, float]
    bandwidth: float
    kernel: float = 0.0
    part: float = 0.0
    event: float = 0.0
    lanes: int = 1

    def filled(self, elements: int) -> float:
        """The share of the device that computes as many outputs."""
        return min(1.0, max(elements / self.lanes, 1 / 32))


A100 = Device(
    "A100",
    {"fp32": 8e12, "fp16": 60e12, "bf16": 60e12, "int8": 110e12, "fp8": 110e12},
    bandwidth=1.5e12, kernel=0.7e-6, part=2e-6, event=1e-6, lanes=1 << 17,
)  # fmt: skip
"""An NVIDIA A100 at batch 1: 9.7 TMAC/s in fp32 without TF32, 156 in fp16; 108 multiprocessors of 1,024 threads and
more; the gap between two kernels of one CUDA graph, the launch of a graph, an edge between two of its branches."""

MACS_ALONE = Device("MACs alone", {"fp32": 1e12}, bandwidth=float("inf"))
"""Time in proportion to multiply-accumulates: what a share of MACs says."""


@dataclass(frozen=True)
class Link:
    """Between any two devices: `bandwidth` bytes a second out of and into each, `latency` seconds a value."""

    bandwidth: float
    latency: float
    name: str = ""

    def __str__(self) -> str:
        return self.name or f"{self.bandwidth / 1e9:g} GB/s, {self.latency * 1e6:g} µs"


LINKS = {"pcie": Link(25e9, 10e-6, "pcie"), "nvlink": Link(300e9, 5e-6, "nvlink")}


def link_of_text(text: str) -> Link:
    """The link called "pcie" or "nvlink", or GB/s:µs such as "25:10". Raises PlanError for anything else."""
    if text in LINKS:
        return LINKS[text]
    bandwidth, _, latency = text.partition(":")
    try:
        link = Link(float(bandwidth) * 1e9, float(latency) * 1e-6)
    except ValueError:
        link = Link(0.0, 0.0)
    if not (link.bandwidth > 0 and 0 <= link.latency < float("inf")):
        raise PlanError(f"link {text!r}; wanted {', '.join(LINKS)}, or GB/s:µs such as 25:10")
    return link


@dataclass(frozen=True)
class Work:
    """What one node does: products, bytes that it moves, elements it makes, whether it is a kernel, the type of it."""

    macs: int = 0
    bytes: float = 0.0
    elements: int = 0
    kernel: bool = False
    type: str = "fp32"


@dataclass(frozen=True)
class Cost:
    """Seconds of a node alone, seconds of all of the device that it uses up, products."""

    alone: float = 0.0
    busy: float = 0.0
    macs: int = 0


@dataclass(frozen=True)
class Sizes:
    """Elements and bytes of each value whose open axes are `axes`, or 1; `unknown` are values of no known size."""

    elements: Mapping[str, int]
    bytes: Mapping[str, float]
    unknown: frozenset[str] = field(default_factory=frozenset)


def sizes_of_values(wiring: Wiring, axes: Mapping[str, int] | None = None) -> Sizes:
    """The sizes of all values, constants too."""
    shapes = {name: spec.sizes(axes or {}) for name, spec in wiring.specs.items()}
    elements = {name: prod(shape) for name, shape in shapes.items() if shape is not None}
    return Sizes(
        elements,
        {name: count * wiring.specs[name].itemsize for name, count in elements.items()},
        frozenset(name for name, shape in shapes.items() if shape is None),
    )


def works_of_model(model: ir.Model, wiring: Wiring, sizes: Sizes) -> dict[str, Work]:
    """Node → what it does; what is of unknown size counts as nothing but a kernel."""
    types = types_of_layers(model)
    nodes = {op.name: (node, op) for node, op in zip(model.graph, wiring.ops, strict=True)}
    joined = {name: _inner(node, sizes) for name, (node, op) in nodes.items() if _is_joined(op, wiring)}
    held = _in_memory(nodes, joined, wiring, sizes)
    works = {}
    for at, (name, (node, op)) in enumerate(nodes.items()):
        free = at in wiring.folded or op.kind in VIEWS
        works[name] = Work() if free else _work(node, types.get(name, "fp32"), joined.get(name), held)
    return works


def costs_of_nodes(
    works: Mapping[str, Work], device: Device, profile: Mapping[str, float] | None = None
) -> dict[str, Cost]:
    """Node → its cost on `device`, or as `profile` (node → seconds) measured it.

    Nodes that the profile leaves out take as long as the roofline says, times what it is off by on the others.

    Raises PlanError where the profile names nodes that there are not, or has none of those there are.
    """
    modelled = {name: _cost(work, device) for name, work in works.items()}
    if profile is None:
        return modelled
    unknown = [name for name in profile if name not in works]
    if unknown or not profile:
        found = f"{len(unknown)} nodes that the network does not have (first: {unknown[0]})" if unknown else "no node"
        raise PlanError(f"the profile has {found}; measure it on this very graph")
    expected = sum(modelled[name].alone for name in profile)
    scale = sum(profile.values()) / expected if expected else 1.0
    return {name: _scaled(cost, profile.get(name, cost.alone * scale)) for name, cost in modelled.items()}


def read_profile(path: Path) -> dict[str, float]:
    """Node → seconds, from a JSON file. Raises PlanError for anything else in it."""
    try:
        data = json.loads(read_at_most(path, SMALL))
    except (OSError, ValueError, RecursionError) as error:
        raise PlanError(f"{path} cannot be read as JSON ({error}); give {{node: seconds}}") from None
    if not isinstance(data, dict):
        raise PlanError(f"{path.name} is no JSON object; give {{node: seconds}}")
    wrong = [n for n, s in data.items() if isinstance(s, bool) or not isinstance(s, int | float) or not 0 <= s < 1e6]
    if wrong:
        found = f"{len(wrong)} of its times are no seconds (first: {wrong[0]} {json.dumps(data[wrong[0]])[:40]})"
        raise PlanError(f"{path.name}: {found}; give {{node: seconds}}")
    return {name: float(seconds) for name, seconds in data.items()}


def _scaled(cost: Cost, seconds: float) -> Cost:
    """The same use of the device over other `seconds`."""
    share = cost.busy / cost.alone if cost.alone else 1.0
    return Cost(seconds, seconds * share, cost.macs)


def _cost(work: Work, device: Device) -> Cost:
    rate = device.macs.get(work.type, next(iter(device.macs.values())))
    moving = work.bytes / device.bandwidth
    busy = max(work.macs / rate, moving)
    alone = max(work.macs / (rate * device.filled(work.elements)), moving)
    return Cost(alone + device.kernel * work.kernel, busy, work.macs)


def _is_joined(op: Op, wiring: Wiring) -> bool:
    """Whether a node runs in the kernel that makes one of the values it reads."""
    return op.kind in POINTWISE and any(
        value in wiring.maker
        and len(wiring.readers[value]) == 1
        and value not in wiring.outputs
        and wiring.ops[wiring.maker[value]].kind not in VIEWS
        for value in op.reads
    )


def _inner(node: ir.Node, sizes: Sizes) -> str:
    """The largest value that a node reads, which never leaves the kernel that the node joins."""
    return max(_reads(node), key=lambda v: sizes.bytes.get(v, 0.0))


def _in_memory(
    nodes: Mapping[str, tuple[ir.Node, Op]], joined: Mapping[str, str], wiring: Wiring, sizes: Sizes
) -> Sizes:
    """Bytes of each value as it is read and written: integers until a kernel reads them, and as soon as one has them.

    What a DequantizeLinear makes is read as what it reads; in the place of a value that never leaves its kernel, what
    the op that joins it makes of it is written.
    """
    held = dict(sizes.bytes)
    for node, op in nodes.values():
        if op.kind == "DequantizeLinear":
            held[op.writes[0]] = held.get(_reads(node)[0], 0.0)
    for name, value in reversed(list(joined.items())):
        made = nodes[name][1].writes[0]
        if len(wiring.readers.get(value, ())) == 1 and sizes.elements.get(value) == sizes.elements.get(made):
            held[value] = held.get(made, 0.0)
    return Sizes(sizes.elements, held, sizes.unknown)


def _reads(node: ir.Node) -> list[str]:
    return [str(v.name) for v in dict.fromkeys(values_read(node)) if v.name]


def _work(node: ir.Node, type_name: str, inner: str | None, sizes: Sizes) -> Work:
    """`inner` is what never leaves the kernel that the node joins, where it joins one."""
    reads, writes = _reads(node), [str(v.name) for v in node.outputs if v.name]
    if inner is not None:
        moved = (sizes.bytes.get(v, 0.0) for v in reads if v != inner)
        return Work(bytes=sum(moved), elements=sizes.elements.get(writes[0], 0))
    return Work(
        macs=_macs(node, sizes),
        bytes=sum(sizes.bytes.get(v, 0.0) for v in (*reads, *writes)),
        elements=max((sizes.elements.get(v, 0) for v in writes), default=0),
        kernel=True,
        type=type_name,
    )


def _macs(node: ir.Node, sizes: Sizes) -> int:
    """Multiply-accumulates; 0 where a size is not known.

    Conv N·O·P·(I/groups)·K: each output element reads one kernel. ConvTranspose N·I·P·(O/groups)·K: each input element
    writes one. Gemm and MatMul M·N·K.
    """
    if node.op_type not in WEIGHTED or node.domain not in ("", "ai.onnx") or len(node.inputs) < 2:
        return 0
    x, weight = node.inputs[0], node.inputs[1]
    y = sizes.elements.get(str(node.outputs[0].name), 0)
    if x is None or weight is None or weight.shape is None or x.shape is None:
        return 0
    if node.op_type in ("Conv", "ConvTranspose"):
        kernel = prod(n if isinstance(n, int) else 0 for n in weight.shape[1:])
        return int(kernel * (y if node.op_type == "Conv" else sizes.elements.get(str(x.name), 0)))
    transposed = node.op_type == "Gemm" and node.attributes.get_int("transA", False)
    terms = x.shape[0 if transposed else -1]
    return y * terms if isinstance(terms, int) else 0
