"""The training-time networks of the papers, by name.

`entries()` lists them, `create()` builds one, `deepen()` makes any network's deep-training form. Importing this package
imports no torch: what needs it is loaded on first use.
"""

from typing import TYPE_CHECKING, Any

from plainconv.exporter.bundle.presets import DIGITS, IMAGENET

from .catalogue import CIFAR, Entry, create, entries, find

if TYPE_CHECKING:
    from .deepening import deepen

__all__ = ["CIFAR", "DIGITS", "IMAGENET", "Entry", "create", "deepen", "entries", "find"]


def __getattr__(name: str) -> Any:
    if name == "deepen":
        from .deepening import deepen

        return deepen
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
