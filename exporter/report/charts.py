"""Charts as SVG within the page, in its colors, by day and by night.

matplotlib draws them: of the libraries that do without a browser it is the one that everyone has met, it is typed, and
its SVG keeps text as text. It takes colors as numbers alone: each of ours is drawn in a number of its own, which then
becomes the page's variable of that name.
"""

import hashlib
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

COLORS = ("text", "soft", "line", "accent", "good", "warn", "bad", "second", "card")
_INK = {name: f"#0{i}0{i}0{i}" for i, name in enumerate(COLORS, start=1)}
WIDTH = 4.2
"""Inches: what a phone shows at nearly full size."""
ROW = 0.27
STYLE: Any = {  # mypy would have each key be one of its literals
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "plainconv",  # the same chart is the same file
    "font.family": "sans-serif",
    "font.size": 8.5,
    "text.parse_math": False,  # a $ in a name is a $
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.edgecolor": _INK["line"],
    "axes.labelcolor": _INK["soft"],
    "text.color": _INK["text"],
    "xtick.color": _INK["soft"],
    "ytick.color": _INK["text"],
    "grid.color": _INK["line"],
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "ytick.major.size": 0,
}
NAME = 26
LETTER, AXIS = 4.8, 250.0
"""Points: the width of a letter in a bar, and what of an axis names beside it leave."""


@dataclass(frozen=True)
class Bar:
    """One bar, or one span of time: where on which row it lies, in which color."""

    row: str
    start: float
    length: float
    color: str = "accent"
    label: str = ""


def pairs(names: Sequence[str], before: Sequence[float], after: Sequence[float], title: str) -> Markup:
    """Two bars a name, the one above the other."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _figure(len(names) * 1.35)
        rows = range(len(names))
        axes.barh([r - 0.2 for r in rows], before, 0.36, color=_INK["line"], label="training")
        axes.barh([r + 0.2 for r in rows], after, 0.36, color=_INK["accent"], label="plain")
        for r, (a, b) in enumerate(zip(before, after, strict=True)):
            for value, at in ((a, r - 0.2), (b, r + 0.2)):
                axes.text(value, at, f" {value:,.0f}", va="center", fontsize=7.5, color=_INK["soft"])
        _rows(axes, names)
        axes.xaxis.set_visible(False)
        figure.legend(loc="outside upper left", ncols=2, borderpad=0)
        return _svg(figure, title)


def errors(rows: Sequence[tuple[str, float | None, float | None, float | None, str]], title: str) -> Markup:
    """A row for each parity (name, error, tolerance, eager's own error, color), on a logarithmic axis."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _figure(1.4 * len(rows) + 1.2)
        for r, (_, error, tolerance, own, color) in enumerate(rows):
            if error and tolerance:
                axes.plot([error, tolerance], [r, r], color=_INK["line"], linewidth=2, zorder=1)
            if own:
                axes.plot([own], [r], "o", markersize=5, markerfacecolor="none", markeredgecolor=_INK["soft"], zorder=2)
            if error:
                axes.plot([error], [r], "o", markersize=6, color=_INK[color], zorder=3)
            if tolerance:
                axes.plot([tolerance], [r], "|", markersize=13, markeredgewidth=2.5, color=_INK["warn"], zorder=2)
        axes.set_xscale("log")
        _decades(axes, [x for row in rows for x in row[1:4] if x])
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        _rows(axes, [row[0] for row in rows])
        return _svg(figure, title)


def spans(
    bars: Sequence[Bar], unit: str, title: str, legend: Mapping[str, str] | None = None, *, thin: bool = False
) -> Markup:
    """Bars on rows, in the order in which the rows first come; `legend` says what a color is."""
    rows = list(dict.fromkeys(bar.row for bar in bars))
    with matplotlib.rc_context(STYLE):
        figure, axes = _figure(len(rows) * (0.55 if thin else 1.2) + 1.4)
        end = max((bar.start + bar.length for bar in bars), default=0.0) or 1.0
        for bar in bars:
            axes.barh(rows.index(bar.row), bar.length, 0.72, left=bar.start, color=_INK[bar.color])
            if len(bar.label) * LETTER < bar.length / end * AXIS:
                at = bar.start + bar.length / 2
                row, ink = rows.index(bar.row), _INK["card"]
                axes.text(at, row, bar.label, clip_on=True, color=ink, fontsize=7.5, ha="center", va="center")
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        axes.set_xlabel(unit)
        _rows(axes, rows)
        if thin:
            axes.tick_params(axis="y", labelsize=6.5)
        used = {bar.color for bar in bars}
        for color, name in (legend or {}).items():
            if color in used:
                axes.barh(0, 0, color=_INK[color], label=name)
        if legend:
            figure.legend(loc="outside upper left", ncols=2, borderpad=0)
        return _svg(figure, title)


def histogram(samples: Mapping[str, Sequence[float]], title: str) -> Markup:
    """How often a call took how many milliseconds, a color a runner; the slowest percent is left out."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _figure(8)
        every = sorted(ms for each in samples.values() for ms in each)
        end = every[min(len(every) - 1, math.ceil(0.99 * len(every)))]
        width = max(end - every[0], 1e-9)
        edges = [every[0] + width * i / 40 for i in range(41)]
        for (name, each), color in zip(
            samples.items(), ("accent", "second", "warn", "soft") * len(samples), strict=False
        ):
            axes.hist(each, bins=edges, color=_INK[color], alpha=0.75, label=_short(name))
        axes.set_xlabel("milliseconds a call")
        axes.yaxis.set_visible(False)
        axes.legend(loc="upper right")
        return _svg(figure, title)


def _figure(rows: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, max(1.1, rows * ROW)), layout="constrained")
    axes: Axes = figure.subplots()
    return figure, axes


def _rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), ["\n".join(map(_short, name.split("\n"))) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)


def _decades(axes: Axes, values: Sequence[float]) -> None:
    """A logarithmic axis of whole decades, as many of them named as there is room for."""
    low, high = (math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))) if values else (-8, 0)
    high = max(high, low + 1)
    axes.set_xlim(10.0 ** (low - 0.1), 10.0 ** (high + 0.1))
    ticks = range(low, high + 1, max(1, (high - low) // 6))
    axes.set_xticks([10.0**n for n in ticks], [f"1e{n}" for n in ticks])
    axes.xaxis.set_minor_formatter(NullFormatter())


def _short(name: str) -> str:
    """Its beginning and its end, which tell most."""
    return name if len(name) <= NAME else f"{name[:9]}…{name[10 - NAME :]}"


def _svg(figure: Figure, title: str) -> Markup:
    """The chart as an element of the page: the page's colors, and of ids those that it refers to."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    own = hashlib.sha256(title.encode()).hexdigest()[:6]
    used = set(re.findall(r"#(\w+)", text))
    text = re.sub(r' id="([^"]*)"', lambda m: f' id="{own}{m[1]}"' if m[1] in used else "", text)
    text = re.sub(r'(href="#|url\(#)(?=\w)', rf"\g<1>{own}", text)
    for name, ink in _INK.items():
        text = text.replace(ink, f"var(--{name})")
    size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text)
    assert size is not None
    head = f'<svg role="img" aria-label="{Markup.escape(title)}" class="chart" viewBox="{size[0][9:-1]}">'
    return Markup(re.sub(r"<svg[^>]*>", lambda _: head, text, count=1))
