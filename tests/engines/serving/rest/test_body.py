"""Reading a request's body, from messages that a test sends."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest

from plainconv.engines.serving.refusals import (
    BadRequestError,
    LeftError,
    SlowError,
    TooLargeError,
    TooManyError,
)
from plainconv.engines.serving.rest.body import (
    ALIGNMENT,
    content_length,
    headers_of,
    read_body,
    unless_left,
)

LONG_S = 60.0
GONE = {"type": "http.disconnect"}


def piece(body: bytes, more: bool = True) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


def sender(*messages: dict[str, Any]) -> Callable[[], Awaitable[dict[str, Any]]]:
    """Gives these messages, one after the other, then none for ever."""
    left = list(messages)

    async def receive() -> dict[str, Any]:
        if not left:
            await asyncio.Event().wait()
        return left.pop(0)

    return receive


def read(*messages: dict[str, Any], length: int | None = None, **options: Any) -> memoryview:
    settings = {"limit": 100, "timeout_s": LONG_S} | options
    return asyncio.run(read_body(sender(*messages), length, **settings))


def test_a_body_in_pieces() -> None:
    """Given a body in pieces, its length known or not -> one buffer."""
    pieces = (piece(b"ab"), piece(b""), piece(b"cde", more=False))
    assert read(*pieces) == read(*pieces, length=5) == b"abcde"
    assert read({"type": "http.request"}) == b""


@pytest.mark.parametrize("aligned_at", [0, 1, 3, 63, 64, 100])
def test_where_it_lies(aligned_at: int) -> None:
    """Given the length of the JSON before the tensors -> these begin where any number may."""
    body = read(piece(b"x" * 200, more=False), length=200, limit=1000, aligned_at=aligned_at)
    assert np.frombuffer(body, np.uint8)[aligned_at:].ctypes.data % ALIGNMENT == 0


def test_too_large() -> None:
    """Given more than the limit, of a length that was not said -> refused before it is kept."""
    with pytest.raises(TooLargeError, match="larger than the 100 bytes"):
        read(piece(b"x" * 60), piece(b"x" * 41))
    assert len(read(piece(b"x" * 60), piece(b"x" * 40, more=False))) == 100


def test_each_piece_is_accounted_for() -> None:
    """Given an account that is full -> what it raises, before the piece is kept."""
    told: list[int] = []

    def grow(size: int) -> None:
        told.append(size)
        if sum(told) > 5:
            raise TooManyError("full")

    with pytest.raises(TooManyError, match="full"):
        read(piece(b"abc"), piece(b"def"), grow=grow)
    assert told == [3, 3]


@pytest.mark.parametrize("length", [None, 10])
def test_one_that_does_not_end(length: int | None) -> None:
    with pytest.raises(SlowError, match=r"the request's body was not there within 0\.01 s"):
        read(piece(b"ab"), length=length, timeout_s=0.01)
    with pytest.raises(LeftError):
        read(piece(b"ab"), GONE, length=length)


@pytest.mark.parametrize("value", ["-1", "+1", "1.0", "", "1 ", "٣", "0x1"])
def test_a_length_that_is_none(value: str) -> None:
    with pytest.raises(BadRequestError, match=r"content-length is .*, wanted a whole number"):
        content_length({"content-length": value}, 10)


def test_a_length() -> None:
    """Given the headers -> the length, None where it is not said; beyond the limit it is refused at once."""
    assert content_length({}, 10) is None and content_length({"content-length": "10"}, 10) == 10
    for value in ("11", "9" * 30):
        with pytest.raises(TooLargeError, match="larger than the 10 bytes"):
            content_length({"content-length": value}, 10)


def test_headers() -> None:
    assert headers_of({"headers": [(b"a", b"1"), (b"b", b"\xe9"), (b"a", b"2")]}) == {"a": "2", "b": "é"}


def test_a_sender_who_stays() -> None:
    """Given work that ends, or raises -> its outcome."""

    async def works() -> int:
        return 7

    async def fails() -> int:
        raise BadRequestError("no")

    assert asyncio.run(unless_left(works(), sender())) == 7
    with pytest.raises(BadRequestError, match="no"):
        asyncio.run(unless_left(fails(), sender(piece(b""))))


def test_a_sender_who_leaves() -> None:
    """Given work that goes on when its sender leaves -> it is cancelled, and has ended."""
    ended = []

    async def works() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    with pytest.raises(LeftError, match="the sender left"):
        asyncio.run(unless_left(works(), sender(piece(b""), GONE)))
    assert ended == [True]
