"""Waiting for what another process or thread does."""

import time
from collections.abc import Callable
from typing import Any

LONG_S = 60.0


def until(holds: Callable[[], Any], seconds: float = LONG_S) -> bool:
    """Whether it holds within that time."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True
