"""Tensors in shared memory, against a server in a process of its own that offers it: both servers pass these.

The server is the fixture `shared`: of the bundle `open`, with --shared-memory, up to 1 MiB a body.
"""

import functools
import itertools
import json
import os
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from waiting import until

FOLDER = Path("/dev/shm")
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"needs {FOLDER}")
X = np.arange(8, dtype=np.float32).reshape(2, 4)
Y = [[1, 5], [9, 13]]
ROOT = "/v2/systemsharedmemory"
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


def asked(server: Any, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """The status of an answer and its JSON; `body` is sent as JSON."""
    status, *_, answer = server.ask(method, path, None if body is None else json.dumps(body))
    return status, json.loads(answer) if isinstance(answer, bytes) else answer


def register(server: Any, name: str, key: Any, size: Any, offset: Any = None) -> tuple[int, Any]:
    return asked(
        server, "POST", f"{ROOT}/region/{name}/register", {"key": key, "byte_size": size} | _unless_none(offset=offset)
    )


def place(region: Any, size: Any = 32, offset: Any = None) -> dict[str, Any]:
    """A tensor's parameters."""
    given = {"shared_memory_region": region, "shared_memory_byte_size": size}
    return given | _unless_none(shared_memory_offset=offset)


def infer(server: Any, x: dict[str, Any], y: dict[str, Any] | None = None, **more: Any) -> tuple[int, Any]:
    """Ask for y of x, which has these parameters, over REST."""
    tensor = {"name": "x", "datatype": "FP32", "shape": [2, 4], "parameters": x} | more
    outputs = [] if y is None else [{"name": "y", "parameters": y}]
    return asked(server, "POST", "/v2/models/open/infer", {"inputs": [tensor], "outputs": outputs or None})


def _unless_none(**given: Any) -> dict[str, Any]:
    return {key: value for key, value in given.items() if value is not None}


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
            y.set_shared_memory("data", 15, offset=40)
            with pytest.raises(triton.InferenceServerException, match="has 16 bytes, its place in shared memory 15"):
                client.infer("open", [x], outputs=[y])
            with pytest.raises(triton.InferenceServerException, match="is registered already"):
                client.register_system_shared_memory("data", key, 64)
            client.unregister_system_shared_memory("data")
            with pytest.raises(
                triton.InferenceServerException, match="there is no shared memory region 'data' for input"
            ):
                client.infer("open", [x])
            with pytest.raises(triton.InferenceServerException, match="there is no shared memory region 'data'"):
                client.get_system_shared_memory_status("data")
            with pytest.raises(triton.InferenceServerException, match="names no shared memory object"):
                client.register_system_shared_memory("data", "/../etc/passwd", 64)
            client.unregister_system_shared_memory()
    finally:
        shm.destroy_shared_memory_region(handle)


def test_there_and_back_by_a_server(shared: Any, objects: Any) -> None:
    """Given a region within an object -> its bytes, an output in it, and the rest as it was; JSON says where."""
    key = objects(b"a" * 8 + X.tobytes() + b"z" * 8)
    assert register(shared, "part", f"//{key}", 40, 4) == (200, {})
    row = {"name": "part", "key": f"/{key}", "offset": 4, "byte_size": 40}
    assert asked(shared, "GET", f"{ROOT}/region/part/status") == (200, [row])
    status, answer = infer(shared, place("part", 32, 4), place("part", 20, 20))
    assert status == 200 and answer["outputs"] == [
        {"name": "y", "datatype": "FP32", "shape": [2, 2], "parameters": place("part", 16, 20)}
    ]
    written = b"a" * 8 + X.tobytes()[:16] + np.array(Y, np.float32).tobytes() + b"z" * 8
    assert (FOLDER / key).read_bytes() == written
    status, answer = infer(shared, {}, place("part", 16), data=X.tolist())
    assert status == 200 and answer["outputs"][0]["parameters"] == place("part", 16)
    assert (FOLDER / key).read_bytes()[4:20] == np.array(Y, np.float32).tobytes()
    assert asked(shared, "POST", f"{ROOT}/region/part/unregister") == (200, {})
    assert asked(shared, "POST", f"{ROOT}/region/part/unregister", {}) == (200, {})
    assert asked(shared, "GET", f"{ROOT}/region/part/status")[0] == 404
    assert "system_shared_memory" in asked(shared, "GET", "/v2")[1]["extensions"]


def test_what_is_refused(shared: Any, objects: Any) -> None:
    """Given names, sizes and places that lead elsewhere -> each its status and one sentence; the next is answered."""
    key, link, problems = objects(X.tobytes() + bytes(32)), objects(b""), []
    (FOLDER / link).unlink()
    (FOLDER / link).symlink_to(Path(__file__))
    assert register(shared, "half", key, 32)[0] == 200
    number = "wanted a whole number from"
    cases: list[tuple[tuple[int, Any], int, str]] = [
        *(
            (register(shared, "r", bad, 4), 400, "names no shared memory object")
            for bad in ("../etc/passwd", "a/b", "..", ".", "", "/", "sem.x", "a\0b", None, 7, ["a"])
        ),
        (register(shared, "r", "n" * 255, 4), 400, "cannot be opened (No such file"),
        (register(shared, "r", link, 4), 400, "cannot be opened (Too many levels"),
        (register(shared, "n" * 257, key, 4), 400, "wanted 1 to 256 characters"),
        (register(shared, "half", key, 32), 409, "region 'half' is registered already"),
        (register(shared, "r", key, 65), 400, f"bytes 0 to 65 of the shared memory object '{key}', which has 64"),
        (register(shared, "r", key, 1, 2**63 - 1), 400, "asks for bytes 9223372036854775807 to 9223372036854775808 of"),
        *((register(shared, "r", key, bad), 400, f"region 'r' has byte_size {bad!r} in shared memory, {number} 1")
          for bad in (0, -4, None, "4", 2**63)),
        *((register(shared, "r", key, 4, bad), 400, f"region 'r' has offset {bad!r} in shared memory, {number} 0")
          for bad in (-1, 1.5, "0", 2**63)),
        (infer(shared, place("half", 33)), 400, "'x' asks for bytes 0 to 33 of region 'half', which has 32"),
        (infer(shared, place("half", 32, 1)), 400, "'x' asks for bytes 1 to 33 of region 'half', which has 32"),
        (infer(shared, place("half", 2**63 - 1, 2**63 - 1)), 400, "to 18446744073709551614 of region 'half'"),
        (infer(shared, place("half", 31)), 400, "input 'x' has 31 bytes of data, wanted 32 for FP32"),
        (infer(shared, place("half", 0)), 400, f"input 'x' has byte_size 0 in shared memory, {number} 1"),
        (infer(shared, place("half", 32, -1)), 400, f"input 'x' has offset -1 in shared memory, {number} 0"),
        (infer(shared, place("none")), 404, "there is no shared memory region 'none' for input 'x'; register it"),
        (infer(shared, place(7)), 404, "there is no shared memory region 7 for input 'x'; register it first"),
        (infer(shared, place("half"), data=[1] * 8), 400, "'x' has a region of shared memory and data as well"),
        (infer(shared, place("half"), datatype="BYTES"), 400, "has datatype 'BYTES'"),
        (infer(shared, place("half"), place("none")), 404, "there is no shared memory region 'none' for output 'y'"),
        (infer(shared, place("half"), place("half", 8)), 400, "'y' has 16 bytes, its place in shared memory 8"),
        (infer(shared, place("half"), place("half", 16, 17)), 400, "'y' asks for bytes 17 to 33 of region 'half'"),
    ]  # fmt: skip
    for (status, answer), wanted, said in cases:
        if status != wanted or list(answer) != ["error"] or said not in answer["error"] or "\n" in answer["error"]:
            problems.append(f"{status} {answer}, wanted {wanted} {said}")
    assert not problems, "\n".join(problems)
    assert infer(shared, place("half"))[1]["outputs"][0]["data"] == [1, 5, 9, 13]
    assert asked(shared, "POST", f"{ROOT}/unregister") == (200, {})


def test_a_client_that_cuts_its_object(shared: Any, objects: Any) -> None:
    """Given an object that shrinks between requests -> 400 in one line, it stays as it is, and the server goes on."""
    key = objects(X.tobytes())
    assert register(shared, "cut%20me", key, 32) == (200, {})
    status, answer = infer(shared, place("cut me"))
    assert status == 200 and answer["outputs"][0]["data"] == [1, 5, 9, 13]
    for left in (16, 0):
        os.truncate(FOLDER / key, left)
        for status, answer in (infer(shared, place("cut me")), infer(shared, {}, place("cut me"), data=X.tolist())):
            assert status == 400 and f"asks for bytes 0 to 32 of the shared memory object '{key}'" in answer["error"]
            assert answer["error"].endswith(f", which has {left}")
        assert (FOLDER / key).stat().st_size == left
    row = {"name": "cut me", "key": f"/{key}", "offset": 0, "byte_size": 32}
    assert asked(shared, "GET", f"{ROOT}/region/cut%20me/status") == (200, [row])
    assert asked(shared, "POST", f"{ROOT}/unregister") == (200, {})


def test_an_object_that_is_cut_grown_and_replaced_while_it_is_used(shared: Any, objects: Any) -> None:
    """Given its owner, who does all of that meanwhile -> answers and refusals, and the server goes on."""
    size, end, seen = 512, threading.Event(), set()
    key = objects(bytes(size))
    file = FOLDER / key

    def change() -> None:
        for turn in itertools.cycle(range(5)):
            if end.is_set():
                return
            if turn < 3:
                os.truncate(file, (size // 2, 2 * size, 0)[turn])
            elif turn == 3:
                file.unlink()
            else:
                file.write_bytes(bytes(size))

    owner = threading.Thread(target=change)
    owner.start()
    for _ in range(150):
        seen.add(register(shared, "used", key, size)[0])
        seen.add(infer(shared, place("used", size), place("used", size // 2), shape=[size // 16, 4])[0])
        seen.add(asked(shared, "POST", f"{ROOT}/unregister")[0])
    end.set()
    owner.join()
    assert seen <= {200, 400, 404}
    file.write_bytes(X.tobytes())
    assert register(shared, "used", key, 32) == (200, {}) and infer(shared, place("used"))[0] == 200
    assert asked(shared, "POST", f"{ROOT}/unregister") == (200, {})


def test_an_output_that_finds_no_place_is_counted_once(shared: Any, objects: Any) -> None:
    """Given a place that is too small for its output -> 400, counted as failed and not as answered."""
    register(shared, "small", objects(bytes(8)), 8)

    def counts() -> tuple[int, int]:
        stats = asked(shared, "GET", "/v2/models/open/stats")[1]["model_stats"][0]["inference_stats"]
        return stats["success"]["count"], stats["fail"]["count"]

    answered, failed = counts()
    status, answer = infer(shared, {}, place("small", 8), data=X.tolist())
    assert status == 400 and answer["error"] == "output 'y' has 16 bytes, its place in shared memory 8"
    assert counts() == (answered, failed + 1)


def test_more_than_a_server_takes(shared: Any, objects: Any) -> None:
    """Given more bytes than a body may have, and more regions than there may be -> 413, 429, and it goes on."""
    key = objects(bytes(2 * MIB))
    asked(shared, "POST", f"{ROOT}/unregister")
    register(shared, "large", key, 2 * MIB)
    status, answer = infer(shared, place("large", MIB + 16), shape=[MIB // 16 + 1, 4])
    said = f"the inputs in shared memory have {MIB + 16} bytes, this server takes up to {MIB}"
    assert (status, answer["error"]) == (413, said)
    # a request may hold its room for a moment behind its answer
    found: list[tuple[int, Any]] = []
    ask = functools.partial(infer, shared, place("large", MIB), shape=[MIB // 16, 4])
    assert until(lambda: found.append(ask()) or found[-1][0] != 429)
    status, answer = found[-1]
    assert status == 400 and "this server takes up to" in answer["error"]  # rows
    assert until(lambda: register(shared, "r0", key, 4)[0] == 200)
    statuses = [register(shared, f"r{i}", key, 4)[0] for i in range(1, 257)]
    assert statuses == [200] * 254 + [429] * 2 and len(asked(shared, "GET", f"{ROOT}/status")[1]) == 256
    assert asked(shared, "POST", f"{ROOT}/unregister") == (200, {})
    assert asked(shared, "GET", f"{ROOT}/status") == (200, [])


def test_regions_that_come_and_go(shared: Any, objects: Any) -> None:
    """Given requests while their region is registered, unregistered and another's -> whole answers, or refusals."""
    keys = [objects((X + shift).tobytes() + bytes(16)) for shift in (0, 100)]
    wanted = [[1, 5, 9, 13], [201, 205, 209, 213]]
    end = threading.Event()
    wrong: list[Any] = []
    right: list[Any] = []

    def ask() -> None:
        while not end.is_set():
            status, answer = infer(shared, place("swap", 32))
            if status == 200 and answer["outputs"][0]["data"] in wanted:
                right.append(answer)
            elif status not in (400, 404) or "region 'swap'" not in answer["error"]:
                wrong.append((status, answer))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    turn = 0
    while turn < 50 or (not right and not wrong and turn < 5000):
        if register(shared, "swap", keys[turn % 2], 48)[0] != 200:
            wrong.append(("register", turn))
        asked(shared, "POST", f"{ROOT}/region/swap/unregister")
        turn += 1
    end.set()
    for thread in threads:
        thread.join(60)
    assert not wrong and right
