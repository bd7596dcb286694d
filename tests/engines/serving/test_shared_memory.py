"""Tensors in shared memory: objects that a test holds, cuts and takes away; and what every server of them passes."""

import asyncio
import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shared_memory_checks import *  # noqa: F403 - the tests that bundle-serve passes

from plainconv.engines.serving import shared_memory as module
from plainconv.engines.serving.refusals import BadRequestError, TakenError, TooLargeError, TooManyError, UnknownError
from plainconv.engines.serving.requests import InferRequest, InferResponse, Place, SharedInput
from plainconv.engines.serving.shared_memory import FOLDER, Regions

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"needs {FOLDER}")
X = np.arange(8, dtype=np.float32).reshape(2, 4)
MIB = 2**20


@pytest.fixture
def regions() -> Iterator[Regions]:
    with contextlib.closing(Regions()) as made:
        yield made


def request(offset: Any = 0, size: Any = 32, region: Any = "r", datatype: str = "FP32") -> InferRequest:
    return InferRequest({}, shared={"x": SharedInput(datatype, [2, 4], Place(region, offset, size))})


def filled(regions: Regions, asked: InferRequest, most: int = MIB) -> Any:
    regions.size_of(asked, most)
    return asyncio.run(regions.filled(asked)).inputs["x"]


def emptied(regions: Regions, array: Any, offset: int = 0, size: int = 32) -> InferResponse:
    response = InferResponse("m", "1", "", {"y": array}, places={"y": Place("r", offset, size)})
    return asyncio.run(regions.emptied(response))


def test_there_and_back(regions: Regions, objects: Any) -> None:
    """Given a region within an object -> its bytes as an array, an array in it, and the rest as it was."""
    key = objects(b"a" * 8 + X.tobytes() + b"z" * 8)
    regions.register("r", f"/{key}", 4, 40)
    assert regions.status() == [{"name": "r", "key": f"/{key}", "offset": 4, "byte_size": 40}] == regions.status("r")
    found = filled(regions, request(4))
    assert found.tolist() == X.tolist()
    assert emptied(regions, -X[:1], 8).places == {"y": Place("r", 8, 16)}
    assert found.tolist() == X.tolist()
    data = (FOLDER / key).read_bytes()
    assert data == b"a" * 8 + X.tobytes()[:4] + (-X[:1]).tobytes() + X.tobytes()[20:] + b"z" * 8
    regions.unregister("r")
    regions.unregister("r")
    assert regions.status() == []


def test_an_object_is_left_when_its_region_goes(regions: Regions, objects: Any) -> None:
    """Given regions that come and go, and some that are refused -> as many open files as before."""
    key, before = objects(bytes(32)), len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        regions.register("r", key, 0, 32)
        with pytest.raises(
            BadRequestError, match=f"asks for bytes 1 to 33 of the shared memory object '{key}', which has 32"
        ):
            regions.register("s", key, 1, 32)
        regions.unregister()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("key", ["../etc/passwd", "a/b", "..", ".", "", "/", "//..", "a\0b", "sem.x", None, 7, ["a"]])
def test_a_key_that_leads_elsewhere(regions: Regions, key: object) -> None:
    with pytest.raises(BadRequestError, match="names no shared memory object; wanted a name without / and"):
        regions.register("r", key, 0, 4)


def test_what_is_no_object(regions: Regions, objects: Any, tmp_path: Path) -> None:
    """Given a link out of there, a folder, a pipe, nothing, a name too long -> one line, and nothing is opened."""
    (tmp_path / "secret").write_bytes(bytes(64))
    key = objects(b"")
    for make in (
        lambda path: path.symlink_to(tmp_path / "secret"),
        lambda path: path.mkdir(),
        os.mkfifo,
        lambda path: None,
    ):
        (FOLDER / key).unlink(missing_ok=True)
        make(FOLDER / key)
        with pytest.raises(BadRequestError, match=r"cannot be opened \(|is no shared memory object$"):
            regions.register("r", key, 0, 4)
        if (FOLDER / key).is_dir() and not (FOLDER / key).is_symlink():
            (FOLDER / key).rmdir()
    for name in ("n" * 255, "\ud800"):
        with pytest.raises(BadRequestError, match="cannot be opened"):
            regions.register("r", name, 0, 4)


