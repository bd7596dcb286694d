"""What a value may be computed by, and what that costs."""

from dataclasses import dataclass

from torch import fx

from .forms import Form

LAUNCH = 2000  # what one more op costs, in multiply-accumulates


@dataclass(frozen=True)
class Cost:
    """Multiply-accumulates, elements read and written, ops launched; per sample at the traced size."""

    macs: int = 0
    elements: int = 0
    launches: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.macs + other.macs, self.elements + other.elements, self.launches + other.launches)

    @property
    def total(self) -> int:
        """One number to compare by."""
        return self.macs + self.elements + LAUNCH * self.launches

    @property
    def macs_first(self) -> tuple[int, int]:
        """Fewest multiply-accumulates; the rest decides among equals."""
        return self.macs, self.elements + LAUNCH * self.launches


@dataclass(frozen=True)
class Keep:
    """The node computes its value itself."""


@dataclass(frozen=True)
class OneMap:
    """One convolution over `source`."""

    source: fx.Node
    form: Form


@dataclass(frozen=True)
class Group:
    """Terms of a sum that became one convolution over `source`, or (without one) a single term as it is.

    `last` is that of the sum.
    """

    source: fx.Node | None
    terms: tuple[tuple[fx.Node, float], ...]
    last: bool = False


@dataclass(frozen=True)
class GroupedSum:
    """A sum of two groups or more; all terms in one group are a `OneMap`."""

    groups: tuple[Group, ...]


Choice = Keep | OneMap | GroupedSum
Choices = dict[fx.Node, Choice]
