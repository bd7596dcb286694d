"""Compressed bodies: gzip and deflate (RFC 9110 §8.4.1), as Triton's clients send them and ask for them."""

import re
import zlib
from collections.abc import Mapping, Sequence

from ..refusals import BadRequestError, shown
from .body import too_large

_WINDOW = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
_NOT = re.compile(r" *q *= *0(\.0*)? *")
_LEVEL = 1  # tensors hardly get smaller by a higher one
LEAST = 1024  # smaller answers are sent as they are


def coding_of(headers: Mapping[str, str]) -> str:
    """How the body is compressed, "" where it is not. Raises BadRequestError."""
    value = headers.get("content-encoding", "").strip().lower()
    if value in ("", "identity"):
        return ""
    if value not in _WINDOW:
        raise BadRequestError(f"the body has content-encoding {shown(value)}, wanted gzip, deflate or none")
    return value


def refuse_coding(headers: Mapping[str, str]) -> None:
    """Raise BadRequestError where a body is compressed that is taken as it is alone."""
    if coding_of(headers):
        raise BadRequestError(f"the body has content-encoding {coding_of(headers)}; send it as it is")


def wanted_coding(headers: Mapping[str, str]) -> str:
    """How the sender wants its answer compressed, "" where it does not."""
    for item in headers.get("accept-encoding", "").lower().split(","):
        name, _, weight = item.strip().partition(";")
        if name.strip() in _WINDOW and not _NOT.fullmatch(weight):
            return name.strip()
    return ""


def decompressed(body: memoryview, coding: str, limit: int) -> memoryview:
    """What the body is once decompressed. Raises BadRequestError, and TooLargeError beyond `limit` bytes."""
    if not coding:
        return body
    stream = zlib.decompressobj(_WINDOW[coding])
    try:
        data = stream.decompress(body, limit + 1)
    except zlib.error as error:
        raise BadRequestError(f"the body is not {coding} ({error})") from None
    if len(data) > limit:
        raise too_large(limit)
    if not stream.eof or stream.unused_data:
        raise BadRequestError(
            f"the body is not {coding} (it {'goes on behind' if stream.eof else 'ends before'} its end)"
        )
    return memoryview(data)


def compressed(pieces: Sequence[bytes | memoryview], coding: str) -> list[bytes | memoryview]:
    """The pieces, as one."""
    stream = zlib.compressobj(_LEVEL, zlib.DEFLATED, _WINDOW[coding])
    return [b"".join([*(stream.compress(piece) for piece in pieces), stream.flush()])]
