"""The eager training-time network in float64, evaluated once, and what each step is held to."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .batches import Run, in_batches
from .classes import with_classes
from .detections import listed
from .inputs import DATA, HOT, NORMAL, ZEROS
from .measure import (
    MAX_TOLERANCE,
    MULTIPLE,
    UNIT_ROUNDOFF,
    Measured,
    agreement,
    float32_tolerances,
    largest_error,
    rms_error,
    rounded_otherwise,
    with_outliers,
)
from .names import AGREEMENT
from .order import matched
from .record import FAILED, HELD, NOT_CERTIFIED, Parity, unmeasured
from .turns import MOST, detections, excused, of_chance
from .wanted import Wanted

MAX_RMS_TOLERANCE = 0.25
"""The same of a half-precision network's RMS error; half an output is off by 0.5."""

CHAOTIC = "eager float32 itself is"
_ANY = 1e300
"""A tolerance that every finite error is within."""


@dataclass(frozen=True)
class Reference:
    """Inputs, the outputs wanted for them in float64, and what a step may differ by. Every array is [images, …].

    `whole` are the inputs without a batch axis. `dtype` is the type that the network was trained in. `mixes` says that
    the images of a batch influence one another; `left_out` what edges were, and why.
    """

    batch: int
    inputs: Mapping[str, np.ndarray]
    kinds: tuple[str, ...]
    outputs: Mapping[str, Wanted]
    longest_sum: int = 1
    dtype: str = "float32"
    whole: frozenset[str] = frozenset()
    mixes: bool = False
    left_out: tuple[str, ...] = ()
    turns: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), bool))

    @property
    def names(self) -> tuple[str, ...]:
        """Of the outputs."""
        return tuple(self.outputs)

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """The inputs in their order."""
        return tuple(self.inputs.values())

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Of one image of the first input."""
        return self.arrays[0].shape[1:]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of one image of each input that has a batch axis."""
        return {name: x.shape[1:] for name, x in self.inputs.items() if name not in self.whole}

    def of_kinds(self, kinds: Sequence[str]) -> "Reference":
        """The same on the images of these kinds alone, with the same spreads and tolerances.

        Whole where the outputs do not keep the images apart, or none is of these kinds.
        """
        return self._rows(np.flatnonzero(np.isin(self.kinds, tuple(kinds))))

    def first(self, count: int) -> "Reference":
        """The same on the first `count` images alone; whole where the outputs do not keep the images apart."""
        return self._rows(np.arange(min(count, len(self.kinds))))

    def _rows(self, rows: np.ndarray) -> "Reference":
        apart = all(len(y.values) == len(self.kinds) for y in self.outputs.values())
        if not len(rows) or not apart or (self.mixes and self.batch > 1):
            return self
        return dataclasses.replace(
            self,
            inputs={name: x[rows] for name, x in self.inputs.items()},
            kinds=tuple(self.kinds[row] for row in rows),
            outputs={name: y.rows(rows) for name, y in self.outputs.items()},
            turns=self.turns[rows] if len(self.turns) else self.turns,
        )

    def but_for_amplified(self) -> "Reference":
        """The same without flat images whose outputs are amplified rounding: where a network normalizes a constant."""
        moved = [y.moved for y in self.outputs.values() if y.is_float]  # infinite where there is no spread: constants
        found = [np.max(each, axis=1, initial=0.0, where=np.isfinite(each)) for each in moved]
        off = np.max(found, axis=0, initial=0.0) if found else np.zeros(len(self.kinds))
        gone = np.flatnonzero(self._flat(len(off)) & (MULTIPLE * off > MAX_TOLERANCE))
        said = (
            f"the image of {self.kinds[i]} is left out: one rounding of each value comes to {off[i]:.1e} of the spread"
            for i in gone
        )
        kept = self._rows(np.setdiff1d(np.arange(len(self.kinds)), gone))
        return dataclasses.replace(kept, left_out=(*self.left_out, *said)) if len(gone) else self

    def run(self, run: Run) -> list[np.ndarray]:
        """What `run` gives for all images, a batch at a time: one array an output."""
        return in_batches(run, self.arrays, self.batch, whole=[name in self.whole for name in self.inputs])

    def judge(self, step: str, run: Run, tolerance: float | None = None) -> tuple[Parity, ...]:
        """Compare what `run` returns, called with a batch at a time, with the reference: one record an output.

        `tolerance` is that of a lower precision, of the RMS error in units of the spread.
        """
        return self.compare(step, self.run(run), tolerance)

    def compare(self, step: str, outputs: Sequence[np.ndarray], tolerance: float | None = None) -> tuple[Parity, ...]:
        """As `judge`, for outputs at hand."""
        if len(outputs) != len(self.outputs):
            found = f"{FAILED}: {len(outputs)} outputs, want {len(self.outputs)}"
            return tuple(unmeasured(step, name, found) for name in self.names)
        values = [wanted.values for wanted in self.outputs.values()]
        if tolerance is not None and self.dtype == "float32":
            told = np.flatnonzero(~of_chance(values, self.turns, outputs))
            some = self._rows(told) if len(told) < len(self.turns) else self
            if some is not self:
                found_there = some.compare(step, [y[told] for y in outputs], tolerance)
                return tuple(parity.of_images(told.tolist()) for parity in found_there)
        lists = listed(values, outputs, limits) if (limits := self._limits(tolerance)) else None
        if lists is not None:
            pairs, outputs, of_list = lists
            each = [self._compare(step, n, outputs[k], tolerance, of_list.get(k)) for k, n in enumerate(self.names)]
            alone = int(pairs.alone.sum())
            return tuple(dataclasses.replace(p, turned=alone) if k in of_list else p for k, p in enumerate(each))
        rows = matched(values, outputs)
        outputs, turned = rows.outputs, None
        if self.dtype == "float32" and len(self.turns):
            outputs, turned = excused(values, rows, self.turns)
        each = [self._compare(step, name, y, tolerance) for name, y in zip(self.names, outputs, strict=True)]
        by_chance = turned is not None and self.turns.sum() > MOST * detections(values, self.turns).sum()
        instead = {HELD: f"{NOT_CERTIFIED}: {_OF_CHANCE}"} if by_chance else {}
        return tuple(
            dataclasses.replace(p, turned=turned, status=instead.get(p.status, p.status)) if k in rows.members else p
            for k, p in enumerate(each)
        )

    def tolerances(self, name: str) -> np.ndarray:
        """What a float32 step may differ by on each image and part of an output, in units of its scale."""
        wanted = self.outputs[name]
        return float32_tolerances(wanted, self._flat(len(wanted.values)), self.longest_sum)

    def _flat(self, count: int) -> np.ndarray:
        """Which images have pixels that are nearly all equal; none where an output of `count` rows has no row each."""
        return np.isin(self.kinds, (ZEROS, HOT)) if count == len(self.kinds) else np.zeros(count, bool)

    def _compare(
        self, step: str, name: str, y: np.ndarray, tolerance: float | None, of_list: Measured | None = None
    ) -> Parity:
        """One output; `of_list` is what was measured of it as part of a list."""
        wanted = self.outputs[name]
        if of_list is None and y.shape != wanted.values.shape:
            found = f"{FAILED}: shape {list(y.shape[1:])}, want {list(wanted.values.shape[1:])}"
            return unmeasured(step, name, found)
        if (y.dtype.kind == "f") != (wanted.values.dtype.kind == "f"):
            kind = "floats" if y.dtype.kind != "f" else "integers"
            return unmeasured(step, name, f"{FAILED}: it gives {y.dtype}, want {kind}")
        if of_list is not None:
            measured, why = of_list, self._why_not(name)
            if tolerance is None and math.isinf(wanted.own_rms):
                why = f"the output lists other things in eager {self.dtype} itself; give real images"
        elif not wanted.is_float:
            measured = agreement(wanted, y, tolerance)
            why = self._why_not(name, measured.tolerance if tolerance is None else None)
        elif tolerance is None and self.dtype == "float32":
            measured, why = self._as_float32(name, y)
            if wanted.step and not measured.why:
                measured = dataclasses.replace(measured, why=rounded_otherwise(wanted, y))
        else:
            limit = self._own_limit(wanted) if tolerance is None else tolerance
            measured, why = rms_error(wanted, y, limit), self._why_not(name, limit if tolerance is None else None)
        if of_list is None:
            measured = with_classes(wanted, y, measured, users=set(self.kinds) == {DATA})
        error = math.nan if not math.isfinite(measured.error) else measured.error
        if why.startswith(("the reference", "the output")):
            status = f"{NOT_CERTIFIED}: {why}"
        elif not error <= measured.tolerance:
            status = FAILED
        elif measured.why:
            status = f"{FAILED}: {measured.why}"
        else:
            status = f"{NOT_CERTIFIED}: {why}" if why else HELD
        own = float(wanted.own_errors.max(initial=0.0)) if measured.measure == "max" else wanted.own_rms
        worst = measured.worst
        kind = self.kinds[worst[0]] if worst and len(self.kinds) == len(wanted.values) else ""
        return Parity(
            step,
            name,
            measured.measure,
            error,
            measured.tolerance,
            wanted.spread,
            own,
            worst,
            kind,
            wanted.axis,
            len(wanted.spreads),
            measured.axis,
            measured.index,
            measured.far,
            measured.top1,
            status,
        )

    def _as_float32(self, name: str, y: np.ndarray) -> tuple[Measured, str]:
        """What was found, and why it certifies nothing.

        Where the network's own float32 is chaotic on some images, the step is held to the others; where it is so in
        some places of most, to the other places and to its RMS error.
        """
        wanted = self.outputs[name]
        allowed = with_outliers(wanted, y, self.tolerances(name), self._flat(len(y)))
        measured, why = largest_error(wanted, y, allowed), self._why_not(name, allowed)
        if not why.startswith(CHAOTIC) and (why or measured.tolerance <= MAX_TOLERANCE):
            return measured, why
        telling = largest_error(wanted, y, np.where(allowed > MAX_TOLERANCE, _ANY, allowed))
        images = self._random(allowed).max(axis=1) <= MAX_TOLERANCE
        if not telling.error <= telling.tolerance or 2 * images.sum() >= len(images):
            return telling, ""
        limit = self._own_limit(wanted)
        if limit <= MAX_TOLERANCE:
            return rms_error(wanted, y, limit), ""
        own = f"{wanted.own_errors.max():.1e} of the output's spread"
        return telling, f"{CHAOTIC} {own} from float64 where this is {measured.error:.1e}; give real images"

    def _random(self, rows: np.ndarray) -> np.ndarray:
        """Those rows, of the images, that are random or the user's; all where there are none."""
        found = rows[np.isin(self.kinds, (NORMAL, DATA))] if len(self.kinds) == len(rows) else rows
        return found if len(found) else rows

    def _limits(self, tolerance: float | None) -> list[float]:
        """Of the RMS error of each output; none in float32."""
        lower = tolerance is not None or self.dtype != "float32"
        return [tolerance or self._own_limit(y) for y in self.outputs.values()] if lower else []

    def _own_limit(self, wanted: Wanted) -> float:
        """The RMS error allowed to a network that is itself in a lower precision."""
        with np.errstate(all="ignore"):
            sizes = np.sqrt(np.mean(wanted.by_part(wanted.values.astype(np.float64) ** 2, np.mean) / wanted.scales**2))
        return MULTIPLE * max(wanted.own_rms, UNIT_ROUNDOFF[self.dtype] * float(sizes))

    def _why_not(self, name: str, limits: np.ndarray | float | None = None) -> str:
        """Why an output certifies nothing; "" where it does."""
        wanted = self.outputs[name]
        if wanted.is_float and not np.isfinite(wanted.values).all():
            return "the reference is not finite"
        if not np.any(wanted.spreads > 0):
            moves = any(np.any(other.spreads > 0) for other in self.outputs.values())
            still = not wanted.is_float or all(np.array_equal(row, wanted.values[0]) for row in wanted.values)
            if not (moves and still):  # a constant beside outputs that move, as anchors are, is held to its value
                return "the output does not depend on the input; give images that it answers to"
        if isinstance(limits, float) and not wanted.is_float and limits > min(1 - AGREEMENT, wanted.spread or 1):
            return f"eager {self.dtype} itself differs from float64 in {wanted.own_rms:.1%} of it; give real images"
        if isinstance(limits, float) and wanted.is_float and limits > MAX_RMS_TOLERANCE:
            return f"eager {self.dtype} itself is {wanted.own_rms:.1e} of the output's spread from float64"
        if isinstance(limits, np.ndarray):
            telling = (self._random(limits) <= MAX_TOLERANCE).mean(axis=0)
            if float(telling.min(initial=1.0)) < 0.5:
                own = f"{float(np.median(wanted.own_errors[:, int(telling.argmin())])):.1e} of the output's spread"
                return f"{CHAOTIC} {own} from float64, too far to tell right from wrong"
        return ""

    def save(self, path: Path) -> None:
        """Keep it in an .npz file, for a later comparison without the network."""
        arrays: dict[str, Any] = {f"input_{i}": x for i, x in enumerate(self.arrays)}
        for i, y in enumerate(self.outputs.values()):
            arrays |= {f"output_{i}.{field.name}": getattr(y, field.name) for field in _SAVED}
            arrays[f"output_{i}.axis"] = -1 if y.axis is None else y.axis
            arrays |= {f"output_{i}.slices_{k}": found for k, found in enumerate(y.slices)}
        names = {
            "inputs": list(self.inputs),
            "outputs": list(self.outputs),
            "whole": sorted(self.whole),
            "kinds": list(self.kinds),
            "left_out": list(self.left_out),
        }
        arrays |= {name: np.array(found, dtype=np.str_) for name, found in names.items()}
        facts = {name: getattr(self, name) for name in ("batch", "longest_sum", "dtype", "mixes", "turns")}
        np.savez(path, **arrays, **facts)

    @classmethod
    def load(cls, path: Path) -> "Reference":
        """What `save` kept."""
        with np.load(path, allow_pickle=False) as held:
            kept = ("inputs", "outputs", "whole", "kinds", "left_out")
            names = {key: tuple(str(n) for n in held[key]) for key in kept}
            outputs = {}
            for i, name in enumerate(names["outputs"]):
                facts: dict[str, Any] = {f.name: held[key] for f in _SAVED if (key := f"output_{i}.{f.name}") in held}
                none = np.zeros_like(facts["scales"])
                facts = {"moved": none, "jumps": none[:, 0]} | facts  # which older bundles do without
                facts["bits"], facts["step"] = bool(facts.get("bits", False)), float(facts.get("step", 0.0))
                facts["places"] = tuple(int(k) for k in facts.get("places", ()))
                slices = tuple(held[f"output_{i}.slices_{k}"] for k in range(_count(held, f"output_{i}.slices_")))
                axis = int(held[f"output_{i}.axis"])
                facts["own_rms"] = float(facts["own_rms"])
                outputs[name] = Wanted(axis=None if axis < 0 else axis, slices=slices, **facts)
            return cls(
                int(held["batch"]),
                {name: held[f"input_{i}"] for i, name in enumerate(names["inputs"])},
                names["kinds"],
                outputs,
                int(held["longest_sum"]),
                str(held["dtype"]),
                frozenset(names["whole"]),
                bool(held["mixes"]),
                names["left_out"],
                held["turns"] if "turns" in held else np.zeros((0, 0), bool),
            )


_OF_CHANCE = "which detections are kept hangs on rounding in most of the rows; give real images"
_SAVED = tuple(field for field in dataclasses.fields(Wanted) if field.name not in ("axis", "slices"))


def _count(held: Any, start: str) -> int:
    return sum(key.startswith(start) for key in held)
