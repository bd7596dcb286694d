"""Graph surgery: exact rewrites that take an ONNX graph to the smallest one that computes the same function.

One visible list, run to a fixed point and judged by its end; see `Pass` for what each promises, and `best_of`.
"""

import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import onnx_graphsurgeon as gs

from ..errors import ExportError
from ..onnx_file.copied import copy
from ..onnx_file.file import (
    UnheldError,
    check,
    infer_shapes,
    ops_of_file,
    read,
    refuse_unknown_types,
    write,
)
from .base import Pass
from .cost import Work, forget_usual_sizes, suppose_usual_sizes
from .edit import forget_exact, name_nodes, sort
from .inner import settle
from .judge import best_of
from .passes.channel_layout import ChannelLayout
from .passes.common_subexpressions import CommonSubexpressions
from .passes.dead_nodes import DeadNodes
from .passes.depthwise_into_pool import DepthwiseIntoPool
from .passes.fold_constants import FoldConstants
from .passes.gemm_head import GemmHead
from .passes.global_average_pool import GlobalAveragePool
from .passes.inline_branches import InlineBranches
from .passes.kernel_algebra import KernelAlgebra
from .passes.norm_before_conv import NormBeforeConv
from .passes.norm_into_conv import NormIntoConv
from .passes.norm_into_gate import NormIntoGate
from .passes.pointwise_before_shuffle import PointwiseBeforeShuffle
from .passes.pool_behind_shift import PoolBehindShift
from .passes.pool_first import PoolFirst
from .passes.relu_before_gate import ReluBeforeGate
from .passes.relu_past_maxpool import ReluPastMaxPool
from .passes.remove_noops import RemoveNoops
from .passes.reorder_channels import ReorderChannels
from .passes.reshape_chains import ReshapeChains
from .passes.scale_into_conv import ScaleIntoConv
from .passes.shift_into_bias import ShiftIntoBias
from .passes.shuffle_into_conv import ShuffleIntoConv
from .passes.slice_chains import SliceChains
from .passes.split_concat_conv import SplitConcatConv
from .sizes import sizes_of

__all__ = ["PASSES", "Pass", "PassCount", "SurgeryReport", "Work", "run_passes", "simplify"]

