"""Options of a network: what each is by default, and what values it takes.

One `Option` per keyword of a network's class; `create` and the command line's --set check values against it.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Option:
    """A keyword of a network: its default, the words for what it takes, and the check itself."""

    default: Any
    wanted: str
    accepts: Callable[[Any], bool]


def whole(default: int, low: int = 1, high: int | None = None) -> Option:
    """Take a whole number, `low` ≤ value ≤ `high`."""
    wanted = f"a whole number from {low} on" if high is None else f"a whole number from {low} to {high}"
    return Option(default, wanted, lambda value: _is_whole(value, low, high))


def fraction(default: float) -> Option:
    """Take a number in [0, 1]."""
    return Option(default, "a number from 0 to 1", _is_fraction)


def word(default: str, *others: str) -> Option:
    """Take one of a few words."""
    words = (default, *others)
    return Option(default, " or ".join(words), lambda value: value in words)


def flag(default: bool) -> Option:
    """Take true or false."""
    return Option(default, "true or false", lambda value: isinstance(value, bool))


def wholes(default: tuple[int, ...], low: int = 1) -> Option:
    """Take as many whole numbers, each from `low` on, as `default` has."""

    def accepts(values: Any) -> bool:
        right_length = isinstance(values, list | tuple) and len(values) == len(default)
        return right_length and all(_is_whole(value, low, None) for value in values)

    return Option(default, f"a list of {len(default)} whole numbers from {low} on", accepts)


def classifier_options(name: str, num_classes: int = 1000) -> dict[str, Option]:
    """Return `num_classes` and `in_channels` of a classifier of 3 channels, or of the gray digits after its name."""
    if name.endswith("_digits"):
        return {"num_classes": whole(10), "in_channels": whole(1)}
    return {"num_classes": whole(num_classes), "in_channels": whole(3)}


def detector_options(score: float, iou: float, candidates: int, detections: int) -> dict[str, Option]:
    """Return the thresholds and counts of a detector, with these defaults, and how its suppression is expressed."""
    return {
        "score_threshold": fraction(score),
        "iou_threshold": fraction(iou),
        "candidates": whole(candidates),
        "detections": whole(detections),
        "nms": word("plain", "node"),
    }


def problems_of(options: Mapping[str, Any], known: Mapping[str, Option]) -> list[str]:
    """Name everything wrong with `options`, one string each; none if nothing is.

    Given {"num_classes": "ten"} → ["num_classes is 'ten', wanted a whole number from 1 on"].
    """
    unknown = sorted(options.keys() - known.keys())
    problems = [f"option {name} is unknown, wanted one of {', '.join(known) or 'none'}" for name in unknown]
    for name, option in known.items():
        if name in options and not option.accepts(options[name]):
            problems.append(f"{name} is {options[name]!r}, wanted {option.wanted}")
    return problems


def _is_whole(value: Any, low: int, high: int | None) -> bool:
    return (
        isinstance(value, int) and not isinstance(value, bool) and low <= value <= (math.inf if high is None else high)
    )


def _is_fraction(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0.0 <= value <= 1.0
