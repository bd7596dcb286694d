"""Measuring runners: what is called how often and in which order, and what is made of the samples."""

import gc
import itertools
import math
import statistics
from typing import ClassVar

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plainconv.engines import bench
from plainconv.engines.bench import Ratio, Samples, measure, ratio, stage_medians
from plainconv.engines.runner import Runner
from plainconv.exporter.bundle import ShapeRange, TensorSpec
from plainconv.exporter.errors import EngineError

times = st.floats(1e-6, 1e6)


class Clock:
    """Nanoseconds that pass only when something says so."""

    now = 0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(bench.time, "perf_counter_ns", clock)
    return clock


class Timed(Runner):
    """A runner whose calls take the given milliseconds, one after the other, over and over."""

    backend, precision, inputs, outputs = "timed", "fp32", (), ()
    log: ClassVar[list[str]] = []

    def __init__(self, name, clock, *milliseconds):
        self.name, self.clock, self.times = name, clock, itertools.cycle(milliseconds)

    def __call__(self, inputs, outputs=None):
        assert inputs == {"of": self.name}
        self.log.append(self.name)
        self.clock.now += round(next(self.times) * 1e6)
        return {}

    def close(self):
        pass


@pytest.fixture
def log():
    Timed.log = []
    return Timed.log


def of(*names):
    return {name: {"of": name} for name in names}


def test_turns(clock, log):
    """Given two runners -> warm-up, then A B, B A, …; turns by the slower one's time, their first call not counted."""
    runners = {"a": Timed("a", clock, 5.0), "b": Timed("b", clock, 2.0)}
    ticks = []
    samples = measure(runners, of("a", "b"), rounds=3, warmup=4, turn_ms=15, tick=lambda: ticks.append(len(log)))
    a, b = ["a"] * 4, ["b"] * 4  # one to begin with, and the three that 15 ms are at 5 ms each
    assert log == [*a, *b, *a, *b, *b, *a, *a, *b]
    assert ticks == [16, 24, 32]
    assert samples == {"a": Samples(((5.0,) * 3,) * 3), "b": Samples(((2.0,) * 3,) * 3)}


def test_one_runner(clock, log):
    """Given one runner -> nobody is in its way: every call of a turn counts."""
    samples = measure({"a": Timed("a", clock, 4.0, 6.0)}, of("a"), rounds=2, warmup=2, turn_ms=8.5)
    assert samples["a"].turns == ((4.0, 6.0), (4.0, 6.0))
    assert len(log) == 2 + 4


@pytest.mark.parametrize(("warmup", "milliseconds"), [(0, 0.001), (3, 500.0)])
def test_turns_of_one_call(clock, log, warmup, milliseconds):
    """Given a network that takes longer than a turn, or no warm-up to tell -> turns of one call, which counts."""
    runners = {name: Timed(name, clock, milliseconds) for name in "ab"}
    samples = measure(runners, of("a", "b"), rounds=2, warmup=warmup)
    assert samples["b"].turns == ((milliseconds,), (milliseconds,))
    assert len(log) == 2 * warmup + 4


def test_network_that_takes_no_time(clock, log):
    """Given a clock too coarse to see a call -> a nanosecond each, no division by zero, at most 100 calls a turn."""
    runners = {name: Timed(name, clock, 0.0) for name in "ab"}
    samples = measure(runners, of("a", "b"), rounds=2, warmup=1)
    assert samples["a"].turns == ((1e-6,) * 100,) * 2
    assert ratio(samples["a"], samples["b"]) == Ratio(1.0, 1.0, 1.0)
    assert samples["a"].images_per_second(8) == pytest.approx(8e9)


def test_garbage_collection_is_put_off(clock, log):
    """Given a runner that fails in its turn -> its error; no collection ran in the turn, and it runs again after."""

    class Failing(Timed):
        def __call__(self, inputs, outputs=None):
            collecting.append(gc.isenabled())
            if len(collecting) == 3:
                raise EngineError("out of GPU memory")
            return super().__call__(inputs)

    collecting: list[bool] = []
    with pytest.raises(EngineError, match="out of GPU memory"):
        measure({"a": Failing("a", clock, 1.0)}, of("a"), rounds=2, warmup=1)
    assert collecting == [True, False, False]
    assert gc.isenabled()


