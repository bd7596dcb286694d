"""The least time that a graph can take on a device, layer by layer.

    layer = max(macs / rate, bytes / bandwidth),   floor = Σ layers + launch · depth      (Williams et al. 2009)

with the peak rates of a data sheet, every value between two kernels read and written once, pointwise ops within the
kernel before them, and `depth` kernels on the longest path. Values that stay in a cache can make a layer's memory share
less than that; nothing makes its sums less.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from .cost import Device, Work, sizes_of_values, works_of_model
from .wiring import Wiring, wiring_of


@dataclass(frozen=True)
class Layer:
    """One kernel, with what joins it: products, bytes, and the seconds that each of them takes at the least."""

    name: str
    kind: str
    type: str
    macs: int
    bytes: float
    compute: float
    memory: float

    @property
    def seconds(self) -> float:
        """The larger of both."""
        return max(self.compute, self.memory)

    @property
    def bound(self) -> str:
        """Which of both it is."""
        return "compute" if self.compute >= self.memory else "memory"


@dataclass(frozen=True)
class Roofline:
    """The floor of a whole graph, in seconds, and what it is made of."""

    device: str
    layers: tuple[Layer, ...]
    depth: int
    launches: float

    @property
    def seconds(self) -> float:
        """The floor."""
        return sum(layer.seconds for layer in self.layers) + self.launches

    @property
    def compute(self) -> float:
        """What the sums alone take."""
        return sum(layer.compute for layer in self.layers)

    @property
    def memory(self) -> float:
        """What reading and writing alone takes."""
        return sum(layer.memory for layer in self.layers)


def roofline(model: ir.Model, device: Device, axes: Mapping[str, int] | None = None, *, tf32: bool = False) -> Roofline:
    """The floor of a `prepared` model at the sizes `axes` of its open axes (1 where not given).

    With `tf32` fp32 convolutions compute by the device's TF32 rate, where it has one.
    """
    wiring = wiring_of(model)
    works = works_of_model(model, wiring, sizes_of_values(wiring, axes))
    layers = [_layer(op.name, op.kind, works[op.name], device, tf32) for op in wiring.ops]
    depth = _depth(wiring, works)
    return Roofline(device.name, tuple(layer for layer in layers if layer.seconds), depth, depth * device.kernel)


def _layer(name: str, kind: str, work: Work, device: Device, tf32: bool) -> Layer:
    computed = "tf32" if tf32 and work.type == "fp32" and "tf32" in device.macs else work.type
    rate = device.macs.get(computed, device.macs["fp32"])
    return Layer(name, kind, computed, work.macs, work.bytes, work.macs / rate, work.bytes / device.bandwidth)


def _depth(wiring: Wiring, works: Mapping[str, Work]) -> int:
    """Kernels on the longest path."""
    behind: dict[str, int] = {}
    for op in wiring.ops:
        before = max((behind.get(value, 0) for value in op.reads), default=0)
        behind |= dict.fromkeys(op.writes, before + works[op.name].kernel)
    return max(behind.values(), default=0)
