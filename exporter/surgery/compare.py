"""Whether two ONNX files compute the same: held to the first in float64, within what that is itself off by.

Where the first cannot be evaluated in float64, both run in one engine on seeded normal inputs. Normal ones alone: far
from what its statistics fit, a deep gated network amplifies rounding a thousandfold, and two sound evaluations of it
differ by as much. The error of a float output is max |y − y₀| divided by the spread of y₀ over everything that was run.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.version_converter

from ..errors import one_line
from ..onnx_file.upgrade import LAST_OLD, opset_of, sort_lists, upgrade
from ..parity.identical import MOST_ELEMENTS, are_identical
from ..parity.record import Parity

TOLERANCE = {"float16": 2e-2, "float32": 1e-4, "float64": 1e-10}
"""Of the error: rounding in one order of summation against another, with room for a deep network to amplify it."""
NORMS = 15
"""The opset from which the reference evaluator normalizes by the statistics of a BatchNormalization."""
SHAKEN = 8.0
"""How many times the change by inputs that move by one unit in their last place is rounding as well: a deep network on
which its input's own rounding shows more than `TOLERANCE` cannot be told apart more closely."""
MAX_TOLERANCE = 2e-2
"""The most that such a network is allowed."""
MATCHING = 0.99
"""The share of integers (classes, indices) that must be the same: where two scores tie, rounding decides."""
IMAGES = 3
BATCH = 2
NOT_COMPARED = "not compared: "
Runs = Sequence[Sequence[Any]]
"""The outputs of each run."""


@dataclass(frozen=True)
class Check:
    """How a simplified file compares with the one that it was made of."""

    status: str
    error: float | None = None
    tolerance: float | None = None
    output: str | None = None
    engine: str | None = None

    @property
    def failed(self) -> bool:
        """Whether the two were compared and differ."""
        return self.status.startswith("differs")

    @property
    def is_open(self) -> bool:
        """Whether nothing could compare them."""
        return self.status.startswith(NOT_COMPARED)


def compare(source: Path, plain: Path) -> Check:
    """Hold `plain` to `source` in float64, or else run both on the same inputs and compare each output.

    Where both give the same bits, that is told first: it needs neither float64 nor PyTorch.
    Where ONNX Runtime refuses `source`, both run in the onnx package's reference evaluator. A file of an opset before
    7, which both refuse, is first brought up by onnx.version_converter.
    """
    if are_identical(source, plain, SIZES[OnnxRuntime.name]):
        return Check("holds", 0.0, 0.0, engine=OnnxRuntime.name)
    from ..parity.files import judged_files

    judged = judged_files(source, plain, SIZES[OnnxRuntime.name])
    if judged:
        return _of_parities(judged)
    why = []
    for engine in (OnnxRuntime, Reference):
        try:
            runner = engine(source)
        except Exception as error:  # neither has a common base of what it raises
            why.append(f"{engine.name} refuses {source.name} ({one_line(error, 120)})")
            continue
        found = _compare_in(engine, runner, source, plain)
        if not found.is_open:
            return found
        why.append(found.status.removeprefix(NOT_COMPARED))
    return Check(NOT_COMPARED + "; ".join(dict.fromkeys(why)))


def _compare_in(engine: "type[OnnxRuntime | Reference]", runner: Any, source: Path, plain: Path) -> Check:
    """`compare` in one engine, `runner` running `source` in it."""
    reason = ""
    for size in SIZES[engine.name]:
        feeds = _inputs(source, size)
        if isinstance(feeds, str):
            return Check(NOT_COMPARED + feeds)
        try:
            wanted = [runner.run(None, arrays) for arrays in feeds]
            break
        except Exception as error:  # as above
            reason = one_line(error, 200)
    else:
        return Check(f"{NOT_COMPARED}{source.name} does not run on random inputs in {engine.name} ({reason})")
    del runner  # one network at a time
    try:
        found = [(candidate := engine(plain)).run(None, arrays) for arrays in feeds]
    except Exception as error:  # as above
        where = "" if engine is OnnxRuntime else f" in {engine.name}"
        return Check(f"differs: it does not run{where} ({one_line(error, 200)})")
    del candidate
    check = _worst(source, wanted, found)
    if check.failed and check.error is not None and check.tolerance in TOLERANCE.values():
        shaken = [engine(source).run(None, {n: _shaken(x) for n, x in arrays.items()}) for arrays in feeds]
        check = _worst(source, wanted, found, shaken)
    return Check(check.status, check.error, check.tolerance, check.output, engine.name)


def _worst(source: Path, wanted: Runs, found: Runs, shaken: Runs | None = None) -> Check:
    names = [t.name for t in onnx.load(source, load_external_data=False).graph.output]
    checks = []
    for i, name in enumerate(names):
        if all(_is_like(a[i], y[i]) for a, y in zip(wanted, found, strict=True)):
            others = (
                shaken if shaken and all(_is_like(a[i], z[i]) for a, z in zip(wanted, shaken, strict=True)) else wanted
            )
            a, y, z = (np.concatenate([run[i].ravel() for run in runs]) for runs in (wanted, found, others))
            checks.append(_compared(name, a, y, z))
        else:
            checks.append(Check(f"differs: output {name} has another shape", output=name))
    failed = [c for c in checks if c.failed]
    return failed[0] if failed else max(checks, key=lambda c: (c.error or 0) / (c.tolerance or 1))


