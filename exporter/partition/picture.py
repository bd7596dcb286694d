"""A plan and what it is expected to take, as lines that a terminal shows."""

import math
from collections.abc import Sequence

from .cost import Link
from .plan import Plan
from .planner import Proposal, micro
from .predict import Edge, PartTime, Prediction
from .simulate import HOME

BAR = 40
"""Columns of the timeline."""


def picture(proposal: Proposal, link: Link | None = None) -> list[str]:
    """The parts on a timeline, what crosses, the longest path (marked ▸), speed-up, break-even and the verdict."""
    if proposal.plan is None or proposal.prediction is None:
        return [f"not split: {proposal.refusal}"]
    plan, predicted = proposal.plan, proposal.prediction
    places = f"{plan.devices} devices" if plan.devices > 1 else f"1 device, {plan.streams} streams"
    over = f" over {link}" if link is not None and plan.devices > 1 else ""
    if len(plan.parts) == 1:
        return [f"1 part on 1 device: {micro(predicted.whole)}"]
    lines = [f"{len(plan.parts)} parts on {places}{over} · ▸ what the end waits for"]
    lines += _part_lines(predicted)
    lines += _edge_lines(predicted)
    lines.append(f"longest path: {' ▸ '.join(predicted.critical)}")
    return lines + _verdict_lines(proposal, predicted)


def _part_lines(predicted: Prediction) -> list[str]:
    rows = [
        (
            "▸" if part.critical else " ",
            part.name,
            f"device {part.device}" + (f" stream {part.stream}" if part.stream else ""),
            f"{part.share:6.1%} of the MACs",
            micro(part.finish - part.start),
            _bar(part, predicted.seconds),
        )
        for part in predicted.parts
    ]
    return _columns(rows)


def _bar(part: PartTime, end: float) -> str:
    """When the part runs, from start to end."""
    if end <= 0:
        return ""
    first = min(BAR - 1, int(part.start / end * BAR))
    last = max(first + 1, min(BAR, math.ceil(part.finish / end * BAR)))
    return "·" * first + "█" * (last - first) + "·" * (BAR - last)


def _edge_lines(predicted: Prediction) -> list[str]:
    if not predicted.edges:
        return ["nothing is sent from device to device"]
    rows = [
        ("▸" if e.critical else " ", f"{e.source or 'input'} → device {e.device}", size(e.bytes), _wait(e), e.value)
        for e in predicted.edges
    ]
    return [f"sent: {size(predicted.sent)} in {len(rows)} copies", *_columns(rows)]


def _wait(edge: Edge) -> str:
    return micro(edge.arrival - edge.begin)


def _verdict_lines(proposal: Proposal, predicted: Prediction) -> list[str]:
    never = predicted.break_even == math.inf
    pays = "never pays" if never else f"pays where the whole takes {micro(predicted.break_even)} and more"
    lines = [
        f"predicted {micro(predicted.seconds)} against {micro(predicted.whole)} whole: {predicted.speedup:.2f}×; "
        f"{predicted.bound:.2f}× if nothing were sent or launched",
        f"{predicted.mac_path:.1%} of the MACs on the longest path, {predicted.work - 1:.1%} computed again; {pays}",
    ]
    return [*lines, f"does not pay: {proposal.refusal}"] if proposal.refusal else lines


def size(count: float) -> str:
    """Bytes as a person reads them."""
    for unit, scale in (("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.2f} {unit}"
    return f"{count:.0f} B"


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def lines_of_plan(plan: Plan) -> list[str]:
    """What each part reads and writes, where no prediction is at hand."""
    rows = [
        (p.name, "home" if p.device == HOME else f"device {p.device}", f"{', '.join(p.reads)} → {', '.join(p.writes)}")
        for p in plan.parts
    ]
    return _columns(rows) if rows else []
