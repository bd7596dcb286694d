"""How far one value is from what it ought to be, added up over batches."""

import math

import numpy as np

from .measure import UNIT_ROUNDOFF


class Tally:
    """Sums over batches, from which the errors of one value follow."""

    def __init__(self) -> None:
        self._squares: np.ndarray | None = None
        self._sizes = np.zeros(())
        self._count = 0
        self._sum = 0.0

    def add(self, value: np.ndarray, right: np.ndarray) -> None:
        """One batch more of a value, and of what it ought to be: [N, C, …]."""
        axes = tuple(k for k in range(right.ndim) if k != 1) if right.ndim > 1 else None
        with np.errstate(all="ignore"):
            squares = ((value.reshape(right.shape).astype(np.float64) - right) ** 2).sum(axis=axes)
        self._squares = squares if self._squares is None else self._squares + squares
        self._sizes = self._sizes + (right.astype(np.float64) ** 2).sum(axis=axes)
        self._count += right.size
        self._sum += float(right.sum())

    def error(self) -> tuple[float, int | None]:
        """The error of the worst channel, and which that is; NaN where nothing was added, infinity for what is none."""
        if self._squares is None:
            return math.nan, None
        squares = np.where(np.isnan(self._squares), np.inf, self._squares)
        worst = int(np.argmax(squares))
        of_each = self._mean_of(squares.flat[worst], squares)
        error = math.sqrt(of_each) / self._spread if self._spread > 0 else math.nan if of_each else 0.0
        return error, worst if squares.ndim else None

    def rounding(self) -> float:
        """What rounding the right value itself to float32 could leave, in the channel of the largest numbers."""
        size = math.sqrt(self._mean_of(self._sizes.max(initial=0.0), self._sizes)) if self._count else 0.0
        return UNIT_ROUNDOFF["float32"] * size / self._spread if self._spread > 0 else 0.0

    def unit(self) -> float:
        """The rounding of a number next to 1."""
        return UNIT_ROUNDOFF["float32"] / self._spread if self._spread > 0 else 0.0

    def _mean_of(self, channel: float, channels: np.ndarray) -> float:
        """Of a sum over one of the channels."""
        return float(channel) * max(channels.size, 1) / self._count

    @property
    def _spread(self) -> float:
        count = max(self._count, 1)
        return math.sqrt(max(float(self._sizes.sum()) / count - (self._sum / count) ** 2, 0.0))
