"""Compressed bodies."""

import gzip
import zlib

import pytest

from plainconv.engines.serving.refusals import BadRequestError, TooLargeError
from plainconv.engines.serving.rest.coding import coding_of, compressed, decompressed, refuse_coding, wanted_coding

SMALL = gzip.compress(b"ab", mtime=0)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_there_and_back(coding: str) -> None:
    data = bytes(range(256)) * 40
    (packed,) = compressed([data[:5000], memoryview(data)[5000:]], coding)
    assert len(packed) < len(data) and decompressed(memoryview(packed), coding, len(data)) == data
    with pytest.raises(TooLargeError):
        decompressed(memoryview(packed), coding, len(data) - 1)


@pytest.mark.parametrize("data", [b"", b"x", SMALL[:-1], SMALL + b"c", zlib.compress(b"a")])
def test_what_is_none(data: bytes) -> None:
    with pytest.raises(BadRequestError, match="the body is not gzip"):
        decompressed(memoryview(data), "gzip", 100)


def test_one_that_grows_without_end() -> None:
    """Given 64 MiB of zeros in 64 KiB -> no more of it is made than may be."""
    bomb = gzip.compress(bytes(2**26))
    with pytest.raises(TooLargeError):
        decompressed(memoryview(bomb), "gzip", 1000)


def test_headers() -> None:
    assert coding_of({}) == coding_of({"content-encoding": "Identity"}) == ""
    assert coding_of({"content-encoding": " GZIP"}) == "gzip"
    for value in ("br", "gzip, gzip", "x"):
        with pytest.raises(BadRequestError, match="wanted gzip, deflate or none"):
            coding_of({"content-encoding": value})
    with pytest.raises(BadRequestError, match="send it as it is"):
        refuse_coding({"content-encoding": "deflate"})
    wanted = {
        "": "",
        "br": "",
        "gzip": "gzip",
        "br, deflate;q=0.5, gzip": "deflate",
        "gzip;q=0": "",
        "gzip; q=0.000": "",
    }
    assert {value: wanted_coding({"accept-encoding": value}) for value in wanted} == wanted