PASSES: tuple[Pass, ...] = (
    FoldConstants(),  # first: what is constant, and which shapes are known, decides where the others fit
    InlineBranches(),
    RemoveNoops(),
    KernelAlgebra(),  # before the passes that fold a norm or a scale where it refuses, or move one out of the way
    ReshapeChains(),
    SliceChains(),
    GlobalAveragePool(),
    ChannelLayout(),
    PointwiseBeforeShuffle(),
    PoolFirst(),  # behind the pool a norm meets the unpadded conv of a gate: the kernel algebra's in the next round
    NormIntoConv(),  # leaves a scale and a shift to the passes of these names
    ScaleIntoConv(),
    NormIntoGate(),  # after PoolFirst, which leaves the gate as the norm's only reader
    ReorderChannels(),
    ShuffleIntoConv(),  # after ReorderChannels, which needs no denser conv
    SplitConcatConv(),
    NormBeforeConv(),  # after SplitConcatConv: what is left of a norm lies before padding
    PoolBehindShift(),
    ShiftIntoBias(),
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
    """What surgery did: nodes by op and cost before and after, and each pass that changed something.

    `left_alone` says why nothing was tried, where nothing was.
    """

    before: Mapping[str, int]
    after: Mapping[str, int]
    passes: tuple[PassCount, ...]
    rounds: int
    seconds: float
    work_before: Work
    work_after: Work
    left_alone: str = ""

    @classmethod
    def of_untouched(cls, path: Path, reason: str) -> "SurgeryReport":
        """The report on a file that surgery cannot carry."""
        ops = ops_of_file(path)
        return cls(ops, ops, (), 0, 0.0, Work(), Work(), reason)

    def __str__(self) -> str:
        costs = [f.name for f in fields(Work) if f.name != "unknown" or self.work_before.unknown]
        lines = [f"{'cost, batch 1':<24}{'before':>16}{'after':>16}"]
        lines += [f"{c:<24}{getattr(self.work_before, c):>16,}{getattr(self.work_after, c):>16,}" for c in costs]
        lines += [f"{'price, in elements':<24}{self.work_before.price:>16,.0f}{self.work_after.price:>16,.0f}"]
        ops = sorted({*self.before, *self.after}, key=lambda op: (-self.before.get(op, 0), op))
        counts = [*((op, self.before.get(op, 0), self.after.get(op, 0)) for op in ops)]
        counts.append(("nodes", sum(self.before.values()), sum(self.after.values())))
        lines += [f"{op:<24}{before:>16,}{after:>16,}" for op, before, after in counts]
        lines += [f"{p.name}: {p.rewrites} rewrites, {p.nodes_removed:+d} nodes fewer" for p in self.passes]
        lines += [f"left as it is: {self.left_alone}"] * bool(self.left_alone)
        return "\n".join(lines)


def simplify(
    source: Path | gs.Graph,
    target: Path,
    *,
    skip: Collection[str] = (),
    fixed_size: bool = False,
    metadata: Mapping[str, str] | None = None,
) -> SurgeryReport:
    """Write to `target` the smallest graph that computes what `source` does, an ONNX file or a graph; see `run_passes`.

    A file in which nothing can be done is copied byte for byte, with the files that its weights lie in. `metadata`
    joins what the file holds; a graph given is changed in place.

    Raises:
        ExportError: `source` cannot be read or fails the ONNX checker, `target` cannot be written, or the outcome fails
            the checker.

    """
    if not isinstance(source, Path):
        report = run_passes(source, skip=skip, fixed_size=fixed_size)
        write(source, target, metadata)
        check(target)
        return report
    passes, start = _chosen(skip, fixed_size=fixed_size), time.perf_counter()
    check(source, full=False)
    try:
        graph, held = read(source)
        sort(graph)
        refuse_unknown_types(graph)
        report = _run(graph, passes, start)
    except UnheldError as error:
        report = SurgeryReport.of_untouched(source, str(error))
    if report.passes or (metadata and not report.left_alone):
        write(graph, target, {**held, **(metadata or {})})
        check(target)
    else:
        copy(source, target)
    return report


def run_passes(graph: gs.Graph, *, skip: Collection[str] = (), fixed_size: bool = False) -> SurgeryReport:
    """Run every pass but those named in `skip` on `graph`, in place, until none changes anything.

    A pass that would fix the spatial size (`Pass.fixes_size`) runs only where `fixed_size` allows it: without it, the
    graph that is left takes other sizes wherever the one given did.

    Raises:
        ExportError: a name in `skip` is no pass; the graph has a cycle; its types or shapes contradict one another.

    """
    passes = _chosen(skip, fixed_size=fixed_size)
    start = time.perf_counter()
    sort(graph)
    infer_shapes(graph)
    return _run(graph, passes, start)


def _chosen(skip: Collection[str], *, fixed_size: bool) -> list[Pass]:
    unknown = set(skip) - {p.name for p in PASSES}
    if unknown:
        raise ExportError(f"no pass is called {sorted(unknown)[0]}; the passes are {', '.join(p.name for p in PASSES)}")
    return [p for p in PASSES if p.name not in skip and (fixed_size or not p.fixes_size)]


def _run(graph: gs.Graph, passes: Sequence[Pass], start: float) -> SurgeryReport:
    """`run_passes` on a sorted graph with its shapes inferred."""
    before = _ops(graph)
    name_nodes(graph)
    settled, fewer = settle(graph, passes)
    removed: Counter[str] = Counter()
    rounds = 0

    def rewrite(graph: gs.Graph, passes: Sequence[Pass]) -> Counter[str]:
        """Every pass until none changes anything."""
        nonlocal rounds
        rewrites: Counter[str] = Counter()
        removed.clear()
        rounds, changed = 0, True
        while changed and rounds < MAX_ROUNDS:
            rounds, changed = rounds + 1, False
            suppose_usual_sizes(graph, sizes_of(graph))
            for each in passes:
                nodes = len(graph.nodes)
                count = each.apply(graph)
                if count:
                    graph.cleanup().toposort()
                    changed = True
                rewrites[each.name] += count
                removed[each.name] += nodes - len(graph.nodes)
            if changed:
                infer_shapes(graph)  # a pass gives what it adds a shape: this fills in what could not be known before
        forget_usual_sizes(graph)
        forget_exact(graph)
        return rewrites

    rewrites, work_before, work_after = best_of(graph, passes, rewrite)
    settled.update(rewrites)
    fewer.update(removed)
    counts = tuple(PassCount(p.name, settled[p.name], fewer[p.name]) for p in PASSES if settled[p.name])
    return SurgeryReport(before, _ops(graph), counts, rounds, time.perf_counter() - start, work_before, work_after)


def _ops(graph: gs.Graph) -> dict[str, int]:
    graphs = (graph, *graph.subgraphs(recursive=True))
    return dict(sorted(Counter(node.op for each in graphs for node in each.nodes).items()))
