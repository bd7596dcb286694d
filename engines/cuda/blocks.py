"""Device memory for results that callers keep as long as they like."""

import contextlib
import threading
import weakref
from collections import deque

from plainconv.exporter.errors import EngineError

from .runtime import Cuda


class Block:
    """Some device memory, the pool's again when nothing refers to this object any more."""

    __slots__ = ("__weakref__", "address")

    def __init__(self, address: int) -> None:
        self.address = address


class Blocks:
    """Device memory for results that callers keep as long as they like, and that is used again after that.

    A caller may drop an array while its own work, still enqueued, reads it. Before memory is used for a second time,
    the whole device is waited for, as cudaFree would do. From any thread.
    """

    def __init__(self, cuda: Cuda) -> None:
        self._cuda, self._lock, self._closed = cuda, threading.Lock(), False
        self._returned: deque[tuple[int, int]] = deque()  # appended to by the garbage collector, which takes no lock
        self._free: dict[int, list[int]] = {}

    def take(self, size: int) -> Block:
        """At least `size` bytes, a power of two. Raises EngineError where the GPU has not that much."""
        size = 1 << max(8, (size - 1).bit_length())  # few sizes, so that blocks are found again at other batches
        with self._lock:
            free = self._free.setdefault(size, [])
            if not free and self._returned:
                waited_for = len(self._returned)
                self._cuda.synchronize_device()
                for _ in range(waited_for):  # not those that came meanwhile
                    address, length = self._returned.popleft()
                    self._free.setdefault(length, []).append(address)
            block = Block(free.pop() if free else self._cuda.allocate(size))
        weakref.finalize(block, self._give, block.address, size).atexit = False
        return block

    def close(self) -> None:
        """Free what is not in use; what is, is freed when its caller drops it."""
        with self._lock:
            self._closed = True
            free, self._free = [address for some in self._free.values() for address in some], {}
            for address in free:
                self._cuda.free(address)
        self._free_returned()

    def _give(self, address: int, size: int) -> None:
        self._returned.append((address, size))
        if self._closed:
            with contextlib.suppress(EngineError):  # nobody is there to hear it
                self._free_returned()

    def _free_returned(self) -> None:
        while True:
            try:
                address, _ = self._returned.popleft()
            except IndexError:
                return
            self._cuda.free(address)
