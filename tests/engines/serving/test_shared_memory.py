"""Tensors in shared memory: objects that a test holds, cuts and takes away, and Triton's clients of both protocols."""

import asyncio
import contextlib
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plainconv.engines.serving import shared_memory as module
from plainconv.engines.serving.refusals import BadRequestError, TakenError, TooLargeError, TooManyError, UnknownError
from plainconv.engines.serving.requests import InferRequest, InferResponse, Place, SharedInput
from plainconv.engines.serving.shared_memory import FOLDER, Regions

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"needs {FOLDER}")
X = np.arange(8, dtype=np.float32).reshape(2, 4)
Y = [[1, 5], [9, 13]]
MIB = 2**20


@pytest.fixture
def objects() -> Iterator[Callable[[bytes], str]]:
    """Makes shared memory objects; they go with the test."""
    made: list[str] = []

    def make(data: bytes) -> str:
        made.append(f"plainconv-{uuid.uuid4().hex}")
        (FOLDER / made[-1]).write_bytes(data)
        return made[-1]

    yield make
    for name in made:
        (FOLDER / name).unlink(missing_ok=True)


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
    ("offset", "size"), [(-1, 4), (0, 0), (0, -4), (1.5, 4), (0, True), (0, None), ("0", 4), (0, "4")]
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


@pytest.mark.parametrize(("offset", "size"), [(0, 33), (4, 32), (2**70, 1), (1, 2**70)])
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
    """A server that offers shared memory."""
    folder = bundle_of(tmp_path_factory.mktemp("models") / "open")
    with run_server(folder, "--shared-memory", "--access-log", "none", "--max-body", "1") as started:
        assert started.http, started.lines
        yield started


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_tritons_clients(shared: Any, protocol: str) -> None:
    """Given Triton's own client and its regions -> registered, listed, computed from one into another, unregistered."""
    triton = pytest.importorskip(f"tritonclient.{protocol}")
    shm = pytest.importorskip("tritonclient.utils.shared_memory")
    key = f"/plainconv-{uuid.uuid4().hex}"
    handle = shm.create_shared_memory_region("data", key, 64)
    try:
        with triton.InferenceServerClient(getattr(shared, protocol)) as client:
            shm.set_shared_memory_region(handle, [X])
            client.register_system_shared_memory("data", key, 64)
            status = client.get_system_shared_memory_status(**({"as_json": True} if protocol == "grpc" else {}))
            rows = list(status["regions"].values()) if protocol == "grpc" else status
            assert [(row["name"], row["key"], int(row["byte_size"])) for row in rows] == [("data", key, 64)]
            x, y = triton.InferInput("x", [2, 4], "FP32"), triton.InferRequestedOutput("y")
            x.set_shared_memory("data", 32)
            result = client.infer("open", [x])
            assert result.as_numpy("y").tolist() == Y
            y.set_shared_memory("data", 16, offset=40)
            result = client.infer("open", [x], outputs=[y])
            assert shm.get_contents_as_numpy(handle, np.float32, [2, 2], offset=40).tolist() == Y
            said = result.get_output("y")
            shape, parameters = (
                (said.shape, said.parameters) if protocol == "grpc" else (said["shape"], said["parameters"])
            )
            assert list(shape) == [2, 2] and "shared_memory_region" in parameters
            client.unregister_system_shared_memory("data")
            with pytest.raises(
                triton.InferenceServerException, match="there is no shared memory region 'data' for input"
            ):
                client.infer("open", [x])
            with pytest.raises(triton.InferenceServerException, match="names no shared memory object"):
                client.register_system_shared_memory("data", "/../etc/passwd", 64)
            client.unregister_system_shared_memory()
    finally:
        shm.destroy_shared_memory_region(handle)


def test_a_client_that_cuts_its_object(shared: Any, objects: Any) -> None:
    """Given an object that shrinks between requests -> 400 in one line, and the server goes on."""
    key = objects(X.tobytes())
    region = "/v2/systemsharedmemory/region/cut%20me"
    assert shared.ask("POST", f"{region}/register", f'{{"key": "{key}", "byte_size": 32}}') == (200, {})
    assert shared.ask("POST", f"{region}/register", f'{{"key": "{key}", "byte_size": 32}}')[0] == 409
    place = '"parameters": {"shared_memory_region": "cut me", "shared_memory_byte_size": 32}'
    body = f'{{"inputs": [{{"name": "x", "datatype": "FP32", "shape": [2, 4], {place}}}]}}'
    status, answer = shared.ask("POST", "/v2/models/open/infer", body)
    assert status == 200 and answer["outputs"][0]["data"] == [1, 5, 9, 13]
    os.truncate(FOLDER / key, 16)
    status, answer = shared.ask("POST", "/v2/models/open/infer", body)
    assert status == 400 and f"object '{key}', which has 16" in answer["error"]
    status, answer = shared.ask("GET", f"{region}/status")
    assert status == 200 and answer == [{"name": "cut me", "key": f"/{key}", "offset": 0, "byte_size": 32}]
    assert shared.ask("POST", "/v2/systemsharedmemory/unregister") == (200, {})
    assert shared.ask("GET", f"{region}/status")[0] == 404
    assert "system_shared_memory" in shared.ask("GET", "/v2")[1]["extensions"]


def test_an_output_that_finds_no_place_is_counted_once(shared: Any, objects: Any) -> None:
    """Given a place that is too small for its output -> 400, counted as failed and not as answered."""
    key = objects(bytes(8))
    shared.ask("POST", "/v2/systemsharedmemory/region/small/register", f'{{"key": "{key}", "byte_size": 8}}')

    def counts() -> tuple[int, int]:
        stats = shared.ask("GET", "/v2/models/open/stats")[1]["model_stats"][0]["inference_stats"]
        return stats["success"]["count"], stats["fail"]["count"]

    answered, failed = counts()
    place = '"parameters": {"shared_memory_region": "small", "shared_memory_byte_size": 8}'
    inputs = f'[{{"name": "x", "datatype": "FP32", "shape": [2, 4], "data": {X.tolist()}}}]'
    body = f'{{"inputs": {inputs}, "outputs": [{{"name": "y", {place}}}]}}'
    status, answer = shared.ask("POST", "/v2/models/open/infer", body)
    assert status == 400 and answer["error"] == "output 'y' has 16 bytes, its place in shared memory 8"
    assert counts() == (answered, failed + 1)


def test_a_server_that_does_not_offer_it(server: Any) -> None:
    """Given a server without --shared-memory -> 403, and metadata does not list it."""
    for method, path in (("POST", "region/r/register"), ("POST", "unregister"), ("GET", "status")):
        status, answer = server.ask(method, f"/v2/systemsharedmemory/{path}", "{}" if method == "POST" else None)
        assert (status, answer) == (
            403,
            {"error": "this server does not offer shared memory; start it with --shared-memory"},
        )
    assert "system_shared_memory" not in server.ask("GET", "/v2")[1]["extensions"]