@pytest.mark.parametrize(
    ("offset", "size"),
    [(-1, 4), (0, 0), (0, -4), (1.5, 4), (0, True), (0, None), ("0", 4), (0, "4"), (2**63, 4), (0, 2**63)],
)
def test_offsets_and_sizes_that_are_none(regions: Regions, objects: Any, offset: object, size: object) -> None:
    """Given them at registration, then in a request -> one line that names what was sent."""
    key = objects(X.tobytes())
    with pytest.raises(
        BadRequestError, match=r"^region 'r' has (offset|byte_size) .* in shared memory, wanted a whole"
    ):
        regions.register("r", key, offset, size)
    regions.register("r", key, None, 32)
    with pytest.raises(BadRequestError, match=r"^input 'x' has (offset|byte_size) .* in shared memory, wanted a whole"):
        filled(regions, request(offset, size))


@pytest.mark.parametrize(("offset", "size"), [(0, 33), (4, 32), (2**63 - 1, 1), (1, 2**63 - 1)])
def test_beyond_the_region(regions: Regions, objects: Any, offset: int, size: int) -> None:
    """Given a place that the object has and the region does not -> refused, reading and writing."""
    regions.register("r", objects(bytes(64)), 0, 32)
    said = f"asks for bytes {offset} to {offset + size} of region 'r', which has 32"
    with pytest.raises(BadRequestError, match=f"input 'x' {said}"):
        filled(regions, request(offset, size))
    with pytest.raises(BadRequestError, match=f"output 'y' {said}"):
        emptied(regions, X, offset, size)


def test_an_object_that_is_cut(regions: Regions, objects: Any) -> None:
    """Given an object that its client cut after it was registered -> refused, and it is not made longer again."""
    key = objects(X.tobytes())
    regions.register("r", key, 0, 32)
    for left in (31, 0):
        os.truncate(FOLDER / key, left)
        said = f"asks for bytes 0 to 32 of the shared memory object '{key}', which has {left}"
        with pytest.raises(BadRequestError, match=f"input 'x' {said}"):
            filled(regions, request())
        with pytest.raises(BadRequestError, match=f"output 'y' {said}"):
            emptied(regions, X)
        assert (FOLDER / key).stat().st_size == left
    (FOLDER / key).unlink()
    with pytest.raises(BadRequestError, match="which has 0"):
        filled(regions, request())


