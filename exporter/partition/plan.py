"""A network as parts that run on several devices, or streams of one: what a plan says, and its JSON."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import PlanError
from ..reading import SMALL, read_at_most

FORMAT = "plainconv-plan"
FORMAT_VERSION = 1
_KEYS = {"format": str, "format_version": int, "devices": int, "streams": int, "parts": list}
_PART_KEYS = {"name": str, "device": int, "stream": int, "reads": list, "writes": list}


@dataclass(frozen=True)
class Part:
    """What computes `writes` from `reads` on one stream of one device; its nodes are those that takes.

    Parts may overlap: one that reads an image and writes a stream's result computes the stem on its own device. A value
    that several devices compute is read from the reader's own, else from the first part in the plan that writes it.
    """

    name: str
    device: int
    stream: int
    reads: tuple[str, ...]
    writes: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """Parts in an order in which they can run, for `devices` of `streams` streams each.

    Parts of one stream run one after another in this order. The network's inputs lie on device 0, where its outputs
    are wanted.
    """

    parts: tuple[Part, ...]
    devices: int
    streams: int = 1

    def writer(self, value: str, reader: int) -> int | None:
        """The position of the part from which the one at `reader` gets `value`; None where none writes it before."""
        return self.source(value, self.parts[reader].device, before=reader)

    def source(self, value: str, device: int, before: int | None = None) -> int | None:
        """The position of the part from which `device` gets `value`, of the parts `before` that position."""
        writers = [at for at, part in enumerate(self.parts[:before]) if value in part.writes]
        own = [at for at in writers if self.parts[at].device == device]
        return next(iter(own + writers), None)

    def to_json(self) -> str:
        """The plan as a file holds it: readable, and the same text for the same plan."""
        head = {"format": FORMAT, "format_version": FORMAT_VERSION, "devices": self.devices, "streams": self.streams}
        parts = [{key: getattr(part, key) for key in _PART_KEYS} for part in self.parts]
        return json.dumps({**head, "parts": parts}, indent=2, ensure_ascii=False) + "\n"


def plan_of_json(text: str, name: str = "plan") -> Plan:
    """The plan in the text of a file called `name`. Raises PlanError with everything that is wrong with the text."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PlanError(f"{name} is not JSON ({error}); `exporter inspect --plan --json` prints one") from None
    if not isinstance(data, dict):
        raise PlanError(
            f"{name} is {_called(data)}, wanted an object with devices and parts; "
            "`exporter inspect --plan --json` prints one"
        )
    problems = _problems_of_object(
        data, {"format_version": FORMAT_VERSION, "format": FORMAT, "streams": 1} | data, _KEYS
    )
    for key, wanted in (("format", FORMAT), ("format_version", FORMAT_VERSION)):
        if data.get(key, wanted) != wanted:
            problems.append(f"{key} is {_called(data[key])}, wanted {wanted!r}")
    parts = data.get("parts") if isinstance(data.get("parts"), list) else []
    made = [_part_of_json(item, f"parts[{at}]", problems) for at, item in enumerate(parts or [])]
    if problems:
        raise PlanError(f"{name}: {'; '.join(problems)}; `exporter inspect --plan --json` prints a whole one")
    return Plan(tuple(part for part in made if part), data["devices"], data.get("streams", 1))


def read_plan(path: Path) -> Plan:
    """The plan in the file at `path`. Raises PlanError where it cannot be read."""
    try:
        text = read_at_most(path, SMALL).decode()
    except (OSError, ValueError) as error:
        raise PlanError(f"{path} cannot be read ({error}); give what `exporter inspect --plan --json` prints") from None
    return plan_of_json(text, path.name)


def _part_of_json(data: Any, where: str, problems: list[str]) -> Part | None:
    if not isinstance(data, dict):
        problems.append(f"{where} is {_called(data)}, wanted an object")
        return None
    found = _problems_of_object(data, {"stream": 0} | data, _PART_KEYS)
    for key in ("reads", "writes"):
        values = data.get(key)
        if isinstance(values, list) and not all(isinstance(v, str) for v in values):
            found.append(f"{key} holds {_called(next(v for v in values if not isinstance(v, str)))}, wanted names")
    problems.extend(f"{where}: {line}" for line in found)
    if found:
        return None
    return Part(data["name"], data["device"], data.get("stream", 0), tuple(data["reads"]), tuple(data["writes"]))


def _problems_of_object(data: Mapping[str, Any], whole: Mapping[str, Any], keys: Mapping[str, type]) -> list[str]:
    """What is missing of `keys` in `whole`, is of another type, or not known at all."""
    problems = [f"{key} is missing" for key in keys if key not in whole]
    problems += [
        f"{key} is {_called(whole[key])}, wanted {kind.__name__}"
        for key, kind in keys.items()
        if key in whole and (not isinstance(whole[key], kind) or isinstance(whole[key], bool))
    ]
    return problems + [f"unknown key {key!r}" for key in data if key not in keys]


def _called(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:39] + "…"
