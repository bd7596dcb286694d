"""Which processor cores each place of a split network runs on, and how a thread is bound to them."""

import os
import sys
from collections.abc import Sequence
from itertools import pairwise

from ..schedule import Place

Cores = tuple[int, ...]
"""Numbers of processors as the operating system counts them, in order."""


def usable_cores() -> Cores:
    """Those that the calling thread may run on; all there are, where the system does not say."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def dealt(cores: Cores, hands: int) -> list[Cores]:
    """`cores` in `hands` runs of neighbours, one longer than another by at most 1; too few cores are shared."""
    cuts = [hand * len(cores) // hands for hand in range(hands + 1)]
    return [cores[start : max(end, start + 1)] for start, end in pairwise(cuts)]


def cores_of_places(places: Sequence[Place], groups: Sequence[int], cores: Cores) -> dict[Place, Cores]:
    """The cores of each place: `groups` says for each device of the plan which group of the cores it is.

    There are as many groups as numbers in `groups`, dealt in order. The places of one device divide its group; devices
    of the same group share it.
    """
    of_group = dict(zip(sorted(set(groups)), dealt(cores, len(set(groups))), strict=True))
    found: dict[Place, Cores] = {}
    for device, group in enumerate(groups):
        own = sorted({place for place in places if place[0] == device})
        if own:
            found |= zip(own, dealt(of_group[group], len(own)), strict=True)
    return found


def bind(cores: Cores) -> str | None:
    """Let the calling thread, and those that it starts, run on `cores` only. Gives why that cannot be; None: it is."""
    if not hasattr(os, "sched_setaffinity"):
        return f"Python on {sys.platform} cannot bind a thread to cores"
    try:
        os.sched_setaffinity(0, cores)  # 0 is the calling thread, not the process
    except OSError as error:
        return f"the system does not let a thread be bound to cores {', '.join(map(str, cores))} ({error.strerror})"
    return None