@given(turns=st.lists(st.lists(times, min_size=1, max_size=8).map(tuple), min_size=1, max_size=30).map(tuple))
def test_percentiles(turns):
    """Given any samples -> percentiles in order, between the extremes, exceeded by no more than they say."""
    samples = Samples(turns)
    values = sorted(samples.milliseconds)
    percentiles = [samples.percentile(p) for p in (0, 10, 50, 90, 99, 100)]
    assert percentiles == sorted(percentiles)
    assert (percentiles[0], percentiles[-1]) == (values[0], values[-1])
    assert samples.percentile(50) == pytest.approx(statistics.median(values))
    for p in (10, 50, 90, 99):
        at = samples.percentile(p)
        assert sum(v > at for v in values) <= (1 - p / 100) * len(values) + 1e-9
    assert math.isfinite(samples.images_per_second(1))


@pytest.mark.parametrize("count", [1, 2, 50, 99])
def test_tail_of_few_samples(count):
    """Given fewer than 100 samples -> their 99th percentile is the slowest, not something between."""
    samples = Samples((tuple(float(i + 1) for i in range(count)),))
    assert samples.percentile(99) == count
    assert samples.percentile(50) == (count + 1) / 2


def test_images_per_second():
    """Given calls of 8 images that take 1, 1 and 2 ms -> 24 images in 4 ms."""
    assert Samples(((1.0, 1.0), (2.0,))).images_per_second(8) == pytest.approx(6000)


def test_ratio_is_of_the_turns():
    """Given a machine that slows down to a half between two turns -> the ratio does not see it."""
    ours = Samples(((1.0, 1.0, 9.0), (2.0, 2.0, 2.0)))
    theirs = Samples(((2.0, 2.0, 2.0), (4.0, 4.0, 4.0)))
    assert ratio(ours, theirs) == Ratio(0.5, 0.5, 0.5)


@given(pairs=st.lists(st.tuples(times, times), min_size=1, max_size=60))
def test_ratio_and_its_spread(pairs):
    ours, theirs = (Samples(tuple((pair[i],) for pair in pairs)) for i in (0, 1))
    found = ratio(ours, theirs)
    ratios = [a / b for a, b in pairs]
    assert min(ratios) <= found.low <= found.median <= found.high <= max(ratios)
    if len(ratios) < 6:
        assert (found.low, found.high) == (min(ratios), max(ratios))
    back = ratio(theirs, ours)
    assert back.low == pytest.approx(1 / found.high)


@pytest.mark.parametrize("count", [1, 5, 6, 9, 30, 100, 1000])
def test_confidence(count):
    """Given samples on either side of the true median at even odds -> between the ranks in 95 cases of 100, just so."""

    def missed(rank):  # the true median is below the rank-th smallest, or above the rank-th largest
        return 2 * sum(math.comb(count, k) for k in range(rank)) / 2**count

    rank = bench._sure_rank(count)
    assert missed(rank) <= 0.05 < missed(rank + 1)
    assert rank == 0 or count >= 6


def test_stages(clock):
    """Given a device timeline -> the median of each stage; without one, nothing."""

    class Device(Timed):
        timelines = iter(
            [{"copy in": 1.0, "compute": 5.0}, {"copy in": 3.0, "compute": 4.0}, {"copy in": 2.0, "compute": 9.0}]
        )

        def stages(self, inputs):
            return next(self.timelines)

    assert stage_medians(Device("a", clock, 1.0), {}, 3) == {"copy in": 2.0, "compute": 5.0}
    assert stage_medians(Timed("a", clock, 1.0), {}, 3) == {}


FIXED = TensorSpec("image", "float32", (4, 3, 8, 8))
OPEN = TensorSpec("image", "float32", ("batch", 3, 8, 8))


def profile(low, best, high):
    return {"image": ShapeRange(*((n, 3, 8, 8) for n in (low, best, high)))}


