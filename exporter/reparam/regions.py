"""From a graph of ATen calls to a plan: lift every node, then choose what to merge."""

from dataclasses import dataclass

from torch import fx

from .choices import Choices
from .forms import IllegalError
from .lift import Lifter, Op
from .plan import Planner
from .report import Refusal, Report


@dataclass(frozen=True)
class Planned:
    """A graph's affine ops, what to compute them by, and the report as far as it goes."""

    lifter: Lifter
    planner: Planner
    choices: Choices
    report: Report


def planned(graph_module: fx.GraphModule) -> Planned:
    """Lift and plan; no kernel is built and the graph is not changed."""
    lifter = Lifter(graph_module)
    ops: dict[fx.Node, Op] = {}
    report = Report()
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
    report.refusals += planner.refusals
    return Planned(lifter, planner, choices, report)
