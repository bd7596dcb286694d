"""Structural reparameterization by algebra on the traced graph, for any network."""

import warnings
from collections import Counter
from typing import get_args

import torch
from torch import Tensor, fx, nn

from ..errors import PlainconvWarning, ReparamError
from .affine import AffineMap
from .build import own_macs
from .carry import carry_norms
from .end_to_end import EndToEnd, OneImageError, check_end_to_end
from .forms import Axis, Form, IllegalError
from .graph import is_guard
from .leaves import affine_leaf, leaves_replaced
from .left import norms_left
from .lift import rule
from .regions import planned
from .report import Refusal, Region, Report
from .rewrite import rewrite
from .trace import Tracer, trace

__all__ = [
    "AffineMap",
    "Axis",
    "EndToEnd",
    "Form",
    "IllegalError",
    "Refusal",
    "Region",
    "Report",
    "affine_leaf",
    "reparameterize",
    "rule",
    "unwrapped",
]


@torch.no_grad()
def reparameterize(
    module: nn.Module,
    example: Tensor | tuple[Tensor, ...],
    *,
    check: bool = True,
    tracer: Tracer = "auto",
    open_sizes: bool = True,
) -> tuple[fx.GraphModule, Report]:
    """The same function with every mergeable chain and branch of affine ops as one convolution.

    `module` must be in eval mode and is not changed; the plain network shares no tensor with it. `example` is an input
    (or a tuple of them) of the module's dtype, [N, C, *spatial]; the result takes other batch and spatial sizes
    wherever the module does, but for a module that does something else for the example's batch: then it refuses others.
    Kernels are computed in float64 and rounded once to the module's dtype (VanillaNet eq. 3 and 4; Non-deep Networks
    §3.1; and everything else that is affine).

    Args:
        module: the training-time network.
        example: what it is called with.
        check: compare the whole plain network with the whole module in float64 at several sizes; the regions are
            checked one by one in any case.
        tracer: "export" or "fx"; "auto" tries torch.export first.
        open_sizes: leave spatial sizes open where the module reads them, which may take long; if not, the result of
            such a module is for the example's spatial size alone.

    Raises:
        ReparamError: the module is in train mode or quantized, changes from call to call, does not run on the example,
            or cannot be traced; a rule of `affine_leaf` is wrong.
        CheckFailedError: a merged convolution does not reproduce its ops, or the plain network not the module.

    """
    examples = tuple(example) if isinstance(example, (tuple, list)) else (example,)
    module = unwrapped(module)
    _refuse_arguments(module, examples, tracer)
    try:
        return _reparameterized(module, examples, check, tracer, open_sizes, open_batch=True)
    except OneImageError:  # it branches on its batch, which a trace of several images takes for a number above one
        return _reparameterized(module, examples, check, tracer, open_sizes, open_batch=False)


def _reparameterized(
    module: nn.Module, examples: tuple[Tensor, ...], check: bool, tracer: Tracer, open_sizes: bool, open_batch: bool
) -> tuple[fx.GraphModule, Report]:
    with leaves_replaced(module, examples) as affine:
        traced = trace(affine, examples, tracer, open_sizes=open_sizes, open_batch=open_batch)
    graph_module = traced.graph_module
    counts_before, ops_before = _counts(graph_module), _ops(graph_module)
    if traced.tracer == "torch.export":  # it keeps sizes as symbols, so that what is carried is so at all of them
        carry_norms(graph_module)
    plan = planned(graph_module)
    report, ops = plan.report, plan.planner.ops
    report.tracer, report.guards, report.counts_before = traced.tracer, traced.guards, counts_before
    report.ops_before = ops_before
    report.macs_before = sum(own_macs(node, op) for node, op in ops.items())
    rewritten = rewrite(graph_module, plan)
    report.regions = rewritten.regions
    kept = {node.name for node in rewritten.module.graph.nodes}
    report.macs_after = sum(region.macs_after for region in report.regions)
    report.macs_after += sum(own_macs(node, op) for node, op in ops.items() if node.name in kept)
    report.counts_after = _counts(rewritten.module)
    report.refusals += norms_left(plan, kept, report.refusals)
    if check:
        guarded = bool(report.guards) or any(region.least_size for region in report.regions)
        report.end_to_end = check_end_to_end(
            module,
            rewritten.module,
            examples,
            traced.open_axes,
            macs=report.macs_before,
            guarded=guarded,
            reads_sizes=traced.reads_sizes,
        )
    if traced.autocast:
        warnings.warn(
            f"forward switches autocast on ({', '.join(traced.autocast)}): the plain network computes that in the "
            "dtype of its weights; choose a lower precision when an engine is built",
            PlainconvWarning,
            stacklevel=3,
        )
    return rewritten.module, report


def unwrapped(module: nn.Module) -> nn.Module:
    """The network inside torch.compile's wrapper, or one that spreads it over devices."""
    while True:
        inner = getattr(module, "_orig_mod", None)
        if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            inner = module.module
        if inner is None:
            return module
        module = inner


def _refuse_arguments(module: object, examples: tuple[object, ...], tracer: str) -> None:
    """Raise for what is no module, no tensor or no tracer."""
    if not isinstance(module, nn.Module):
        raise ReparamError(f"{type(module).__name__} is no torch.nn.Module; reparameterize(module, example) wants one")
    for x in examples:
        if not isinstance(x, Tensor) or not x.numel():
            found = "a tensor without elements" if isinstance(x, Tensor) else type(x).__name__
            raise ReparamError(f"the example is {found}; wanted a tensor, or a tuple of them, as the module takes")
    if tracer not in get_args(Tracer):
        raise ReparamError(f"there is no tracer {tracer!r}; wanted one of {', '.join(get_args(Tracer))}")


def _ops(graph_module: fx.GraphModule) -> dict[str, int]:
    """How many ops of each name a graph has."""
    names = Counter[str]()
    for node in graph_module.graph.nodes:
        if node.op == "call_module" and not is_guard(node):
            names[type(graph_module.get_submodule(str(node.target))).__name__.lower()] += 1
        elif isinstance(node.target, torch._ops.OpOverload):
            names[node.target.overloadpacket.__name__] += 1
    return {name: count for name, count in names.items() if not name.startswith("sym_")}  # sizes are no work


def _counts(graph_module: fx.GraphModule) -> dict[str, int]:
    """How many convolutions, Linears and batch norms a graph has."""
    names = Counter(_ops(graph_module))
    convs = [name for name in names if name.startswith(("conv1d", "conv2d", "conv3d", "conv_transpose", "convolution"))]
    convs += [name for name in names if name.startswith("convtranspose")]
    return {
        "conv": sum(names[n] for n in convs),
        "linear": names["linear"],
        "norm": sum(names[n] for n in ("batch_norm", "batchnorm1d", "batchnorm2d", "batchnorm3d")),
    }