@pytest.mark.parametrize(
    ("spec", "profiles", "batches"),
    [
        (FIXED, (), (4,)),
        (FIXED, (profile(4, 4, 4),), (4,)),
        (OPEN, (), (1,)),
        (OPEN, (profile(1, 8, 32),), (1, 8, 32)),
        (OPEN, (profile(1, 1, 1), profile(1, 8, 8)), (1, 8)),
        (TensorSpec("scalar", "float32", ()), (), (1,)),
    ],
)
def test_default_batches(spec, profiles, batches):
    assert bench.default_batches((spec,), profiles) == batches


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64", "int64", "uint8", "bool"])
def test_random_inputs(dtype):
    """Given specs of any dtype -> inputs of that dtype and batch, the same from the same seed, not all alike."""
    specs = (TensorSpec("x", dtype, ("n", 3, 8)), TensorSpec("scale", "float32", ("n",)))
    first, again, other = (bench.random_inputs(specs, 5, seed=seed) for seed in (0, 0, 1))
    assert first["x"].shape == (5, 3, 8)
    assert first["scale"].shape == (5,)
    assert first["x"].dtype == (ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype))
    np.testing.assert_array_equal(first["x"], again["x"])
    assert (first["x"] != other["x"]).any()
    assert len(np.unique(first["x"])) > 1


def test_batch_that_a_network_does_not_take():
    with pytest.raises(
        EngineError, match=r"batch 8 was asked for, image float32.* takes 4 and no other; give --batch 4"
    ):
        bench.random_inputs((FIXED,), 8)
    assert bench.random_inputs((FIXED,), 4)["image"].shape == (4, 3, 8, 8)


SIZED = TensorSpec("image", "float32", ("batch", 3, "height", "width"))


def test_open_size():
    """Given a free height and width -> those asked for, else those the batch's profile is tuned for, else an error."""

    def shape(batch, **how):
        return bench.random_inputs((SIZED,), batch, **how)["image"].shape

    small, large = ((b, 3, s, 2 * s) for b, s in ((4, 8), (16, 32)))
    covered = [{"image": ShapeRange((1, 3, 1, 1), opt, opt)} for opt in (small, large)]
    assert shape(2, size=(5, 6)) == shape(2, size=(5, 6), profiles=covered) == (2, 3, 5, 6)
    assert shape(2, profiles=covered) == (2, 3, 8, 16)
    assert shape(16, profiles=covered) == (16, 3, 32, 64)
    with pytest.raises(EngineError, match=r"image .* has an axis height free besides the batch; give --size HEIGHTxWI"):
        shape(1)
    with pytest.raises(EngineError, match=r"size 5x6 was asked for, image float32\[batch, 3, 8, 8\] has a fixed one"):
        bench.random_inputs((OPEN,), 1, size=(5, 6))


def test_other_free_axes():
    """Given a free axis that is neither batch nor size -> an error that names it; one named like the batch is it."""
    with pytest.raises(EngineError, match="has an axis tokens free besides the batch; export it at a fixed size"):
        bench.random_inputs((TensorSpec("text", "int64", ("batch", "tokens")),), 1)
    assert bench.random_inputs((TensorSpec("pairs", "float32", ("n", "n")),), 3)["pairs"].shape == (3, 3)


def test_inputs_of_another_network():
    """Given a network of the same names, other names, another width -> by name, else by order, cast."""
    x, s = np.ones((1, 3), np.float32), np.zeros(1, np.float32)
    wide, scale = TensorSpec("x", "float32", ("n", 3)), TensorSpec("s", "float32", ("n",))
    assert bench.inputs_for((scale, wide), {"x": x, "s": s}) == {"s": s, "x": x}
    other = bench.inputs_for(
        (TensorSpec("data", "float16", (1, 3)), TensorSpec("k", "float32", (1,))), {"x": x, "s": s}
    )
    assert other["data"].dtype == np.float16
    assert other["data"].shape == (1, 3)
    assert other["k"] is s
    with pytest.raises(EngineError, match=r"it takes 1 inputs \(x\), wanted the 2 .*\(x, s\); compare networks"):
        bench.inputs_for((wide,), {"x": x, "s": s})
    whole = bench.inputs_for((TensorSpec("x", "int64", (1, 3)), scale), {"x": x, "s": s})
    assert whole["x"].dtype == np.float32  # for the runner to refuse: no float becomes a whole number unasked


def test_machine():
    found = bench.machine()
    assert set(found) == {"cpu", "cores", "load", "gpu", "system", "python", "runtimes"}
    assert found["cpu"]
    assert found["cores"] >= 1
    assert "onnxruntime" in found["runtimes"]
