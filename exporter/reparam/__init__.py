"""Structural reparameterization by algebra on the traced graph, for any network."""

from collections import Counter

import torch
from torch import Tensor, fx, nn

from . import rules as rules  # registers them
from .affine import AffineMap
from .build import own_macs
from .forms import Axis, Form, IllegalError
from .lift import Lifter, Op, rule
from .plan import Planner
from .report import Refusal, Region, Report
from .rewrite import rewrite
from .trace import trace

__all__ = ["AffineMap", "Axis", "Form", "IllegalError", "Refusal", "Region", "Report", "reparameterize", "rule"]


@torch.no_grad()
def reparameterize(module: nn.Module, example: Tensor | tuple[Tensor, ...]) -> tuple[fx.GraphModule, Report]:
    """The same function with every mergeable chain and branch of affine ops as one convolution.

    `module` must be in eval mode and is not changed; the plain network shares no tensor with it. `example` is an input
    (or a tuple of them) of the module's dtype, [N, C, *spatial]; the result takes other batch and spatial sizes
    wherever the module does. Kernels are computed in float64 and rounded once to the module's dtype (VanillaNet
    eq. 3 and 4; Non-deep Networks §3.1; and everything else that is affine). Raises ReparamError for a module in train
    mode or one that cannot be traced, and CheckFailedError if a merged convolution does not reproduce its ops.
    """
    examples = example if isinstance(example, tuple) else (example,)
    graph_module = trace(module, examples)
    lifter = Lifter(graph_module)
    ops: dict[fx.Node, Op] = {}
    report = Report(counts_before=_counts(graph_module))
    for node in graph_module.graph.nodes:
        try:
            op = lifter.lift(node)
        except IllegalError as error:
            report.refusals.append(Refusal(node.name, error.code, error.found, error.remedy))
            continue
        if op is not None:
            ops[node] = op
    planner = Planner(graph_module.graph, ops)
    choices = planner.plan()
    report.macs_before = sum(own_macs(node, op) for node, op in ops.items())
    report.refusals += planner.refusals
    rewritten = rewrite(graph_module, lifter, planner, choices)
    report.regions = rewritten.regions
    kept = {node.name for node in rewritten.module.graph.nodes}
    report.macs_after = sum(region.macs_after for region in report.regions)
    report.macs_after += sum(own_macs(node, op) for node, op in ops.items() if node.name in kept)
    report.counts_after = _counts(rewritten.module)
    return rewritten.module, report


def _counts(graph_module: fx.GraphModule) -> dict[str, int]:
    """How many convolutions, Linears and batch norms a graph has."""
    names = Counter[str]()
    for node in graph_module.graph.nodes:
        if node.op == "call_module":
            names[type(graph_module.get_submodule(str(node.target))).__name__.lower()] += 1
        elif isinstance(node.target, torch._ops.OpOverload):
            names[node.target.overloadpacket.__name__] += 1
    kinds = {"conv": ("conv1d", "conv2d", "conv3d", "convolution"), "linear": ("linear",), "norm": ("batch_norm",)}
    return {kind: sum(names[n] for n in members) for kind, members in kinds.items()}
