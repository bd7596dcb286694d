"""Asking the NVIDIA driver which GPU there is, without one."""

import ctypes

import pytest

from plainconv.engines.cuda import gpu
from plainconv.exporter.errors import EngineError


class FakeDriver:
    """libcuda with two GPUs, or with an error in the call named."""

    def __init__(self, failing="", code=0):
        self.failing, self.code = failing, code

    def __getattr__(self, call):
        def answer(*arguments):
            if call == self.failing:
                return self.code
            if call == "cuDeviceGetCount":
                arguments[0]._obj.value = 2
            if call == "cuDeviceGet":
                self.asked = arguments[1]
            if call == "cuDeviceGetName":
                arguments[0].value = (b"NVIDIA GeForce RTX 3090", b"NVIDIA A10")[self.asked]
            if call == "cuDeviceGetAttribute":
                arguments[0]._obj.value = {75: 8, 76: 6}[arguments[1]]
            if call == "cuDeviceTotalMem_v2":
                arguments[0]._obj.value = 24 * 2**30
            return 0

        return answer


def test_gpu_found(monkeypatch):
    """Given a driver with a GPU -> its name, its compute capability as a target, its memory."""
    monkeypatch.setattr(ctypes, "CDLL", lambda name: FakeDriver())
    assert gpu.find_gpu() == gpu.Gpu("NVIDIA GeForce RTX 3090", "sm86", 24 * 2**30)
    assert gpu.find_gpu(1) == gpu.Gpu("NVIDIA A10", "sm86", 24 * 2**30)
    assert gpu.gpu_count() == 2


@pytest.mark.parametrize("number", [2, -1])
def test_gpu_that_is_not_there(monkeypatch, number):
    """Given two GPUs, and another asked for → how many there are."""
    monkeypatch.setattr(ctypes, "CDLL", lambda name: FakeDriver())
    with pytest.raises(EngineError, match=f"^no GPU {number} on this machine, which has 2; see to"):
        gpu.find_gpu(number)


@pytest.mark.parametrize(
    ("failing", "code", "message"),
    [
        ("cuInit", 100, "no GPU on this machine"),
        ("cuInit", 803, "the NVIDIA driver does not answer .cuInit: error 803.; see whether nvidia-smi runs"),
        ("cuDeviceGet", 101, "the NVIDIA driver does not answer .cuDeviceGet: error 101."),
    ],
)
def test_driver_without_a_gpu(monkeypatch, failing, code, message):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: FakeDriver(failing, code))
    with pytest.raises(EngineError, match=message):
        gpu.find_gpu()


def test_no_driver(monkeypatch):
    monkeypatch.setattr(gpu, "_LIBRARY", "libno_such_driver.so.1")
    with pytest.raises(EngineError, match=r"^no NVIDIA driver on this machine \(libno_such_driver\.so\.1 not found\)"):
        gpu.find_gpu()
