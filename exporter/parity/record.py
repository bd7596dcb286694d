"""What a comparison found, as a record that explains itself."""

import math
from dataclasses import asdict, dataclass
from typing import Any

HELD = "held"
FAILED = "failed"


@dataclass(frozen=True)
class Parity:
    """One output of one step, compared with the eager training-time network in float64. True only where it held.

    Errors are in units of the output's spread, its standard deviation over different inputs. `own_error` is how far
    eager PyTorch, in the network's own dtype, is from float64 on the same inputs.
    """

    step: str
    output: str
    error: float
    tolerance: float
    spread: float
    own_error: float
    worst: tuple[int, ...]
    """Image and element of the largest error."""
    worst_input: str
    """The kind of input that it occurred on: normal, data, zeros, large, hot."""
    top1: float | None
    """The share of images with the same largest element, for an output of scores; else None."""
    status: str
    """"held", "failed", or one of "failed: …", "not certified: …", "not executed: …" with the reason."""

    def __bool__(self) -> bool:
        return self.status == HELD and self.error <= self.tolerance

    @property
    def failed(self) -> bool:
        """Executed and wrong. A step that was not executed, or that nothing certifies, is neither true nor this."""
        return self.status.startswith(FAILED)

    def __str__(self) -> str:
        if math.isnan(self.error) and self.status not in (HELD, FAILED):
            return f"{self.step}, {self.output}: {self.status}"
        where = (
            f"image {self.worst[0]} ({self.worst_input}), element {list(self.worst[1:])}" if self.worst else "nowhere"
        )
        top1 = "" if self.top1 is None else f"; top-1 agrees on {self.top1:.1%}"
        return (
            f"{self.step}, {self.output}: {self.status}; error {self.error:.2e} of the spread {self.spread:.2e}, "
            f"tolerance {self.tolerance:.2e}, eager itself {self.own_error:.2e}; worst at {where}{top1}"
        )

    def as_json(self) -> dict[str, Any]:
        """The record as plain values; a number that JSON lacks (NaN, infinity) as None."""
        plain = asdict(self) | {"worst": list(self.worst)}
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in plain.items()}


def not_executed(step: str, output: str, reason: str) -> Parity:
    """The record of a step that could not be run here."""
    nan = math.nan
    return Parity(step, output, nan, nan, nan, nan, (), "", None, f"not executed: {reason}")
