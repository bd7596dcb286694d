"""What a comparison found, as a record that explains itself."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..bundle.tensor import slice_words

HELD = "held"
FAILED = "failed"
NOT_CERTIFIED = "not certified"


@dataclass(frozen=True)
class Parity:
    """One output of one step, compared with the eager training-time network in float64. True only where it held.

    Errors of floats are in units of the spread of their part of the output: its standard deviation over different
    inputs. `measure` says which: "max" the largest error, "rms" the root mean square; "agreement" is the share of
    integers that differ, "overlap" of boxes in a list the mean of 1 − |A ∩ B| / |A ∪ B|. `own_error` is how far the
    network in its own type is from float64 on the same inputs.
    """

    step: str
    output: str
    measure: str
    error: float
    tolerance: float
    spread: float
    own_error: float
    worst: tuple[int, ...]
    """Image and element of the largest error."""
    worst_input: str
    """The kind of input that it occurred on: normal, data, zeros, large, hot."""
    parts_axis: int | None
    """The axis of the output, the images' being 0, along which each index is judged by its own spread; else None."""
    parts: int
    """How many indices there are along it; else 1."""
    axis: int | None
    """With `index` the slice of the output that `error` is of, where it is that of one."""
    index: int | None
    far: float | None
    """The share of elements far off, in a lower precision."""
    top1: float | None
    """The share of positions with the same largest class, where there are classes; else None."""
    status: str
    """"held", "failed", or one of "failed: …", "not certified: …", "not executed: …" with the reason."""
    turned: int | None = None
    """Rows of a list that the step chooses otherwise as float32 does itself, of all images; in a lower precision those
    of either side without counterpart. They are not in `error`."""

    def __bool__(self) -> bool:
        return self.status == HELD and self.error <= self.tolerance

    @property
    def failed(self) -> bool:
        """Executed and wrong. A step that was not executed, or that nothing certifies, is neither true nor this."""
        return self.status.startswith(FAILED)

    @property
    def used(self) -> float:
        """How much of the tolerance the error uses up, over 1 where it is too large; infinite where it is no number."""
        used = self.error / self.tolerance if self.tolerance > 0 else math.nan
        return math.inf if math.isnan(used) else used

    def of_images(self, images: Sequence[int]) -> "Parity":
        """The record of these images alone, as one of all: the worst called by its place among all."""
        return replace(self, worst=(images[self.worst[0]], *self.worst[1:])) if self.worst else self

    @property
    def place(self) -> str:
        """The slice that the error is of, as NumPy would write it: "[:, 4]"; "" where it is of the whole."""
        return slice_words(self.axis, self.index)

    def __str__(self) -> str:
        if math.isnan(self.error) and self.status not in (HELD, FAILED):
            return f"{self.step}, {self.output}: {self.status}"
        where = (
            f"image {self.worst[0]} ({self.worst_input}), element {list(self.worst[1:])}" if self.worst else "nowhere"
        )
        top1 = "" if self.top1 is None else f"; top-1 agrees on {self.top1:.1%}"
        as_what = "chosen otherwise, as float32 does" if self.measure == "max" else "without counterpart"
        top1 += f"; {self.turned} rows {as_what}" if self.turned else ""
        if self.measure == "agreement":
            return (
                f"{self.step}, {self.output}: {self.status}; {self.error:.2%} of the numbers differ, "
                f"at most {self.tolerance:.2%} may; worst at {where}{top1}"
            )
        if self.measure == "overlap":
            return (
                f"{self.step}, {self.output}: {self.status}; boxes and those they should be share {1 - self.error:.1%} "
                f"of their union on average, wanted {1 - self.tolerance:.1%}; worst at {where}{top1}"
            )
        kind = "RMS error" if self.measure == "rms" else "error"
        return (
            f"{self.step}, {self.output}{self.place}: {self.status}; {kind} {self.error:.2e} of the spread "
            f"{self.spread:.2e}, tolerance {self.tolerance:.2e}, eager itself {self.own_error:.2e}; "
            f"worst at {where}{top1}"
        )

    def as_json(self) -> dict[str, Any]:
        """The record as plain values; a number that JSON lacks (NaN, infinity) as None."""
        plain = asdict(self) | {"worst": list(self.worst)}
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in plain.items()}


def unmeasured(step: str, output: str, status: str, tolerance: float = math.nan) -> Parity:
    """The record of a step that gave nothing to measure."""
    nan = math.nan
    return Parity(step, output, "", nan, tolerance, nan, nan, (), "", None, 1, None, None, None, None, status)


def not_executed(step: str, output: str, reason: str) -> Parity:
    """The record of a step that could not be run here."""
    return unmeasured(step, output, f"not executed: {reason}")
