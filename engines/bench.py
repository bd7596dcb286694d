"""How long runners take: single calls timed, runners interleaved, and what may be said from so many samples.

What is compared runs in turns (A B B A …): the machine's own drift meets both alike, and so does going first.
"""

import contextlib
import gc
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from plainconv.exporter.bundle import ShapeRange, TensorSpec
from plainconv.exporter.errors import EngineError

from .backend import available
from .cuda.gpu import find_gpu
from .runner import Array, Runner, dtype_of

TURN_MS = 20.0  # a turn is as many calls in a row as take about this long,
MAX_CALLS = 100  # and at most this many
Inputs = Mapping[str, Array]


@dataclass(frozen=True)
class Samples:
    """Wall time of single calls in milliseconds, by turn, in the order they were measured; no turn is empty."""

    turns: tuple[tuple[float, ...], ...]

    @property
    def milliseconds(self) -> tuple[float, ...]:
        """All of them."""
        return tuple(ms for turn in self.turns for ms in turn)

    def percentile(self, percent: float) -> float:
        """The sample that `percent` % of the samples do not exceed; the mean of two where it falls between them.

        50 is the usual median. Nothing is extrapolated: of fewer than 100 samples the 99th percentile is the slowest.
        """
        return float(np.quantile(self.milliseconds, percent / 100, method="averaged_inverted_cdf"))

    def images_per_second(self, batch: int) -> float:
        """What one caller gets that waits for each call of `batch` images: images over the time of all calls."""
        return batch / statistics.fmean(self.milliseconds) * 1e3


@dataclass(frozen=True)
class Ratio:
    """One time over another: the median over the turns, and between what it lies in 95 of 100 repetitions.

    `low` and `high` are order statistics of the turns' own ratios, whatever their distribution. Fewer than six turns
    allow no such statement: there they are the smallest and the largest. It holds for one process; the next lays its
    memory out anew, which moves networks of microseconds by a percent or so.
    """

    median: float
    low: float
    high: float


def ratio(ours: Samples, theirs: Samples) -> Ratio:
    """Median time of `ours` over that of `theirs`, turn by turn; both from one call of `measure`."""
    pairs = zip(ours.turns, theirs.turns, strict=True)
    ratios = sorted(statistics.median(a) / statistics.median(b) for a, b in pairs)
    rank = max(_sure_rank(len(ratios)), 1)
    return Ratio(statistics.median(ratios), ratios[rank - 1], ratios[-rank])


def _sure_rank(count: int) -> int:
    """The largest k with P(Binomial(count, ½) < k) ≤ 2.5 %; 0 where there is none.

    With it the true median lies between the k-th smallest and the k-th largest of `count` samples, 95 % sure.
    """
    k, term, below = 0, 1, 1
    while below * 40 <= 2**count:
        k += 1
        term = term * (count - k + 1) // k
        below += term
    return k


def measure(
    runners: Mapping[str, Runner],
    inputs: Mapping[str, Inputs],
    *,
    rounds: int,
    warmup: int = 10,
    turn_ms: float = TURN_MS,
    tick: Callable[[], None] = lambda: None,
) -> dict[str, Samples]:
    """Time each of `runners` on its own `inputs`, in `rounds` rounds of one turn each after `warmup` calls each.

    Every other round goes through them backwards. A turn is several calls in a row, each timed by itself: as many as
    take the slowest runner about `turn_ms` (one without a warm-up to know by). Where runners share the machine, the
    first call of a turn, which finds the other's data in the caches, is not counted unless it is the only one. `tick`
    is called after each round.

    Raises EngineError where a runner does.
    """
    slowest = max(_warm(runner, inputs[name], warmup) for name, runner in runners.items())
    calls = 1 if warmup == 0 else max(1, min(MAX_CALLS, int(turn_ms / slowest)))
    turns: dict[str, list[tuple[float, ...]]] = {name: [] for name in runners}
    lead_in = 1 if calls > 1 and len(runners) > 1 else 0
    order = list(runners)
    for _ in range(rounds):
        with _no_garbage_collection():
            for name in order:
                turns[name].append(_timed(runners[name], inputs[name], lead_in + calls)[lead_in:])
        order.reverse()
        tick()
    return {name: Samples(tuple(of_runner)) for name, of_runner in turns.items()}


def stage_medians(runner: Runner, inputs: Inputs, rounds: int) -> dict[str, float]:
    """Median milliseconds of each stage of a call on the device; {} for a runner without a device timeline."""
    timelines = [stages for _ in range(rounds) if (stages := runner.stages(inputs))]
    return {stage: statistics.median(t[stage] for t in timelines) for stage in timelines[0]} if timelines else {}


def _warm(runner: Runner, inputs: Inputs, calls: int) -> float:
    """Call it `calls` times; the milliseconds of the quickest call."""
    return min(_timed(runner, inputs, calls), default=0.0)


def _timed(runner: Runner, inputs: Inputs, calls: int) -> tuple[float, ...]:
    clock = time.perf_counter_ns
    samples = []
    for _ in range(calls):
        start = clock()
        runner(inputs)
        samples.append(max(clock() - start, 1) / 1e6)  # a clock may be too coarse to see it; nothing takes no time
    return tuple(samples)


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


# ------------------------------------------------------------------ what is run


