"""The report of a bundle: its sections, one after another, in one HTML file.

Jinja2 fills the templates, which are in every PyTorch environment with it: it escapes all that comes from outside, by
itself, wherever it is put.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jinja2

from ..bundle import Bundle
from ..partition.devices import Sheet
from ..version import __version__
from . import layers, network, parity, precision, provenance, split, summary

SECTIONS = (summary, network, parity, layers, precision, split, provenance)
"""Each has `section(bundle, extras)`: what its template of the same name is filled with, None where it has nothing."""


@dataclass(frozen=True)
class Extras:
    """What a report shows beside the bundle: a GPU's floor, seconds by node, and samples of `exporter bench` by runner.

    `latencies` are in milliseconds. `measured_on` says where they, or the seconds, are from.
    """

    sheet: Sheet
    profile: Mapping[str, float] = field(default_factory=dict)
    latencies: Mapping[str, Sequence[float]] = field(default_factory=dict)
    measured_on: str = ""


def report_of_bundle(bundle: Bundle, extras: Extras) -> str:
    """The report as HTML, all of it in one file. Raises PlanError where a graph of the bundle cannot be counted."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("plainconv.exporter.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    environment.filters |= {"si": _si, "power": _power}
    filled: list[dict[str, Any]] = []
    for section in SECTIONS:
        found = section.section(bundle, extras)
        if found is not None:
            name = section.__name__.rpartition(".")[2]
            filled.append({"name": name, "title": section.TITLE, **found})
    return environment.get_template("report.html").render(
        bundle=bundle, manifest=bundle.manifest, sections=filled, version=__version__
    )


def _si(value: float | None, unit: str = "") -> str:
    """1234567 → "1.23 M"."""
    if value is None:
        return "–"
    for scale, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= scale:
            return f"{value / scale:.3g} {prefix}{unit}"
    return f"{value:.3g}{f' {unit}' if unit else ''}"


def _power(value: float | None) -> str:
    """1.2e-07 → "1.2e-07", None → "–"."""
    return "–" if value is None else f"{value:.1e}"
