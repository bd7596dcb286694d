"""What a lane has of CUDA: streams, events and memory, each made and given back while its own device is in use."""

import contextlib
import ctypes
from collections.abc import Callable

from ..cuda.runtime import CudaRuntime
from .program import Track


class Resources:
    """The streams and events of a lane, and memory for as long as it lives. For one thread at a time."""

    def __init__(self, cuda: CudaRuntime, home: int) -> None:
        """`home` is the device that is in use before and after each call of the lane."""
        self._cuda, self._home, self._used = cuda, home, home
        self.streams: dict[Track, int] = {}
        self._events: dict[tuple[Track, int], int] = {}

    def at_home(self) -> None:
        """The thread that uses this from now on is on the home device, whatever the last one was on."""
        self._used = self._home

    def use(self, device: int) -> None:
        """Have this thread use a device."""
        if device != self._used:
            self._cuda.use_device(device)
            self._used = device

    def go_home(self) -> None:
        """Have it use the home device again."""
        self.use(self._home)

    def on(self, device: int, call: Callable[..., object], *arguments: object) -> None:
        """Call while a device is in use, if it still can be."""
        try:
            self.use(device)
        finally:
            call(*arguments)

    def allocated(self, held: contextlib.ExitStack, device: int | None, size: int) -> int:
        """Memory of a device, or for None of the host, until `held` closes."""
        if device is None:
            address = self._cuda.allocate_host(size)
            held.callback(self._cuda.free_host, address)
        else:
            self.use(device)
            address = self._cuda.allocate(size)
            held.callback(self.on, device, self._cuda.free, address)
        return address

    def stream(self, track: Track) -> int:
        """The stream of a track."""
        if track not in self.streams:
            self.use(track.device)
            self.streams[track] = self._cuda.create_stream()
        return self.streams[track]

    def event(self, track: Track, count: int, *, timed: bool = False) -> int:
        """One of the events of a track, by its number."""
        if (track, count) not in self._events:
            self.use(track.device)
            self._events[track, count] = self._cuda.create_event(timed=timed)
        return self._events[track, count]

    def release(self) -> None:
        """Give streams and events back."""
        with contextlib.ExitStack() as each:
            for track, stream in self.streams.items():
                each.callback(self.on, track.device, self._cuda.destroy_stream, stream)
            for (track, _), event in self._events.items():
                each.callback(self.on, track.device, self._cuda.destroy_event, event)
        self.streams.clear()
        self._events.clear()


def keep_for_ever(thing: object) -> None:
    """Never give back what a GPU that hangs may still use: to free it would wait for that GPU."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
