"""Reading a request's body into one buffer, and noticing when its sender leaves. Plain ASGI: no web framework here."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, MutableMapping
from typing import Any, TypeVar

import numpy as np

from ..refusals import BadRequestError, LeftError, SlowError, TooLargeError, shown

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
T = TypeVar("T")

ALIGNMENT = 64
_MOST_DIGITS = 18


def headers_of(scope: Scope) -> dict[str, str]:
    """The headers of a request, the last of those that are there twice."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


def peer_of(scope: Scope) -> str:
    """The address that a request came from."""
    client = scope.get("client")
    return str(client[0]) if client else ""


def content_length(headers: Mapping[str, str], limit: int) -> int | None:
    """How long the body will be, None where the sender does not say. Raises TooLargeError beyond `limit`."""
    value = headers.get("content-length")
    if value is None:
        return None
    if not (value.isascii() and value.isdecimal()):
        raise BadRequestError(f"content-length is {shown(value)}, wanted a whole number")
    if len(value) > _MOST_DIGITS or int(value) > limit:
        raise too_large(limit)
    return int(value)


def too_large(limit: int) -> TooLargeError:
    """What to say of a body beyond the limit."""
    return TooLargeError(f"the request's body is larger than the {limit} bytes that this server takes")


def _nothing(size: int) -> None:
    """Takes no account."""


async def read_body(
    receive: Receive,
    length: int | None,
    *,
    limit: int,
    timeout_s: float,
    aligned_at: int = 0,
    grow: Callable[[int], None] = _nothing,
) -> memoryview:
    """The body, of `length` bytes where that is known; byte `aligned_at` of it lies where any number may.

    `grow` is told of each piece before it is kept; what it raises ends the reading.

    Raises TooLargeError beyond `limit`, SlowError where it is not there after `timeout_s`, LeftError where its sender
    left.
    """
    try:
        async with asyncio.timeout(timeout_s):
            if length is None:
                return await _read_unknown(receive, limit, grow)
            return await _read_known(receive, length, aligned_at, grow)
    except TimeoutError:
        raise SlowError(f"the request's body was not there within {timeout_s:g} s") from None


async def unless_left(work: Coroutine[Any, Any, T], receive: Receive) -> T:
    """The outcome of `work`, which is cancelled once the sender leaves. Raises LeftError then."""
    task, left = asyncio.ensure_future(work), asyncio.ensure_future(_wait_for_disconnect(receive))
    try:
        await asyncio.wait({task, left}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise LeftError("the sender left before the answer was there")
        return task.result()
    finally:
        left.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait({task})


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _read_known(receive: Receive, length: int, aligned_at: int, grow: Callable[[int], None]) -> memoryview:
    buffer = np.empty(length + ALIGNMENT, np.uint8)
    start = -(buffer.ctypes.data + aligned_at) % ALIGNMENT
    body = buffer.data[start : start + length]
    end = 0
    async for chunk in _chunks(receive):  # the system gives a buffer its memory as it is written to
        grow(len(chunk))
        body[end : end + len(chunk)] = chunk
        end += len(chunk)
    return body[:end]


async def _read_unknown(receive: Receive, limit: int, grow: Callable[[int], None]) -> memoryview:
    body = bytearray()
    async for chunk in _chunks(receive):
        if len(body) + len(chunk) > limit:
            raise too_large(limit)
        grow(len(chunk))
        body += chunk
    return memoryview(body)


async def _chunks(receive: Receive) -> Any:
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise LeftError("the sender left before its request was there")
        yield message.get("body", b"")
        more = message.get("more_body", False)
