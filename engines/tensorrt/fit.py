"""Whether engines are those of a schedule's parts."""

from collections.abc import Mapping, Sequence
from typing import Any

from plainconv.exporter.bundle import ShapeRange, TensorSpec
from plainconv.exporter.errors import EngineError

from ..schedule import Schedule
from .parts import PartEngine


def check_engines(
    schedule: Schedule,
    parts: Sequence[PartEngine],
    devices: Sequence[int],
    profiles: Sequence[Mapping[str, ShapeRange]],
) -> None:
    """Raise EngineError unless there is an engine for each step, in order, of its tensors, on its device."""
    problems = _problems(schedule, parts, devices, profiles)
    if problems:
        raise EngineError(f"the engines are not those of the parts: {'; '.join(problems)}; build them again")
    for step, part in zip(schedule.steps, parts, strict=True):
        what = f"the engine of part {part.name}" if part.name else "the engine"
        _check_names(what, part.engine, (*step.part.inputs, *step.part.outputs))


def _problems(
    schedule: Schedule,
    parts: Sequence[PartEngine],
    devices: Sequence[int],
    profiles: Sequence[Mapping[str, ShapeRange]],
) -> list[str]:
    names, wanted = [part.name for part in parts], [step.part.name for step in schedule.steps]
    if names != wanted:
        return [f"they are {', '.join(names) or 'none'}, wanted {', '.join(wanted)}"]
    used = 1 + max(step.place[0] for step in schedule.steps)
    if len(devices) < used:
        return [f"the plan uses {used} devices, {len(devices)} are given"]
    problems = []
    for step, part in zip(schedule.steps, parts, strict=True):
        if part.device != devices[step.place[0]]:
            problems.append(f"{part.words} is on GPU {part.device}, wanted GPU {devices[step.place[0]]}")
        if part.profiles and len(part.profiles) != len(profiles):
            problems.append(f"{part.words} has {len(part.profiles)} optimization profiles, the network {len(profiles)}")
    return problems


def _check_names(what: str, engine: Any, specs: Sequence[TensorSpec]) -> None:
    """Raise EngineError where an engine's tensors are not these."""
    names = {engine.get_tensor_name(i) for i in range(engine.num_io_tensors)}
    wanted = {spec.name for spec in specs}
    if names != wanted:
        raise EngineError(f"{what} has tensors {sorted(names)}, its bundle says {sorted(wanted)}; build it again")