def default_batches(specs: Sequence[TensorSpec], profiles: Sequence[Mapping[str, ShapeRange]] = ()) -> tuple[int, ...]:
    """The batch sizes to measure unless told: what is fixed, what optimization profiles are made for, else 1."""
    first = specs[0]
    if not first.shape or isinstance(first.shape[0], int):
        return (first.shape[0] if first.shape else 1,)  # type: ignore[return-value]
    sizes = {shape[0] for p in profiles if first.name in p for shape in (p[first.name].min, p[first.name].opt)}
    sizes |= {p[first.name].max[0] for p in profiles if first.name in p}
    return tuple(sorted(sizes)) or (1,)


def random_inputs(
    specs: Sequence[TensorSpec],
    batch: int,
    *,
    size: tuple[int, int] | None = None,
    profiles: Sequence[Mapping[str, ShapeRange]] = (),
    seed: int = 0,
) -> dict[str, Array]:
    """Inputs as `specs` describe them, at this batch size: standard normal, or integers that any network takes.

    The batch is axis 0 of the first input and every free axis 0. A free height and width (axes 2 and 3) are `size`,
    else those that the first of the `profiles` for this batch is tuned for.

    Raises EngineError where the batch is fixed at another size, the size fixed, or something else is free.
    """
    first = specs[0]
    fixed = first.shape[0] if first.shape else 1
    if isinstance(fixed, int) and fixed != batch:
        raise EngineError(f"batch {batch} was asked for, {first} takes {fixed} and no other; give --batch {fixed}")
    if size is not None and not any(isinstance(axis, str) for spec in specs for axis in spec.shape[2:4]):
        raise EngineError(f"size {size[0]}x{size[1]} was asked for, {first} has a fixed one; leave --size out")
    profile = next((p for p in profiles if first.name in p and _has_batch(p[first.name], batch)), {})
    rng = np.random.default_rng(seed)
    shapes = {spec.name: _shape_at(spec, batch, str(fixed), size, profile.get(spec.name)) for spec in specs}
    return {spec.name: _random(rng, spec, shapes[spec.name]) for spec in specs}


def _has_batch(covered: ShapeRange, batch: int) -> bool:
    return covered.min[0] <= batch <= covered.max[0]


def _shape_at(
    spec: TensorSpec, batch: int, batch_name: str, size: tuple[int, int] | None, covered: ShapeRange | None
) -> tuple[int, ...]:
    """The shape of `spec` with every free axis filled in."""

    def sized(index: int, axis: int | str) -> int:
        if isinstance(axis, int):
            return axis
        if index == 0 or axis == batch_name:
            return batch
        if index in (2, 3) and size is not None:
            return size[index - 2]
        if covered is not None:
            return covered.opt[index]
        remedy = "give --size HEIGHTxWIDTH" if index in (2, 3) else "export it at a fixed size"
        raise EngineError(f"{spec} has an axis {axis} free besides the batch; {remedy}")

    return tuple(sized(index, axis) for index, axis in enumerate(spec.shape))


def _random(rng: np.random.Generator, spec: TensorSpec, shape: tuple[int, ...]) -> Array:
    dtype = dtype_of(spec.dtype)
    if spec.dtype == "uint8":
        return rng.integers(0, 256, shape, np.uint8)
    if dtype.kind in "bi":
        return rng.integers(0, 2, shape).astype(dtype)
    return rng.standard_normal(shape, np.float32).astype(dtype)


def inputs_for(specs: Sequence[TensorSpec], inputs: Inputs) -> dict[str, Array]:
    """The same inputs for a network whose inputs are `specs`: by name, else by order; floats in the width it takes.

    Raises EngineError where it takes another number of inputs.
    """
    names = [spec.name for spec in specs]
    if len(names) != len(inputs):
        raise EngineError(
            f"it takes {len(names)} inputs ({', '.join(names)}), wanted the {len(inputs)} of what it is compared with "
            f"({', '.join(inputs)}); compare networks of the same inputs"
        )
    arrays = [inputs[name] for name in names] if set(names) == set(inputs) else list(inputs.values())
    return {spec.name: _as_wide(array, spec) for spec, array in zip(specs, arrays, strict=True)}


def _as_wide(array: Array, spec: TensorSpec) -> Array:
    floats = ("float16", "bfloat16", "float32", "float64")
    both = spec.dtype in floats and array.dtype.name in floats
    return array.astype(dtype_of(spec.dtype), copy=False) if both else array


# ------------------------------------------------------------------ where it is run


def machine(device: int = 0) -> dict[str, Any]:
    """What the figures belong to: processor, cores, load, GPU (None: none), system, and the runtimes' versions."""
    try:
        gpu: str | None = find_gpu(device).name
    except EngineError:
        gpu = None
    affinity = getattr(os, "sched_getaffinity", None)
    load = getattr(os, "getloadavg", None)
    return {
        "cpu": _cpu(),
        "cores": len(affinity(0)) if affinity else os.cpu_count(),
        "load": round(load()[0], 2) if load else None,
        "gpu": gpu,
        "system": platform.platform(),
        "python": platform.python_version(),
        "runtimes": {backend.name: backend.version for backend in available()},
    }


def _cpu() -> str:
    """The processor's name, where the system tells it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
