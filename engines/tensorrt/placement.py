"""Where the values of a network lie on a lane: programs with their streams and events, and the memory of each slot."""

import contextlib
import ctypes
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from plainconv.exporter.bundle import TensorSpec

from ..runner import Array, dtype_of
from .contexts import Shape
from .program import Layout, Program, Slot, Track, Value, Writer
from .replay import Call
from .resources import Resources


class Ready(NamedTuple):
    """A program on a lane: the stream of each work, its event, 0 where it is not marked, and the memory of each slot.

    That is 0 where it is the caller's.
    """

    program: Program
    streams: tuple[int, ...]
    events: tuple[int, ...]
    addresses: tuple[int, ...]


class Placement:
    """The memory of a lane, for the largest shapes, and the programs that run in it."""

    def __init__(self, layout: Layout, resources: Resources) -> None:
        self._layout, self._resources = layout, resources
        self._memory: dict[Slot, int] = {}
        self._ready: dict[tuple[bool, ...], Ready] = {}

    def allocate(self, held: contextlib.ExitStack, sizes: Mapping[Value, int]) -> None:
        """Memory for every slot of a program whose arrays are the host's, until `held` closes.

        Where the caller's arrays are in GPU memory, no others are needed.
        """
        for slot in self._written((False,) * (len(self._layout.inputs) + len(self._layout.outputs))).slots:
            self._memory[slot] = self._resources.allocated(held, slot.device, sizes[slot.value])

    def staged(self, value: Value, shape: Shape, spec: TensorSpec) -> Array:
        """The page-locked host memory of an input or output, as an array of this shape."""
        return view_of(self._memory[Slot(value, None)], shape, spec)

    def placed(self, call: Call) -> tuple[Ready, Sequence[int]]:
        """The program of a call, and the address of each of its slots."""
        on_gpu = tuple(map(bool, call.addresses))
        ready = self._ready.get(on_gpu)
        if ready is None:
            ready = self._ready[on_gpu] = self._new_ready(on_gpu)
        if not any(on_gpu):
            return ready, ready.addresses
        addresses = [*ready.addresses]
        for end, address in zip(ready.program.ends, call.addresses, strict=True):
            if address:
                addresses[end] = address
        return ready, addresses

    def _new_ready(self, on_gpu: tuple[bool, ...]) -> Ready:
        program = self._written(on_gpu)
        counts: dict[Track, int] = {}
        events: list[int] = []
        for at, work in enumerate(program.works):
            if at in program.marked:
                counts[work.track] = counts.get(work.track, 0) + 1
                events.append(self._resources.event(work.track, counts[work.track]))
            else:
                events.append(0)
        streams = tuple(self._resources.stream(work.track) for work in program.works)
        self._resources.go_home()
        return Ready(program, streams, tuple(events), tuple(self._memory.get(slot, 0) for slot in program.slots))

    def _written(self, on_gpu: tuple[bool, ...]) -> Program:
        return Writer(self._layout, on_gpu).program()


def view_of(address: int, shape: Shape, spec: TensorSpec) -> Array:
    """Host memory at `address` as an array."""
    memory = memoryview((ctypes.c_ubyte * size_of(shape, spec)).from_address(address))
    return np.frombuffer(memory, dtype_of(spec.dtype)).reshape(shape)


def size_of(shape: Shape, spec: TensorSpec) -> int:
    """The bytes of a tensor of this shape."""
    return math.prod(shape) * dtype_of(spec.dtype).itemsize
