"""Why a norm is still there when all is done: one refusal for each."""

from collections.abc import Collection, Sequence

import torch
from torch import fx

from .carriers import carried
from .graph import arguments
from .lift import Linear
from .regions import Planned
from .report import Refusal

aten = torch.ops.aten


def norms_left(plan: Planned, kept: Collection[str], known: Sequence[Refusal]) -> list[Refusal]:
    """A refusal for each batch norm among the nodes named `kept` that has none among the `known`."""
    said = {refusal.node for refusal in known}
    norms = (node for node in plan.planner.graph.nodes if node.target is aten.batch_norm.default)
    return [Refusal(n.name, "NORM", *_why(plan, n)) for n in norms if n.name in kept and n.name not in said]


def _why(plan: Planned, norm: fx.Node) -> tuple[str, str]:
    """What is around a norm, and the remedy."""
    lifter, nothing = plan.lifter, "nothing to do"
    if not all(lifter.is_constant(n) for n in norm.all_input_nodes[1:]):
        return "a norm whose scale or shift is computed from the input", nothing
    source = arguments(norm)["input"]
    if source in lifter.constants:
        return "a norm of a constant that is larger than what it is made of", "store the result as a buffer"
    passed = []
    while (step := carried(source)) is not None:
        passed.append(_kind(source))
        source = step[0]
    behind = f", behind {', '.join(passed)}" if passed else ""
    if isinstance(plan.planner.ops.get(source), Linear) and len(source.users) > 1:
        others = [user.name for user in source.users if user is not norm]
        return (
            f"a norm of what {source.name} makes, which {_listed(others)} reads without it{behind}",
            "nothing to do: one convolution cannot make both",
        )
    return (
        f"a norm of the {_kind(source)} {source.name}{behind}, read by {_listed([_kind(u) for u in norm.users])}",
        f"{nothing}: no convolution or Linear beside it can take it in",
    )


def _kind(node: fx.Node) -> str:
    if node.op in ("placeholder", "output"):
        return {"placeholder": "input", "output": "the output"}[node.op]
    target = node.target
    return target.overloadpacket.__name__ if isinstance(target, torch._ops.OpOverload) else str(target)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(names))
