"""What the C library does with memory that is freed, where it is one that can be told: glibc."""

import contextlib

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # as its <malloc.h> numbers them


def keep_freed(most: int) -> None:
    """Have it keep so many bytes for who asks next, in one piece or several, and give back what is beyond them."""
    _tell(_M_TRIM_THRESHOLD, most)
    _tell(_M_MMAP_THRESHOLD, most)


def share_freed(places: int) -> None:
    """Have threads share what it keeps, in so many places: each place keeps the most that it ever took."""
    _tell(_M_ARENA_MAX, places)


def _tell(option: int, value: int) -> None:
    import ctypes  # which few commands need

    with contextlib.suppress(OSError, AttributeError, TypeError):  # another C library
        ctypes.CDLL(None).mallopt(option, value)
