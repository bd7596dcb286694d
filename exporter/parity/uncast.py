"""Forward without the autocast that it switches on itself: what the network computes in the type of its weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def without_autocast() -> Iterator[None]:
    """Within it, every autocast region runs as one that is switched off.

    The plain network computes in the type of its weights. Judged by the rounding of a narrower type it could not fail.
    """
    enter: Any = torch.autocast.__enter__  # untyped

    def enter_off(region: torch.autocast) -> object:
        enabled, region._enabled = region._enabled, False
        try:
            return enter(region)
        finally:
            region._enabled = enabled

    torch.autocast.__enter__ = enter_off  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.autocast.__enter__ = enter  # type: ignore[method-assign]
