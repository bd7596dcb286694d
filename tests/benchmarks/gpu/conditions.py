"""What this machine has, and reasons to skip."""

import importlib.util
import subprocess
import time
from collections.abc import Callable
from statistics import median
from typing import Any

from table import Skipped


def why_no_gpu() -> str | None:
    """Why nothing can be measured; None where torch has a GPU."""
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed"
    import torch

    return None if torch.cuda.is_available() else "torch sees no CUDA GPU"


def gpu_name() -> str:
    """The GPU, its driver, and torch's version."""
    import torch

    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
    try:
        driver = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=False).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        driver = "unknown"
    return f"{torch.cuda.get_device_name(0)}, driver {driver}, torch {torch.__version__}"


def need(*modules: str) -> None:
    """Raise Skipped unless these can be imported."""
    for module in modules:
        try:
            found = importlib.util.find_spec(module)
        except ModuleNotFoundError:
            found = None
        if found is None:
            raise Skipped(f"{module} is not installed")


def milliseconds(call: Callable[[], Any], seconds: float = 0.7) -> float:
    """The median wall time of one call that ends on the GPU, after as long a warm-up."""
    import torch

    def one() -> float:
        started = time.perf_counter()
        call()
        torch.cuda.synchronize()
        return 1e3 * (time.perf_counter() - started)

    until, samples = time.monotonic() + seconds / 2, [one()]
    while time.monotonic() < until or len(samples) < 3:
        samples.append(one())
    until, samples = time.monotonic() + seconds, []
    while time.monotonic() < until or len(samples) < 5:
        samples.append(one())
    return median(samples)
