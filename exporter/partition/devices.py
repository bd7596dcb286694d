"""The GPUs that are known by name: what their data sheets say (devices.json), and what real kernels reach of it."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import PlanError
from .cost import A100, Device

REACHED = {"fp32": 0.82, "tf32": 0.4, "fp16": 0.385, "bf16": 0.385, "int8": 0.353, "fp8": 0.353, "bandwidth": 0.965}
"""The shares of its peaks that an A100 reaches at batch 1, `cost.A100`; taken for the others, too."""


@dataclass(frozen=True)
class Sheet:
    """A GPU by its data sheet: `device` has its peak rates, in multiply-accumulates and bytes a second."""

    name: str
    title: str
    target: str
    source: str
    device: Device

    def reached(self) -> Device:
        """The rates that the planner goes by."""
        if self.name == "a100":
            return A100
        peak = self.device
        macs = {kind: rate * REACHED[kind] for kind, rate in peak.macs.items()}
        bandwidth = peak.bandwidth * REACHED["bandwidth"]
        return Device(self.title, macs, bandwidth, A100.kernel, A100.part, A100.event, peak.lanes)


def sheet_of_name(name: str) -> Sheet:
    """The GPU called `name`, such as "a100". Raises PlanError with the names that there are."""
    known = sheets()
    if name.lower() not in known:
        raise PlanError(f"no device is called {name!r}; wanted one of {', '.join(known)}")
    return known[name.lower()]


@cache
def sheets() -> dict[str, Sheet]:
    """Every GPU of devices.json by its name."""
    data = json.loads(Path(__file__).with_name("devices.json").read_text(encoding="utf-8"))
    return {name: _sheet(name, each) for name, each in data["devices"].items()}


def _sheet(name: str, data: dict[str, Any]) -> Sheet:
    macs = {kind: rate * 1e12 / 2 for kind, rate in data["peak"].items()}
    peak = Device(data["title"], macs, data["bandwidth"] * 1e9, A100.kernel, A100.part, A100.event, data["threads"])
    return Sheet(name, data["title"], data["target"], data["source"], peak)