def test_what_is_too_much(regions: Regions, objects: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given too small a place, too many bytes, a name twice, too many regions, none -> refused, each in one line."""
    key = objects(X.tobytes())
    regions.register("r", key, 0, 32)
    with pytest.raises(BadRequestError, match="output 'y' has 32 bytes, its place in shared memory 31"):
        emptied(regions, X, 0, 31)
    with pytest.raises(TooLargeError, match="the inputs in shared memory have 32 bytes, this server takes up to 31"):
        filled(regions, request(), most=31)
    with pytest.raises(TakenError, match="region 'r' is registered already"):
        regions.register("r", key, 0, 32)
    monkeypatch.setattr(module, "MOST_REGIONS", 1)
    with pytest.raises(TooManyError, match="1 regions are registered already; unregister one"):
        regions.register("s", key, 0, 32)
    for name in ("s", 7, None, ["r"]):
        with pytest.raises(
            UnknownError, match=r"^there is no shared memory region .* for input 'x'; register it first$"
        ):
            filled(regions, request(region=name))
    for name in ("", "n" * 257, None):
        with pytest.raises(BadRequestError, match="wanted 1 to 256 characters"):
            regions.register(name, key, 0, 32)
    with pytest.raises(BadRequestError, match="has 32 bytes of data, wanted 16 for FP16"):
        filled(regions, request(datatype="FP16"))
    with pytest.raises(UnknownError, match="there is no shared memory region 's'; register it first"):
        regions.status("s")


def test_a_large_tensor(regions: Regions, objects: Any) -> None:
    """Given more than is copied on the event loop -> the same; unregistered meanwhile, it is refused or whole."""
    x = np.arange(2 * MIB, dtype=np.float32)
    regions.register("r", objects(x.tobytes()), 0, x.nbytes)
    asked = InferRequest({}, shared={"x": SharedInput("FP32", [x.size], Place("r", 0, x.nbytes))})

    async def both() -> Any:
        reading = asyncio.create_task(regions.filled(asked))
        await asyncio.sleep(0)
        regions.unregister("r")
        return await asyncio.gather(reading, return_exceptions=True)

    np.testing.assert_array_equal(filled(regions, asked, most=x.nbytes), x)
    for _ in range(5):
        [outcome] = asyncio.run(both())
        if isinstance(outcome, Exception):
            assert isinstance(outcome, BadRequestError | UnknownError)
        else:
            np.testing.assert_array_equal(outcome.inputs["x"], x)
        regions.register("r", objects(x.tobytes()), 0, x.nbytes)


def test_nobody_waits_for_a_copy(regions: Regions, objects: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a copy that takes long -> others are made meanwhile, and the region goes; its object then."""
    begun, goes_on, preadv = threading.Event(), threading.Event(), os.preadv
    before = len(os.listdir("/proc/self/fd"))
    regions.register("r", objects(X.tobytes()), 0, 32)

    def held(*arguments: Any) -> int:
        if threading.current_thread() is slow:
            begun.set()
            assert goes_on.wait(60)
        return preadv(*arguments)

    monkeypatch.setattr(os, "preadv", held)
    found: list[Any] = []
    slow = threading.Thread(target=lambda: found.append(filled(regions, request())))
    slow.start()
    assert begun.wait(60)
    assert filled(regions, request()).tolist() == X.tolist()
    regions.unregister("r")
    assert len(os.listdir("/proc/self/fd")) > before and not found
    goes_on.set()
    slow.join(60)
    assert found[0].tolist() == X.tolist() and regions.status() == []
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_region_that_another_takes_the_place_of(
    regions: Regions, objects: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given one registered anew before a copy in a thread begins -> refused, and not a byte of the other is touched."""
    other = objects(b"a" * 64)

    async def later(function: Any, *arguments: Any) -> Any:
        regions.unregister("r")
        regions.register("r", other, 0, 8)
        return function(*arguments)

    monkeypatch.setattr(module, "_LARGE", 0)
    monkeypatch.setattr(asyncio, "to_thread", later)
    for tries, what in ((lambda: filled(regions, request()), "input 'x'"), (lambda: emptied(regions, X), "output 'y'")):
        regions.unregister("r")
        regions.register("r", objects(X.tobytes()), 0, 32)
        with pytest.raises(BadRequestError, match=f"^{what} lies in region 'r', which was unregistered meanwhile$"):
            tries()
    assert (FOLDER / other).read_bytes() == b"a" * 64


@pytest.fixture(scope="module")
def shared(run_server: Any, bundle_of: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A server that offers shared memory, and has no more room than for the largest request."""
    folder = bundle_of(tmp_path_factory.mktemp("models") / "open")
    options = ("--access-log", "none", "--max-body", "1", "--max-pending", "1")
    with run_server(folder, "--shared-memory", *options) as started:
        assert started.http, started.lines
        yield started


def test_a_server_that_does_not_offer_it(server: Any) -> None:
    """Given a server without --shared-memory -> 403, and metadata does not list it."""
    for method, path in (("POST", "region/r/register"), ("POST", "unregister"), ("GET", "status")):
        status, answer = server.ask(method, f"/v2/systemsharedmemory/{path}", "{}" if method == "POST" else None)
        assert (status, answer) == (
            403,
            {"error": "this server does not offer shared memory; start it with --shared-memory"},
        )
    assert "system_shared_memory" not in server.ask("GET", "/v2")[1]["extensions"]
