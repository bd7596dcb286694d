"""Triton's system shared memory: parts of POSIX shared memory objects, which a client names in the place of bytes.

    register "in": object /frames, from byte 0, 602112 bytes;  an input: region "in", offset 0, byte_size 602112

The object stays its client's, who may write to it and cut it at any time. So nothing of it is mapped here: bytes are
copied out of it and into it by its descriptor, and where it was cut a request is refused, not the server killed.
"""

import asyncio
import contextlib
import os
import re
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from plainconv.exporter.errors import EngineError

from ..runner import Array
from .refusals import BadRequestError, TakenError, TooLargeError, TooManyError, UnknownError, shown
from .requests import InferRequest, InferResponse, Place, SharedInput
from .tensors import array_of_bytes, bytes_of

FOLDER = Path("/dev/shm")
MOST_REGIONS = 256
_MOST_NAME = 256
_OBJECT = re.compile(r"/*(?!\.\.?$|sem\.)([^/\0]{1,255})")  # sem.*: semaphores, which whoever holds them has mapped
_LARGE = 4 * 2**20  # bytes that take longer to copy than another request should wait
_MOST = 2**63


class Region:
    """A part of an object, open until it is closed and every copy that has begun has ended."""

    def __init__(self, name: str, key: str, offset: int, size: int) -> None:
        """Raises BadRequestError where there is no such object, or it is shorter."""
        self.name, self.key, self.offset, self.size = name, key, offset, size
        self._lock = threading.Lock()
        self._copies, self._is_closed = 0, False
        self._file = _opened(key)
        try:
            self._check_size("the region")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Take no further copy. Never waits for those that go on; closing twice does nothing."""
        with self._lock:
            self._is_closed = True
            self._leave()

    def _leave(self) -> None:
        if self._is_closed and not self._copies and self._file >= 0:
            os.close(self._file)
            self._file = -1

    @contextlib.contextmanager
    def _copying(self, what: str) -> Iterator[None]:
        """The object stays open meanwhile. Raises BadRequestError where the region is closed."""
        with self._lock:
            if self._is_closed:
                raise BadRequestError(f"{what} lies in region {shown(self.name)}, which was unregistered meanwhile")
            self._copies += 1
        try:
            yield
        finally:
            with self._lock:
                self._copies -= 1
                self._leave()

    def _check_size(self, what: str) -> None:
        """Raise BadRequestError where the object does not reach as far as the region."""
        found = os.fstat(self._file).st_size
        if found < self.offset + self.size:
            raise BadRequestError(
                f"{what} asks for bytes {self.offset} to {self.offset + self.size} of the shared memory object "
                f"{shown(self.key)}, which has {found}"
            )

    def read(self, what: str, offset: int, size: int) -> Array:
        """That many bytes of the region, in memory of this process. Raises BadRequestError where they are gone."""
        given = np.empty(size, np.uint8)
        end = 0
        with self._copying(what):
            while end < size:
                count = os.preadv(self._file, [given[end:].data], self.offset + offset + end)
                if not count:
                    self._check_size(what)
                    raise BadRequestError(f"{what} could not be read: its shared memory object was cut meanwhile")
                end += count
        return given

    def write(self, what: str, offset: int, data: memoryview) -> None:
        """Put `data` there. Raises BadRequestError where the object has no room for it any more."""
        end = 0
        with self._copying(what):
            self._check_size(what)  # what is written behind its end would make it longer
            while end < len(data):
                try:
                    end += os.pwrite(self._file, data[end:], self.offset + offset + end)
                except OSError as error:
                    raise BadRequestError(f"{what} could not be written to its region ({error.strerror})") from None


_Spots = dict[str, tuple[Region, int, int]]
"""Of each tensor its region, the first byte in it, and how many."""


class Regions:
    """The regions that are registered, by name. From one thread; what is large is copied in others."""

    def __init__(self) -> None:
        """Raises EngineError where this system has no shared memory of that kind."""
        if not FOLDER.is_dir() or not hasattr(os, "preadv"):
            raise EngineError(
                f"there is no {FOLDER} here, so no shared memory can be offered; leave --shared-memory out"
            )
        self._regions: dict[str, Region] = {}

    def register(self, name: object, key: object, offset: object, size: object) -> None:
        """Open a part of an object as region `name`.

        Raises BadRequestError where that is not there, TakenError where the name is, TooManyError for one too many.
        """
        if not isinstance(name, str) or not 0 < len(name) <= _MOST_NAME:
            raise BadRequestError(f"a region is named {shown(name)}, wanted 1 to {_MOST_NAME} characters")
        if name in self._regions:
            raise TakenError(f"region {shown(name)} is registered already; unregister it, or take another name")
        if len(self._regions) >= MOST_REGIONS:
            raise TooManyError(f"{MOST_REGIONS} regions are registered already; unregister one")
        found = _OBJECT.fullmatch(key) if isinstance(key, str) else None
        if found is None:
            raise BadRequestError(f"key {shown(key)} names no shared memory object; wanted a name without / and ..")
        self._regions[name] = Region(name, found[1], *_span(f"region {shown(name)}", offset, size))

    def unregister(self, name: str = "") -> None:
        """Close the region of that name, all without one; one that is not registered is not registered then."""
        for each in [name] if name else list(self._regions):
            if region := self._regions.pop(each, None):
                region.close()

    def status(self, name: str = "") -> list[dict[str, Any]]:
        """What is registered, or that region alone. Raises UnknownError where it is not."""
        regions = [self._region(name, "")] if name else self._regions.values()
        return [{"name": r.name, "key": f"/{r.key}", "offset": r.offset, "byte_size": r.size} for r in regions]

    def size_of(self, request: InferRequest, most: int) -> int:
        """The bytes of its inputs that lie in regions. Raises RefusedError; TooLargeError beyond `most`."""
        size = sum(self._checked(f"input {shown(name)}", each.place)[2] for name, each in request.shared.items())
        if size > most:
            raise TooLargeError(f"the inputs in shared memory have {size} bytes, this server takes up to {most}")
        return size

    async def filled(self, request: InferRequest) -> InferRequest:
        """The request with those of its inputs that lie in regions. Raises RefusedError."""
        spots = {name: self._checked(f"input {shown(name)}", each.place) for name, each in request.shared.items()}
        inputs = await _by_size(_read, request.shared, spots)
        return replace(request, inputs={**request.inputs, **inputs}, shared={})

    async def emptied(self, response: InferResponse) -> InferResponse:
        """The answer, its outputs put where they have places. Raises BadRequestError where one has too little room."""
        spots: _Spots = {}
        for name, place in response.places.items():
            what, array = f"output {shown(name)}", response.outputs[name]
            region, offset, size = self._checked(what, place)
            if array.nbytes > size:
                raise BadRequestError(f"{what} has {array.nbytes} bytes, its place in shared memory {size}")
            spots[name] = region, offset, array.nbytes
        await _by_size(_write, response.outputs, spots)
        places = {name: Place(region.name, offset, size) for name, (region, offset, size) in spots.items()}
        return replace(response, places=places)

    def close(self) -> None:
        """Close all."""
        self.unregister()

    def _checked(self, what: str, place: Place) -> tuple[Region, int, int]:
        """Where a place is, which lies in its region. Raises BadRequestError and UnknownError."""
        region = self._region(place.region, what)
        offset, size = _span(what, place.offset, place.size)
        if offset + size > region.size:
            wanted = f"bytes {offset} to {offset + size} of region {shown(region.name)}"
            raise BadRequestError(f"{what} asks for {wanted}, which has {region.size}")
        return region, offset, size

    def _region(self, name: object, what: str) -> Region:
        region = self._regions.get(name) if isinstance(name, str) else None
        if region is None:
            of = f" for {what}" if what else ""
            raise UnknownError(f"there is no shared memory region {shown(name)}{of}; register it first")
        return region


def _read(shared: Mapping[str, SharedInput], spots: _Spots) -> dict[str, Array]:
    inputs = {}
    for name, (region, offset, size) in spots.items():
        data = region.read(f"input {shown(name)}", offset, size)
        inputs[name] = array_of_bytes(name, shared[name].datatype, shared[name].shape, data.data)
    return inputs


def _write(outputs: Mapping[str, Array], spots: _Spots) -> None:
    for name, (region, offset, _) in spots.items():
        region.write(f"output {shown(name)}", offset, bytes_of(outputs[name]))


async def _by_size(copy: Callable[[Any, _Spots], Any], tensors: Any, spots: _Spots) -> Any:
    """What a function gives that copies those bytes; of many bytes in a thread, as others would wait for it."""
    is_large = sum(size for _, _, size in spots.values()) > _LARGE
    return await asyncio.to_thread(copy, tensors, spots) if is_large else copy(tensors, spots)


def _span(what: str, offset: object, size: object) -> tuple[int, int]:
    """An offset and a size as integers, the offset 0 where there is none. Raises BadRequestError."""
    return _whole(what, "offset", 0 if offset is None else offset, 0), _whole(what, "byte_size", size, 1)


def _whole(what: str, name: str, sent: object, least: int) -> int:
    if type(sent) is not int or not least <= sent < _MOST:
        wanted = f"wanted a whole number from {least}, below 2^63"
        raise BadRequestError(f"{what} has {name} {shown(sent)} in shared memory, {wanted}")
    return sent


def _opened(key: str) -> int:
    """The descriptor of an object, no link and no device. Raises BadRequestError."""
    try:
        descriptor = os.open(FOLDER / key, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "no such name"
        raise BadRequestError(f"shared memory object {shown(key)} cannot be opened ({why})") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise BadRequestError(f"{shown(key)} is no shared memory object")
    return descriptor
