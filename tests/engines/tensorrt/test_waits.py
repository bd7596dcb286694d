"""How a lane waits: without a pause for as long as the last call lets expect, and not for ever."""

import types

import pytest

from plainconv.engines.tensorrt import waits
from plainconv.engines.tensorrt.parts import PartEngine
from plainconv.engines.tensorrt.program import Track
from plainconv.engines.tensorrt.waits import LostError, Waits
from plainconv.exporter.errors import EngineError

STREAM, ASK = 7, 10e-6  # seconds that a look takes


class Gpu:
    """A stream whose work takes so many seconds, by a clock that goes on as it is asked, and by sleeps."""

    def __init__(self, monkeypatch):
        self.now, self.ends, self.slept, self.error = 0.0, 0.0, [], None
        monkeypatch.setattr(waits, "time", types.SimpleNamespace(monotonic=lambda: self.now, sleep=self.sleep))
        parts = [PartEngine("", None, None, 0)]
        resources = types.SimpleNamespace(streams={Track(0, (0, 0)): STREAM})
        self.waits = Waits(self, resources, parts, timeout=1.0)

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += max(seconds, 60e-6)  # as systems do

    def idle(self, stream):
        self.now += ASK
        if self.error:
            raise EngineError(self.error)
        return self.now >= self.ends

    def takes(self, seconds):
        """Wait for such a request: by how much too late, and how often it slept."""
        self.ends, before = self.now + seconds, len(self.slept)
        self.waits.for_end(STREAM)
        return self.now - self.ends, len(self.slept) - before


@pytest.fixture
def gpu(monkeypatch):
    return Gpu(monkeypatch)


def test_calls_of_one_length_are_not_slept_through(gpu):
    """Given calls of 2 ms -> the first is slept through in parts, the next ones end within a look of their end."""
    _, sleeps = gpu.takes(2e-3)
    assert sleeps > 10
    for _ in range(5):
        late, sleeps = gpu.takes(2e-3)
        assert sleeps == 0 and late <= 2 * ASK


def test_a_call_longer_than_expected_is_not_spun_for(gpu):
    """Given a call of 200 ms after such of 1 ms -> the processor is given away after half as long again."""
    gpu.takes(1e-3)
    gpu.takes(1e-3)
    _, sleeps = gpu.takes(0.2)
    assert sleeps > 1000


def test_long_calls_are_slept_through(gpu):
    """Given calls of 100 ms -> they are slept through, at most 60 µs too long: nothing, of a hundred milliseconds."""
    gpu.takes(0.1)
    late, sleeps = gpu.takes(0.1)
    assert sleeps > 1000 and late < 100e-6


def test_what_never_ends_and_what_fails(gpu):
    gpu.ends = 99.0
    gpu.waits.launched = True
    with pytest.raises(LostError, match="did not end within 1 s: no end of the network, a CUDA graph; load the bundle"):
        gpu.waits.for_end(STREAM)
    gpu.error = "CUDA failed"
    wanted = "GPU 0 failed while the network ran there"
    for ask in (lambda: gpu.waits.for_end(STREAM), gpu.waits.check_alive, gpu.waits.for_all):
        with pytest.raises(LostError, match=wanted):
            ask()
    assert gpu.waits.ended(0.0)
