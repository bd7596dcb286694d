"""Graph surgery: exact rewrites that take an ONNX graph to the smallest one that computes the same function.

One visible list, run to a fixed point; see `Pass` for what each promises.
"""

import time
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx_graphsurgeon as gs

from exporter.errors import ExportError

from .base import Pass
from .channel_layout import ChannelLayout
from .common_subexpressions import CommonSubexpressions
from .dead_nodes import DeadNodes
from .depthwise_into_pool import DepthwiseIntoPool
from .edit import forget_exact, name_nodes
from .fold_constants import FoldConstants
from .fold_norm import FoldNorm
from .gemm_head import GemmHead
from .global_average_pool import GlobalAveragePool
from .norm_into_gate import NormIntoGate
from .onnx_file import check, infer_shapes, read, write
from .pool_first import PoolFirst
from .relu_before_gate import ReluBeforeGate
from .relu_past_maxpool import ReluPastMaxPool
from .remove_noops import RemoveNoops
from .reshape_chains import ReshapeChains
from .scale_into_conv import ScaleIntoConv
from .shuffle_into_conv import ShuffleIntoConv
from .split_concat_conv import SplitConcatConv

__all__ = ["PASSES", "Pass", "PassCount", "SurgeryReport", "run_passes", "simplify"]

PASSES: tuple[Pass, ...] = (
    FoldConstants(),  # first: what is constant, and which shapes are known, decides where the others fit
    RemoveNoops(),
    ReshapeChains(),
    GlobalAveragePool(),
    ChannelLayout(),
    PoolFirst(),  # before FoldNorm: behind the pool a norm meets the unpadded conv of a gate
    FoldNorm(),
    ScaleIntoConv(),
    NormIntoGate(),  # after PoolFirst, which leaves the gate as the norm's only reader
    ShuffleIntoConv(),
    SplitConcatConv(),
    ReluPastMaxPool(),
    ReluBeforeGate(),
    DepthwiseIntoPool(),
    GemmHead(),
    CommonSubexpressions(),
    DeadNodes(),
)
MAX_ROUNDS = 50
"""No network needs more than a few rounds; one that does has two passes that undo each other."""


@dataclass(frozen=True)
class PassCount:
    """How often a pass rewrote something, and how many nodes fewer the graph had after it (negative: more)."""

    name: str
    rewrites: int
    nodes_removed: int


@dataclass(frozen=True)
class SurgeryReport:
    """What surgery did: nodes by op before and after, and each pass that changed something."""

    before: Mapping[str, int]
    after: Mapping[str, int]
    passes: tuple[PassCount, ...]
    rounds: int
    seconds: float

    def __str__(self) -> str:
        ops = sorted({*self.before, *self.after}, key=lambda op: (-self.before.get(op, 0), op))
        lines = [f"{'op':<24}{'before':>8}{'after':>8}"]
        lines += [f"{op:<24}{self.before.get(op, 0):>8}{self.after.get(op, 0):>8}" for op in ops]
        lines.append(f"{'nodes':<24}{sum(self.before.values()):>8}{sum(self.after.values()):>8}")
        lines += [f"{p.name}: {p.rewrites} rewrites, {p.nodes_removed:+d} nodes fewer" for p in self.passes]
        return "\n".join(lines)


def simplify(
    source: Path | gs.Graph, target: Path, *, skip: Collection[str] = (), metadata: Mapping[str, str] | None = None
) -> SurgeryReport:
    """Write to `target` the smallest graph that computes what `source` does, an ONNX file or a graph; see `run_passes`.

    `metadata` joins what the file holds; a graph given is changed in place.

    Raises:
        ExportError: `source` cannot be read, `target` cannot be written, or the outcome fails the ONNX checker.

    """
    graph, held = read(source) if isinstance(source, Path) else (source, {})
    report = run_passes(graph, skip=skip)
    write(graph, target, {**held, **(metadata or {})})
    check(target)
    return report


def run_passes(graph: gs.Graph, *, skip: Collection[str] = ()) -> SurgeryReport:
    """Run every pass but those named in `skip` on `graph`, in place, until none changes anything.

    Raises:
        ExportError: a name in `skip` is no pass.

    """
    unknown = set(skip) - {p.name for p in PASSES}
    if unknown:
        raise ExportError(f"no pass is called {sorted(unknown)[0]}; the passes are {', '.join(p.name for p in PASSES)}")
    start = time.perf_counter()
    before = _ops(graph)
    name_nodes(graph)
    rewrites: Counter[str] = Counter()
    removed: Counter[str] = Counter()
    infer_shapes(graph)
    rounds, changed = 0, True
    while changed and rounds < MAX_ROUNDS:
        rounds, changed = rounds + 1, False
        for each in PASSES:
            if each.name in skip:
                continue
            nodes = len(graph.nodes)
            count = each.apply(graph)
            if count:
                graph.cleanup().toposort()
                infer_shapes(graph)
                changed = True
            rewrites[each.name] += count
            removed[each.name] += nodes - len(graph.nodes)
    forget_exact(graph)
    passes = tuple(PassCount(p.name, rewrites[p.name], removed[p.name]) for p in PASSES if rewrites[p.name])
    return SurgeryReport(before, _ops(graph), passes, rounds, time.perf_counter() - start)


def _ops(graph: gs.Graph) -> dict[str, int]:
    return dict(sorted(Counter(node.op for node in graph.nodes).items()))
