"""What reparameterization did and what it left alone, as records that print themselves."""

from collections import Counter
from dataclasses import dataclass, field

from .end_to_end import EndToEnd


@dataclass(frozen=True)
class Region:
    """One affine subgraph that became one convolution (or one Linear).

    `macs_*` are per sample at the traced size, over the ops whose work the convolution took over. `error` is
    max |new − old| / max |old| of the region alone, both in float64. `growth` is max |K| over the largest weight of the
    merged convolutions: fused kernels that grew are what hurts fp16 and int8 later. `least_size`, where it is not 0, is
    a size guard: smaller maps, which the merged ops took one after another, the convolution's padding refuses.
    `modules` are those of the network that the merged ops were traced from.
    """

    name: str
    source: str
    result: str
    merged: tuple[str, ...]
    kernel: tuple[int, ...]
    macs_before: int
    macs_after: int
    error: float
    max_weight: float
    growth: float
    least_size: int = 0
    modules: tuple[str, ...] = ()

    def __str__(self) -> str:
        shape = "×".join(map(str, self.kernel))
        macs = f"{self.macs_before / 1e6:.1f} → {self.macs_after / 1e6:.1f} MMACs"
        guard = f", maps of size {self.least_size} or more" if self.least_size else ""
        return (
            f"{self.name}: {len(self.merged)} ops → one {shape}, {macs}, "
            f"error {self.error:.1e}, max |K| {self.max_weight:.3g} (×{self.growth:.2g}){guard}"
        )


@dataclass(frozen=True)
class Refusal:
    """A node left alone: a stable code, what was found and what to do about it."""

    node: str
    code: str
    found: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.node}: {self.code}: {self.found}; {self.remedy}"


@dataclass
class Report:
    """Regions in graph order, refusals, the convolution and batch norm counts of both graphs, and the final check.

    `ops_before` counts every op that the network was traced to, by its name in PyTorch.

    `guards` are conditions on the input's sizes that the network's own code fixed while it was traced; the plain
    network raises where they do not hold. `end_to_end` is None where the check was left out.
    """

    regions: list[Region] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    macs_before: int = 0
    macs_after: int = 0
    counts_before: dict[str, int] = field(default_factory=dict)
    counts_after: dict[str, int] = field(default_factory=dict)
    ops_before: dict[str, int] = field(default_factory=dict)
    tracer: str = ""
    guards: tuple[str, ...] = ()
    end_to_end: EndToEnd | None = None

    def __str__(self) -> str:
        before, after = (
            ", ".join(f"{n} {what}" for what, n in sorted(c.items())) for c in (self.counts_before, self.counts_after)
        )
        macs = f"{self.macs_before / 1e9:.3f} → {self.macs_after / 1e9:.3f} GMACs"
        lines = [f"{len(self.regions)} regions, {macs}; before: {before}; after: {after}", *map(str, self.regions)]
        by_reason = Counter((r.code, r.found, r.remedy) for r in self.refusals)
        for (code, found, remedy), n in by_reason.items():
            first = next(r.node for r in self.refusals if (r.code, r.found, r.remedy) == (code, found, remedy))
            where = first if n == 1 else f"{first} and {n - 1} more"
            lines.append(f"left alone {code} ({where}): {found}; {remedy}")
        lines += [f"size guard: {guard}" for guard in self.guards]
        lines.append(str(self.end_to_end) if self.end_to_end else "end to end: not checked")
        return "\n".join(lines)
