"""Device memory for results that callers keep as long as they like."""

import contextlib
import threading
import weakref
from collections import deque
from collections.abc import Set

from plainconv.exporter.errors import EngineError

from .device_array import DEFAULT_STREAM
from .runtime import CudaRuntime


class Block:
    """Some device memory, the pool's again when nothing refers to this object any more.

    `consumers` are the streams that were told of for its use.
    """

    __slots__ = ("__weakref__", "address", "consumers")

    def __init__(self, address: int) -> None:
        self.address = address
        self.consumers: set[int] = set()


class Blocks:
    """Device memory for results that callers keep as long as they like, and that is used again after that.

    A caller may drop an array while its own work, still enqueued, reads it. So the stream that writes memory for a
    second time first waits for the default stream, and for every stream that took the array by DLPack: the device
    orders that, and no thread waits. From any thread, while the device is in use.
    """

    def __init__(self, cuda: CudaRuntime) -> None:
        self._cuda, self._lock, self._closed = cuda, threading.Lock(), False
        self._returned: deque[tuple[int, int, Set[int]]] = deque()  # by the garbage collector, which takes no lock
        self._free: dict[int, list[tuple[int, Set[int]]]] = {}
        self._event: int | None = None

    def take(self, size: int, stream: int) -> Block:
        """At least `size` bytes, a power of two, for work of `stream`. Raises EngineError where there is not as much.

        Memory whose consumer is being captured is left alone until that has ended.
        """
        size = 1 << max(8, (size - 1).bit_length())  # few sizes, so that blocks are found again at other batches
        with self._lock:
            while self._returned:
                dropped, length, consumers = self._returned.popleft()
                self._free.setdefault(length, []).append((dropped, consumers))
            address = self._found(self._free.get(size, []), stream)
            block = Block(self._cuda.allocate(size) if address is None else address)
        weakref.finalize(block, self._give, block.address, size, block.consumers).atexit = False
        return block

    def close(self) -> None:
        """Free what is not in use; what is, is freed when its caller drops it."""
        with self._lock:
            self._closed = True
            free, self._free = [address for some in self._free.values() for address, _ in some], {}
            event, self._event = self._event, None
            for address in free:
                self._cuda.free(address)
            if event is not None:
                self._cuda.destroy_event(event)
        self._free_returned()

    def _found(self, free: list[tuple[int, Set[int]]], stream: int) -> int | None:
        """The address of the first of these that `stream` may write, after its consumers; None where there is none."""
        for at in reversed(range(len(free))):
            try:
                if self._follow(free[at][1], stream):
                    return free.pop(at)[0]
            except EngineError:  # a consumer's stream is not there any more: to free memory waits for whatever it left
                self._cuda.free(free.pop(at)[0])
        return None

    def _follow(self, consumers: Set[int], stream: int) -> bool:
        """Have `stream` wait for consumers; False where one is being captured, and none may wait for it."""
        streams = sorted({DEFAULT_STREAM, *consumers})
        if any(self._cuda.captured(each) for each in streams):
            return False
        if self._event is None:
            self._event = self._cuda.create_event(timed=False)
        for each in streams:
            self._cuda.mark(self._event, each)
            self._cuda.wait_for(self._event, stream)
        return True

    def _give(self, address: int, size: int, consumers: Set[int]) -> None:
        self._returned.append((address, size, consumers))
        if self._closed:
            with contextlib.suppress(EngineError):  # nobody is there to hear it
                self._free_returned()

    def _free_returned(self) -> None:
        while True:
            try:
                address, _, _ = self._returned.popleft()
            except IndexError:
                return
            self._cuda.free(address)
