"""Everything that is wrong with a plan, hand-written ones too."""

import re
from collections import Counter

from .plan import Part, Plan
from .wiring import Wiring

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,62}[A-Za-z0-9_-])?")


def problems_of_plan(plan: Plan, wiring: Wiring) -> list[str]:
    """One line each; none if and only if the parts run in order and recompose to the network, with nothing to spare."""
    problems = [] if plan.parts else ["the plan has no parts"]
    for what, number in (("devices", plan.devices), ("streams", plan.streams)):
        if number < 1:
            problems.append(f"{what} is {number}, wanted 1 or more")
    for name, count in Counter(part.name.lower() for part in plan.parts).items():
        if count > 1:
            problems.append(f"{count} parts are called {name}; a part's name is its file's, give each its own")
    for part in plan.parts:
        problems += [f"part {part.name}: {line}" for line in _problems_of_part(part, plan, wiring)]
    problems += _order_problems(plan, wiring)
    problems += _output_problems(plan, wiring)
    problems += _twice_problems(plan, wiring)
    return problems + _idle_problems(plan, wiring)


def _problems_of_part(part: Part, plan: Plan, wiring: Wiring) -> list[str]:
    """What is wrong with one part by itself."""
    problems = []
    if not _NAME.fullmatch(part.name):
        problems.append(
            "its name is a file's: wanted up to 64 letters, digits, '_', '.', '-', the first a letter or digit"
        )
    for what, number, count in (("device", part.device, plan.devices), ("stream", part.stream, plan.streams)):
        if not 0 <= number < count:
            problems.append(f"{what} {number}, wanted 0 to {count - 1}")
    if not part.writes:
        problems.append("it writes nothing; leave it out")
    for verb, values in (("reads", part.reads), ("writes", part.writes)):
        problems += [f"{verb} {value} {n} times" for value, n in Counter(values).items() if n > 1]
        for value in dict.fromkeys(values):
            problem = _problem_of_value(value, wiring)
            if problem:
                problems.append(f"{verb} {value}, {problem}")
    made = [value for value in dict.fromkeys(part.writes) if value in wiring.maker]
    for value in dict.fromkeys(part.writes):
        if value in part.reads:
            problems.append(f"writes {value}, which it reads")
        elif value in wiring.inputs:
            problems.append(f"writes {value}, an input of the network")
    _, ends = wiring.needed(made, part.reads)
    problems += [
        f"it takes the input {value} to compute its writes, and does not read it"
        for value in wiring.inputs
        if value in ends and value not in part.reads
    ]
    if made:
        idle = [value for value in dict.fromkeys(part.reads) if value in wiring.specs and value not in ends]
        problems += [f"reads {value}, which its writes do not need" for value in idle if value not in wiring.constants]
    return problems


def _problem_of_value(value: str, wiring: Wiring) -> str | None:
    """Why `value` cannot go from part to part."""
    if value in wiring.constants:
        return "a constant, of which each part has its own"
    if value not in wiring.specs:
        return "which the network does not have"
    if wiring.specs[value].dtype is None:
        return "which is of no known tensor type; cut elsewhere"
    return None


def _order_problems(plan: Plan, wiring: Wiring) -> list[str]:
    """Reads that no part writes, none before the reader, or only parts that wait for the reader themselves."""
    problems = []
    first = {v: at for at, part in reversed(list(enumerate(plan.parts))) for v in part.writes}
    waits = {
        at: {first[v] for v in part.reads if v in first and v not in wiring.inputs}
        for at, part in enumerate(plan.parts)
    }
    for at, part in enumerate(plan.parts):
        for value in dict.fromkeys(part.reads):
            if value in wiring.inputs or value not in wiring.maker or plan.writer(value, at) is not None:
                continue
            if value not in first:
                problems.append(f"part {part.name}: reads {value}, which no part writes")
            elif first[value] == at:
                pass  # it reads what it writes, which is said of the part itself
            elif at in _behind(first[value], waits):
                other = plan.parts[first[value]].name
                problems.append(f"part {part.name}: reads {value} of {other}, which waits for it: a cycle; split one")
            else:
                other = plan.parts[first[value]].name
                problems.append(f"part {part.name}: reads {value}, which {other} writes after it; list {other} before")
    return problems


def _behind(at: int, waits: dict[int, set[int]]) -> set[int]:
    """The parts that the one at `at` waits for, directly or not."""
    found, stack = set[int](), [at]
    while stack:
        for other in waits[stack.pop()] - found:
            found.add(other)
            stack.append(other)
    return found


def _output_problems(plan: Plan, wiring: Wiring) -> list[str]:
    written = {value for part in plan.parts for value in part.writes}
    problems = []
    for value in dict.fromkeys(wiring.outputs):
        if value in wiring.constants:
            problems.append(f"output {value} of the network is a constant, which no part writes; do not split it")
        elif value not in wiring.inputs and value not in written:
            problems.append(f"no part writes {value}, an output of the network")
    return problems


def _twice_problems(plan: Plan, wiring: Wiring) -> list[str]:
    """Values that two parts of one device write, and random ones that two parts compute."""
    problems = []
    writers: dict[tuple[int, str], list[str]] = {}
    for part in plan.parts:
        for value in dict.fromkeys(part.writes):
            writers.setdefault((part.device, value), []).append(part.name)
    for (device, value), names in writers.items():
        if len(names) > 1:
            problems.append(f"{' and '.join(names)} write {value}, all on device {device}; let one of them")
    for at, op in enumerate(wiring.ops):
        if op.random:
            names = [part.name for part in plan.parts if at in wiring.needed(part.writes, part.reads)[0]]
            if len(names) > 1:
                problems.append(f"{' and '.join(names)} each compute {op.name}, which is random: they would differ")
    return problems


def _idle_problems(plan: Plan, wiring: Wiring) -> list[str]:
    """Values written that no part gets from their writer and that are no output taken from it; parts of only those."""
    used = {
        (at, v)
        for reader, part in enumerate(plan.parts)
        for v in part.reads
        if (at := plan.writer(v, reader)) is not None
    }
    used |= {(at, v) for v in wiring.outputs if (at := plan.source(v, 0)) is not None}
    problems = []
    for at, part in enumerate(plan.parts):
        idle = [v for v in dict.fromkeys(part.writes) if (at, v) not in used and v in wiring.maker]
        if idle and len(idle) == len(set(part.writes)):
            problems.append(f"part {part.name}: nothing reads what it writes; leave it out")
        else:
            problems += [f"part {part.name}: writes {v}, which nothing reads from it" for v in idle]
    return problems
