"""Whether two ONNX files compute the same: held to the first in float64, within what that is itself off by.

Where the first cannot be evaluated in float64, both run in ONNX Runtime on seeded normal inputs. Normal ones alone: far
from what its statistics fit, a deep gated network amplifies rounding a thousandfold, and two sound evaluations of it
differ by as much. The error of a float output is max |y − y₀| divided by the spread of y₀ over everything that was run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ..errors import one_line
from ..parity.files import judged_files
from ..parity.record import Parity

TOLERANCE = {"float16": 2e-2, "float32": 1e-4, "float64": 1e-10}
"""Of the error: rounding in one order of summation against another, with room for a deep network to amplify it."""
MATCHING = 0.99
"""The share of integers (classes, indices) that must be the same: where two scores tie, rounding decides."""
IMAGES = 3
SIZES = (224, 64, 32, 8, 1)
"""What an open axis other than the first is tried with, in this order."""
BATCH = 2


@dataclass(frozen=True)
class Check:
    """How a simplified file compares with the one that it was made of."""

    status: str
    error: float | None = None
    tolerance: float | None = None
    output: str | None = None

    @property
    def failed(self) -> bool:
        """Whether the two were compared and differ."""
        return self.status.startswith("differs")


def compare(source: Path, plain: Path) -> Check:
    """Run both on the same inputs, where they can be run, and compare each output."""
    judged = judged_files(source, plain, SIZES)
    if judged:
        return _of_parities(judged)
    try:
        session = _session(source)
    except Exception as error:  # ONNX Runtime's own exceptions have no common base
        return Check(f"not compared: ONNX Runtime refuses {source.name} ({one_line(error, 200)})")
    for size in SIZES:
        feeds = _inputs(source, size)
        if feeds is None:
            return Check("not compared: an input is no array of numbers")
        try:
            wanted = [session.run(None, arrays) for arrays in feeds]
            break
        except Exception as error:  # as above
            reason = one_line(error, 200)
    else:
        return Check(f"not compared: {source.name} does not run on random inputs ({reason})")
    del session  # one network at a time
    try:
        session = _session(plain)
        found = [session.run(None, arrays) for arrays in feeds]
    except Exception as error:  # as above
        return Check(f"differs: it does not run ({one_line(error, 200)})")
    names = [t.name for t in onnx.load(source, load_external_data=False).graph.output]
    checks = [
        _compared(name, np.stack([y[i] for y in wanted]), np.stack([y[i] for y in found]))
        if all(isinstance(y[i], np.ndarray) and a[i].shape == y[i].shape for a, y in zip(wanted, found, strict=True))
        else Check(f"differs: output {name} has another shape", output=name)
        for i, name in enumerate(names)
    ]
    failed = [c for c in checks if c.failed]
    return failed[0] if failed else max(checks, key=lambda c: (c.error or 0) / (c.tolerance or 1))


def _of_parities(parities: Sequence[Parity]) -> Check:
    """The output that fails, or else the one that uses up most of its tolerance."""
    worst = max(parities, key=lambda p: (p.failed, p.used))
    error = None if np.isnan(worst.error) else worst.error
    if worst.failed:
        if error is None:
            return Check(f"differs: output {worst.output}: {worst.status}", None, None, worst.output)
        what = "of its numbers" if worst.measure == "agreement" else "of its spread"
        found = f"differs: output {worst.output}{worst.place} by {error:.1e} {what}, tolerance {worst.tolerance:.0e}"
        return Check(found, error, worst.tolerance, worst.output)
    return Check("holds", error, worst.tolerance, worst.output)


def _compared(name: str, wanted: np.ndarray, found: np.ndarray) -> Check:
    if wanted.dtype != found.dtype:
        return Check(f"differs: output {name} is {found.dtype}, was {wanted.dtype}", output=name)
    tolerance = TOLERANCE.get(str(wanted.dtype))
    if tolerance is None:
        same = float(np.mean(wanted == found)) if wanted.size else 1.0
        status = "holds" if same >= MATCHING else f"differs: {1 - same:.1%} of output {name}"
        return Check(status, 1 - same, 1 - MATCHING, name)
    finite = np.isfinite(wanted)
    if not np.array_equal(wanted[~finite], found[~finite], equal_nan=True):
        return Check(f"differs: output {name} is infinite or NaN elsewhere", output=name)
    y0, y = wanted[finite].astype(np.float64), found[finite].astype(np.float64)
    if not y0.size:
        return Check("holds", 0.0, tolerance, name)
    spread = max(float(y0.std()), 1e-3 * float(np.abs(y0).max()), float(np.finfo(wanted.dtype).tiny))
    error = float(np.abs(y - y0).max()) / spread
    if error <= tolerance:
        return Check("holds", error, tolerance, name)
    return Check(
        f"differs: output {name} by {error:.1e} of its spread, tolerance {tolerance:.0e}", error, tolerance, name
    )


def _inputs(path: Path, size: int) -> list[dict[str, np.ndarray]] | None:
    """Arrays for each input that must be fed: normal ones `IMAGES` times, `size` for an open axis."""
    proto = onnx.load(path, load_external_data=False)
    given = {t.name for t in proto.graph.initializer}
    specs: dict[str, Any] = {}
    for value in proto.graph.input:
        if value.name in given:
            continue
        if not value.type.HasField("tensor_type"):
            return None
        dims = enumerate(value.type.tensor_type.shape.dim)
        shape = [d.dim_value if d.HasField("dim_value") else BATCH if axis == 0 else size for axis, d in dims]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        if dtype.kind not in "biuf":
            return None
        specs[value.name] = (shape, dtype)
    rng = np.random.default_rng(0)
    return [{name: _random(rng, *spec) for name, spec in specs.items()} for _ in range(IMAGES)]


def _random(rng: np.random.Generator, shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    array: np.ndarray = rng.standard_normal(shape) if dtype.kind == "f" else rng.integers(0, 2, shape)
    return array.astype(dtype)


def _session(path: Path) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.enable_cpu_mem_arena = False
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # what the files say, no more
    return ort.InferenceSession(str(path), options, ["CPUExecutionProvider"])