def _is_like(a: Any, y: Any) -> bool:
    return isinstance(a, np.ndarray) and isinstance(y, np.ndarray) and a.shape == y.shape


def _shaken(x: np.ndarray) -> np.ndarray:
    """x with each number moved by one unit in its last place, up or down."""
    if x.dtype.kind != "f":
        return x
    up = np.random.default_rng(1).integers(0, 2, x.shape).astype(bool)
    moved: np.ndarray = np.nextafter(x, np.where(up, np.inf, -np.inf).astype(x.dtype))
    return moved


def _of_parities(parities: Sequence[Parity]) -> Check:
    """The output that fails, or else the one that uses up most of its tolerance."""
    worst = max(parities, key=lambda p: (p.failed, p.used))
    error = None if np.isnan(worst.error) else worst.error
    status = "holds"
    if worst.failed and error is None:
        status = f"differs: output {worst.output}: {worst.status}"
    elif worst.failed:
        what = "of its numbers" if worst.measure == "agreement" else "of its spread"
        status = f"differs: output {worst.output}{worst.place} by {error:.1e} {what}, tolerance {worst.tolerance:.0e}"
    return Check(status, error, worst.tolerance if error is not None else None, worst.output, "float64")


def _compared(name: str, wanted: np.ndarray, found: np.ndarray, shaken: np.ndarray) -> Check:
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
    moved = float(np.abs(shaken[finite].astype(np.float64) - y0).max()) / spread
    if np.isfinite(moved):
        tolerance = max(tolerance, min(SHAKEN * moved, MAX_TOLERANCE))
    if error <= tolerance:
        return Check("holds", error, tolerance, name)
    return Check(
        f"differs: output {name} by {error:.1e} of its spread, tolerance {tolerance:.0e}", error, tolerance, name
    )


def _inputs(path: Path, size: int) -> list[dict[str, np.ndarray]] | str:
    """Arrays for each input that must be fed: normal ones `IMAGES` times, `size` for an open axis; or why not."""
    proto = onnx.load(path, load_external_data=False)
    given = {t.name for t in proto.graph.initializer}
    specs: dict[str, Any] = {}
    for value in proto.graph.input:
        if value.name in given:
            continue
        if not value.type.HasField("tensor_type"):
            return f"the input {value.name} is no array"
        dims = enumerate(value.type.tensor_type.shape.dim)
        shape = [d.dim_value if d.HasField("dim_value") and d.dim_value >= 0 else None for _, d in dims]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        if dtype.kind not in "biuf":
            return f"the input {value.name} holds no numbers"
        # the batch comes first; in the state of a recurrent op, layers × batch × width, second
        batch = 1 if len(shape) == 3 and shape[0] is not None else 0
        specs[value.name] = (filled := _filled(shape, batch, size), dtype)
        if not 0 < prod(filled) < MOST_ELEMENTS:
            return f"the input {value.name} has {prod(filled)} elements"
    rng = np.random.default_rng(0)
    return [{name: _random(rng, *spec) for name, spec in specs.items()} for _ in range(IMAGES)]


def _filled(shape: Sequence[int | None], batch: int, size: int) -> list[int]:
    return [n if n is not None else BATCH if axis == batch else size for axis, n in enumerate(shape)]


def _random(rng: np.random.Generator, shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    if dtype.kind == "f":
        return np.asarray(rng.standard_normal(shape)).astype(dtype)
    return np.asarray(rng.integers(0, 256 if dtype == np.uint8 else 2, shape)).astype(dtype)  # pixels; else choices


class OnnxRuntime:
    """One file in ONNX Runtime, as it is written."""

    name = "ONNX Runtime"

    def __init__(self, path: Path) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.enable_cpu_mem_arena = False
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # what the file says, no more
        proto = onnx.load(path, load_external_data=False)
        if 0 < opset_of(proto) <= LAST_OLD or sort_lists(proto):  # ONNX Runtime starts at 7, and orders lists at will
            proto = upgrade(onnx.load(path))
            sort_lists(proto)
            source: Any = proto.SerializeToString()
        else:
            source = str(path)
        self._session = ort.InferenceSession(source, options, ["CPUExecutionProvider"])

    def run(self, _: None, feeds: Mapping[str, np.ndarray]) -> list[Any]:
        """All outputs."""
        return list(self._session.run(None, feeds))


class Reference:
    """One file in the onnx package's reference evaluator: right, and slow."""

    name = "the reference evaluator"

    def __init__(self, path: Path) -> None:
        from onnx.reference import ReferenceEvaluator

        proto = upgrade(onnx.load(path))
        if opset_of(proto) < NORMS and any(node.op_type == "BatchNormalization" for node in proto.graph.node):
            proto = onnx.version_converter.convert_version(proto, NORMS)
        self._evaluator = ReferenceEvaluator(proto)

    def run(self, _: None, feeds: Mapping[str, np.ndarray]) -> list[Any]:
        """All outputs."""
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # infinities are compared, not warned of
            return list(self._evaluator.run(None, dict(feeds)))


SIZES = {OnnxRuntime.name: (224, 512, 64, 32, 8, 1), Reference.name: (32, 64, 8, 1)}
"""What an open axis other than the first is tried with, in this order."""
