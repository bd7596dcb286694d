"""`bundle-serve` answers the list that every server of a bundle answers, and gives the bits of Python's runner."""

import contextlib
import json
import os
import re
import select
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import threading
import time
import zlib
from http.client import HTTPResponse, HTTPSConnection

import image_bundles
import image_cases
import numpy as np
import pytest
import serving_cases
from certificates import write_certificate
from cpp_server import LONG_S, read, running
from places import ASSETS
from waiting import until

from plainconv import engines
from plainconv.engines.onnxruntime.runner import OnnxRuntimeRunner
from plainconv.engines.onnxruntime.split import OnnxRuntimeSplitRunner
from plainconv.engines.predict.predictor import predictor_of
from plainconv.exporter.bundle import Bundle, update_bundle

SIZES = b"IHDR" + struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
BOMB = b"\x89PNG\r\n\x1a\n\0\0\0\x0d" + SIZES + struct.pack(">I", zlib.crc32(SIZES)) + b"\0\0\0\1IDAT\0"
"""The beginning of a PNG of that size."""


@pytest.fixture(scope="module")
def cases():
    """The helper of that name."""
    return serving_cases


@pytest.fixture(scope="module")
def bundle(cases, tmp_path_factory):
    return cases.write_tiny(tmp_path_factory.mktemp("tiny") / "bundle")


@pytest.fixture(scope="module")
def tiny(program, bundle, cases):
    """A server of the list's model, as the list wants it."""
    options = [word for key, value in cases.OPTIONS.items() for word in (f"--{key}", value)]
    with running(program, bundle, *options, "--access-log", "none") as server:
        assert server.port, server.lines
        yield server


def answer_to(server, case, cases):
    """The status, headers and body of the answer to a case; 0 where there is none."""
    body, headers = cases.message_of(case)
    if "raw" not in case:
        return server.ask(case["method"], case["path"], body if "body" in case else None, headers)
    with socket.create_connection(("127.0.0.1", server.port), timeout=LONG_S) as connection:
        with contextlib.suppress(OSError):  # closed before all of it was sent
            connection.sendall(body)
            if 200 not in case["status"]:
                connection.shutdown(socket.SHUT_WR)
        response = HTTPResponse(connection)
        try:
            response.begin()
            return read(response)
        except ConnectionError:  # that there is no answer at all is one of them
            return 0, {}, b""


def test_the_shared_list(tiny, cases):
    """Given each request of the list -> its answer, and after each a good one is answered."""
    problems = []
    good = cases.CASES[0]
    for case in cases.CASES:
        said = cases.wrong(case, *answer_to(tiny, case, cases)) or cases.wrong(good, *answer_to(tiny, good, cases))
        problems += [f"{case['name']}: {said}"] if said else []
    assert not problems, "\n".join(problems)


def test_as_much_json_as_may_be(program, bundle, cases):
    """Given the cases for a server that takes more -> their answers."""
    options = [word for key, value in cases.LARGE_OPTIONS.items() for word in (f"--{key}", value)]
    with running(program, bundle, *options, "--access-log", "none") as server:
        said = [cases.wrong(case, *answer_to(server, case, cases)) for case in cases.LARGE]
    assert len(said) > 1 and not any(said), said


def test_many_requests_on_one_connection(tiny, cases):
    """Given cases one after the other on a connection -> each its answer, where the server keeps it open."""
    with contextlib.closing(tiny.connect()) as connection:
        for case in cases.CASES:
            headers = case.get("headers", {}).keys()
            if "raw" not in case and not headers & {"Expect", "Content-Encoding"} and case["status"] != 413:
                body, headers = cases.message_of(case)
                connection.request(case["method"], case["path"], body if "body" in case else None, headers)
                assert not cases.wrong(case, *read(connection.getresponse())), case["name"]


def test_requests_that_arrive_in_pieces_and_together(tiny, cases):
    """Given bytes one by one, and two requests in one packet -> an answer to each."""
    body, _ = cases.message_of(cases.CASES[0])
    head = f"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
    request = head.encode() + b"\r\n" + body
    last = head.encode() + b"Connection: close\r\n\r\n" + body
    for pieces in ([request + last], [bytes([byte]) for byte in request[:300]] + [request[300:] + last]):
        with socket.create_connection(("127.0.0.1", tiny.port), timeout=LONG_S) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for piece in pieces:
                connection.sendall(piece)
            received = b""
            while chunk := connection.recv(65536):
                received += chunk
        assert received.count(b"HTTP/1.1 200 OK") == 2 and received.count(b'"sum"') == 2


def test_what_headers_tell(tiny):
    """Given any answer -> no header that names a program or its version; HEAD has no body, and another method none."""
    for path, status in (("/v2/health/live", 200), ("/nothing", 404)):
        found, headers, _ = tiny.ask("GET", path)
        assert found == status and not {"server", "exception_what", "keep-alive"} & headers.keys()
    with contextlib.closing(tiny.connect()) as connection:
        for method, status in (("HEAD", 200), ("GET", 200), ("OPTIONS", 405)):
            connection.request(method, "/v2")
            found, headers, body = read(connection.getresponse())
            assert found == status and (not body) == (method == "HEAD") and int(headers["content-length"]) > 0
    assert headers["allow"] == "GET, HEAD"
    found, headers, body = tiny.ask("GET", "/v2", headers={"Range": "bytes=0-3", "Accept-Encoding": "gzip, br"})
    assert found == 200 and json.loads(body)["name"] == "plainconv" and "content-encoding" not in headers


def test_tritons_client(tiny):
    """Given Triton's client -> binary and JSON, metadata, health and its exceptions."""
    from tritonclient import http

    x, k = np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2), np.array([[1, 2], [3, 4]], np.int64)
    with http.InferenceServerClient(f"127.0.0.1:{tiny.port}", network_timeout=LONG_S) as client:
        assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("tiny")
        assert client.get_model_metadata("tiny")["inputs"][0]["shape"] == [-1, 3, 2, 2]
        for binary in (True, False):
            inputs = [http.InferInput("x", x.shape, "FP32"), http.InferInput("k", k.shape, "INT64")]
            for tensor, array in zip(inputs, (x, k), strict=True):
                tensor.set_data_from_numpy(array, binary_data=binary)
            outputs = [http.InferRequestedOutput(name, binary_data=binary) for name in ("twice", "sum")]
            result = client.infer("tiny", inputs, outputs=outputs, request_id="r7")
            assert result.get_response()["id"] == "r7"
            assert np.array_equal(result.as_numpy("sum"), x.sum((2, 3)))
            assert np.array_equal(result.as_numpy("twice"), 2 * k)
        with pytest.raises(http.InferenceServerException, match="there is no model 'none'"):
            client.infer("none", inputs)


def request_of(images):
    """The body and headers of a request with a binary input, for a binary output."""
    tensor = {
        "name": "input",
        "datatype": "FP32",
        "shape": images.shape,
        "parameters": {"binary_data_size": images.nbytes},
    }
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return head + images.tobytes(), {"Inference-Header-Content-Length": str(len(head))}


def logits_of(headers, body):
    length = int(headers["inference-header-content-length"])
    (output,) = json.loads(body[:length])["outputs"]
    return np.frombuffer(body[length:], np.float32).reshape(output["shape"])


@pytest.fixture(scope="module")
def images():
    with np.load(ASSETS / "digits_heldout.npz") as data:
        return data["images"]


@pytest.fixture(scope="module")
def wanted(digits, images):
    """The logits of each image alone, by Python's runner."""
    with OnnxRuntimeRunner(Bundle.open(digits / "whole").onnx, providers="cpu", threads=1) as runner:
        return np.concatenate([runner({"input": images[i : i + 1]})["logits"] for i in range(64)])


@contextlib.contextmanager
def runner_of(bundle, in_parts):
    """Python's runner of the network, whole or in the parts of its split."""
    if not in_parts:
        with OnnxRuntimeRunner(bundle.onnx, providers="cpu", threads=1) as runner:
            yield runner
        return
    (split,) = bundle.splits
    files = {part.name: bundle.file(part.file) for part in split.parts}
    with OnnxRuntimeSplitRunner(split, files, bundle.inputs, bundle.outputs, threads=1) as runner:
        yield runner


@pytest.mark.parametrize(("name", "in_parts"), [("whole", False), ("split", False), ("split", True)])
def test_the_bits_of_python(program, digits, images, name, in_parts):
    """Given the digits networks, whole and in parts -> what Python's runner computes, bit for bit."""
    bundle = Bundle.open(digits / name)
    options = ("--devices", ",".join(["0"] * bundle.splits[0].devices)) if in_parts else ()
    with running(program, digits / name, "--name", "d", "--max-delay-us", 0, *options) as server:
        assert server.port, server.lines
        status, headers, body = server.ask("POST", "/v2/models/d/infer", *request_of(images[:1]))
    with runner_of(bundle, in_parts) as runner:
        wanted = runner({"input": images[:1]})["logits"]
    assert status == 200 and logits_of(headers, body).tobytes() == wanted.tobytes()


def test_32_clients_share_runs(program, digits, images, wanted):
    """Given 32 clients at once -> each gets what belongs to its image, runs are shared, idle ones starve none."""
    wrong = []
    with running(
        program, digits / "whole", "--name", "d", "--eager-kernels", "--max-batch", 8, "--max-delay-us", 50_000
    ) as server:
        idle = [socket.create_connection(("127.0.0.1", server.port), timeout=LONG_S) for _ in range(64)]

        def client(own):
            with contextlib.closing(server.connect()) as connection:
                for i in range(20):
                    index = (own * 7 + i) % 64
                    connection.request("POST", "/v2/models/d/infer", *request_of(images[index : index + 1]))
                    status, headers, body = read(connection.getresponse())
                    # a run of several rows is rounded in another order
                    if status != 200 or not np.allclose(logits_of(headers, body), wanted[index], atol=1e-3):
                        wrong.append((own, i, status))

        threads = [threading.Thread(target=client, args=(own,)) for own in range(32)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        metrics = server.ask("GET", "/metrics")[2].decode()
        for connection in idle:
            connection.close()
    assert not wrong
    rows, runs = (int(re.search(rf"\nnv_inference_{what}{{.*}} (\d+)", metrics)[1]) for what in ("count", "exec_count"))
    assert rows == 640 and runs < 640


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_under_load(program, digits, images, wanted, number):
    """Given SIGTERM while clients send -> all that was accepted is answered rightly, exit code 0."""
    outcomes, ready = [], threading.Barrier(9)
    with running(program, digits / "whole", "--name", "d", "--access-log", "none") as server:

        def client(own):
            connection = server.connect()
            connection.connect()
            ready.wait(LONG_S)
            with contextlib.closing(connection):
                while True:
                    try:
                        connection.request("POST", "/v2/models/d/infer", *request_of(images[own : own + 1]))
                    except OSError:
                        return  # nothing was accepted
                    try:
                        status, headers, body = read(connection.getresponse())
                    except OSError as error:
                        outcomes.append(repr(error))
                        return
                    right = status == 200 and np.allclose(logits_of(headers, body), wanted[own], atol=1e-3)
                    outcomes.append("right" if right else status)
                    if headers.get("connection") == "close":
                        return

        threads = [threading.Thread(target=client, args=(own,)) for own in range(8)]
        for thread in threads:
            thread.start()
        ready.wait(LONG_S)
        while len(outcomes) < 50:
            time.sleep(0.001)
        code, lines = server.stop(number)
        for thread in threads:
            thread.join(LONG_S)
    assert code == 0 and set(outcomes) == {"right"}, (code, lines, set(outcomes))


def test_the_token(program, bundle, tmp_path):
    """Given a token -> nothing without it but the health."""
    token = tmp_path / "token"
    token.write_text("0123456789%41abcdef\n")
    with running(program, bundle, "--token-file", token) as server:
        assert server.ask("GET", "/v2/health/live")[0] == 200
        for headers in (
            {},
            {"Authorization": "Bearer 0123456789Aabcdef"},
            {"Authorization": "Basic 0123456789%41abcdef"},
        ):
            status, found, body = server.ask("GET", "/v2/models", headers=headers)
            assert status == 401 and found["www-authenticate"] == "Bearer" and b"the bearer token is missing" in body
        assert server.ask("GET", "/v2/models", headers={"Authorization": "Bearer 0123456789%41abcdef"})[0] == 200
        code, lines = server.stop()
    assert code == 0 and not any("0123456789" in line for line in lines)


def held_by(server):
    """A connection that has its thread, once there is one for it."""
    while True:
        connection = socket.create_connection(("127.0.0.1", server.port), timeout=LONG_S)
        connection.sendall(b"GET /v2 HTTP/1.1\r\nhost: x\r\n\r\n")
        if connection.recv(65536).startswith(b"HTTP/1.1 200"):
            return connection
        connection.close()
        time.sleep(0.01)


def test_limits(program, bundle):
    """Given bodies that do not arrive and more connections than there may be -> 408 and 503, and it goes on."""
    with running(program, bundle, "--name", "tiny", "--timeout", "0.5", "--max-connections", 2) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=LONG_S) as one:
            one.sendall(b"POST /v2/models/tiny/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{")
            response = HTTPResponse(one)
            response.begin()
            status, _, body = read(response)
            assert status == 408 and b"the request's body was not there within 0.5 s" in body
        held = [held_by(server) for _ in range(2)]
        status, headers, body = server.ask("GET", "/v2")
        assert (status, headers["retry-after"]) == (503, "1") and b"as many connections as it takes" in body
        for connection in held:
            connection.close()
        held_by(server).close()
        assert server.stop()[0] == 0


def test_the_access_log(program, bundle, cases, tmp_path):
    """Given requests -> a line of JSON for each."""
    log = tmp_path / "log"
    with running(program, bundle, "--name", "tiny", "--access-log", log) as server:
        answer_to(server, cases.CASES[0], cases)
        server.ask("GET", "/nothing%0a")
        assert server.stop()[0] == 0
    first, second = sorted(map(json.loads, log.read_text().splitlines()), key=lambda line: line["status"])
    assert (first["status"], first["model"], first["rows"], first["path"]) == (200, "tiny", 1, "/v2/models/tiny/infer")
    assert first["ms"] >= first["compute_ms"] >= 0 and first["batch_rows"] == 1 and first["bytes_in"] > 0
    assert (second["status"], second["path"], second["client"]) == (404, "/nothing\n", "127.0.0.1")


def test_traces_in_the_access_log(program, bundle, tmp_path):
    """Given the headers of a sender's trace -> they are in the line of its request."""
    log, parent = tmp_path / "log", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    with running(program, bundle, "--access-log", log) as server:
        server.ask("GET", "/v2", headers={"Traceparent": parent, "tracestate": "a=b"})
        server.ask("GET", "/v2", headers={"traceparent": parent.upper()})
        assert server.stop()[0] == 0
    # each connection has a thread of its own, and the line is written behind the answer
    second, first = sorted(map(json.loads, log.read_text().splitlines()), key=lambda line: "trace_id" in line)
    assert (first["trace_id"], first["span_id"], first["tracestate"]) == (*parent.split("-")[1:3], "a=b")
    assert "trace_id" not in second


def test_tls_and_a_new_certificate(program, bundle, tmp_path):
    """Given a certificate behind a link -> TLS with it; replaced by a bad pair, then a good one -> the old, the new."""
    certificate, key = write_certificate(tmp_path)
    links = [tmp_path / "tls.crt", tmp_path / "tls.key"]
    for link, file in zip(links, (certificate, key), strict=True):
        link.symlink_to(file)
    words = ("--tls-cert", links[0], "--tls-key", links[1], "--max-connections", 8)

    def seen(port, trusted):
        context = ssl.create_default_context(cadata=trusted)
        with contextlib.closing(HTTPSConnection("127.0.0.1", port, timeout=LONG_S, context=context)) as connection:
            connection.request("GET", "/v2/health/ready")
            return read(connection.getresponse())[0]

    with running(program, bundle, "--name", "tiny", "--access-log", "none", *words) as server:
        assert server.lines[-1].startswith("serving tiny on https://127.0.0.1:")
        old = certificate.read_text()
        assert seen(server.port, old) == 200
        with socket.create_connection(("127.0.0.1", server.port), timeout=LONG_S) as plain:
            plain.sendall(b"GET /v2 HTTP/1.1\r\nhost: x\r\n\r\n")
            assert not plain.recv(100).startswith(b"HTTP")
        certificate.write_text("no certificate")
        assert until(lambda: any("the one before stays" in line for line in server.lines))
        assert seen(server.port, old) == 200
        write_certificate(tmp_path)
        new = certificate.read_text()

        def is_new():
            try:
                return seen(server.port, new) == 200
            except ssl.SSLError:
                return False

        assert until(is_new)
        assert server.stop()[0] == 0


def test_a_folder_of_bundles(program, cases, tmp_path):
    """Given a folder -> each bundle in it, by requests listed, unloaded and loaded again."""
    for name in "ab":
        cases.write_tiny(tmp_path / name)
    good = cases.CASES[0]

    def infer(name):
        body, headers = cases.message_of(good)
        return server.ask("POST", f"/v2/models/{name}/infer", body, headers)

    def states():
        return {row["name"]: row["state"] for row in json.loads(server.ask("POST", "/v2/repository/index", b"{}")[2])}

    with running(program, tmp_path, "--repository-api", "--access-log", "none") as server:
        assert json.loads(server.ask("GET", "/v2/models")[2]) == {"models": ["a", "b"]}
        assert infer("a")[0] == infer("b")[0] == 200
        cases.write_tiny(tmp_path / "c")
        assert states() == {"a": "READY", "b": "READY", "c": "UNAVAILABLE"}
        assert server.ask("POST", "/v2/repository/models/a/unload")[0] == 200
        assert infer("a")[0] == 503 and server.ask("GET", "/v2/models/a/ready")[0] == 503
        for name in "ac":
            status, _, body = server.ask("POST", f"/v2/repository/models/{name}/load", b"{}")
            assert status == 200 and json.loads(body) == {"name": name, "load": True}
            assert infer(name)[0] == 200
        assert server.ask("POST", "/v2/repository/models/none/load")[0] == 404
        assert server.ask("POST", "/v2/repository/models/none/unload")[0] == 200
        status, _, body = server.ask("POST", "/v2/repository/models/a/load", b'{"parameters": {"config": "{}"}}')
        assert status == 400 and b"loading takes no parameters here" in body
        rows = json.loads(server.ask("GET", "/v2/models/stats")[2])["model_stats"]
        assert {row["name"]: row["inference_count"] for row in rows} == {"a": 2, "b": 1, "c": 1}
        assert server.stop()[0] == 0


def test_a_bundle_that_is_replaced_under_load(program, digits, images, wanted, tmp_path):
    """Given a new version on disk while clients send, time and again -> every request is answered rightly."""
    bundle, end = tmp_path / "d", threading.Event()
    shutil.copytree(digits / "whole", bundle)
    outcomes = []
    with running(program, bundle, "--name", "d", "--access-log", "none") as server:

        def client(own):
            with contextlib.closing(server.connect()) as connection:
                while not end.is_set():
                    connection.request("POST", "/v2/models/d/infer", *request_of(images[own : own + 1]))
                    status, headers, body = read(connection.getresponse())
                    right = status == 200 and np.allclose(logits_of(headers, body), wanted[own], atol=1e-3)
                    outcomes.append("right" if right else status)

        threads = [threading.Thread(target=client, args=(own,)) for own in range(4)]
        for thread in threads:
            thread.start()
        for version in range(3):
            with update_bundle(bundle) as draft:
                draft.manifest.extra["version"] = version
            assert until(lambda: sum("reloaded" in line for line in server.lines) == version + 1)  # noqa: B023
        end.set()
        for thread in threads:
            thread.join(LONG_S)
        assert server.stop()[0] == 0
    assert set(outcomes) == {"right"} and len(outcomes) > 20


def test_what_is_not_answered_within_the_grace(program, bundle):
    """Given a request that is not all there, and no time for it -> exit code 1, and one line that says so."""
    head = b"POST /v2/models/tiny/infer HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 9\r\n\r\n"
    with (
        running(program, bundle, "--name", "tiny", "--grace", 0, "--access-log", "none") as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=LONG_S) as connection,
    ):
        connection.sendall(head)
        assert connection.recv(100).startswith(b"HTTP/1.1 100 Continue")
        code, lines = server.stop()
    assert code == 1
    assert lines[-1] == "bundle-serve: 1 requests were not answered within the grace time; give a longer --grace"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no bundle is given"),
        (("x", "y"), "a second path 'y' is given"),
        (("x", "--loud"), "unknown option '--loud'"),
        (("x", "--port", "65536"), "--port is '65536', wanted a whole number from 0 to 65535"),
        (("x", "--port=65536"), "--port is '65536', wanted a whole number from 0 to 65535"),
        (("x", "--http-port=", "1"), "--http-port is ''"),
        (("x", "--loud=1"), "unknown option '--loud=1'"),
        (("x", "--timeout", "0"), "--timeout is '0', wanted seconds"),
        (("x", "--port"), "--port is ''"),
        (("no/such/folder", "--port", "0"), "no/such/folder: not a bundle (no such folder)"),
        (("x", "--host", "192.0.2.1"), "HTTP cannot listen on 192.0.2.1:8000"),
        (("x", "--tls-cert", "c.pem"), "--tls-cert and --tls-key are a pair; give both"),
        (("x", "--tls-cert", "c.pem", "--tls-key", "k.pem"), "c.pem and k.pem cannot be used"),
        (("x", "--token-file", "no/such"), "no/such: the token cannot be read"),
        (("BUNDLE", "--port", "0", "--name", "../a"), "'../a' is no name of a model"),
    ],
)
def test_bad_arguments_are_one_line_and_exit_code_2(program, bundle, arguments, message):
    words = [str(bundle) if word == "BUNDLE" else word for word in arguments]
    done = subprocess.run(
        [program("bundle-serve"), *words], capture_output=True, text=True, check=False, timeout=LONG_S
    )
    lines = [line for line in done.stderr.splitlines() if "warning" not in line]
    assert done.returncode == 2 and len(lines) == 1 and message in lines[0]


def test_a_port_that_is_taken(program, bundle, tiny):
    command = [program("bundle-serve"), bundle, "--port", str(tiny.port)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LONG_S)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert f"HTTP cannot listen on 127.0.0.1:{tiny.port} (Address already in use)" in done.stderr


def test_the_tests_of_the_server_pass(program):
    """Given the build -> its tests in C++ pass."""
    done = subprocess.run([program("serve-tests")], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout[-4000:]
    assert "0 failed" in done.stdout and "test cases: 0" not in done.stdout


def test_images_as_bodies(program, tmp_path):
    """Given image files as bodies for bundle-serve -> what Python says of them, and how they were prepared."""
    with running(program, image_bundles.found(tmp_path / "found"), "--name", "found", "--access-log", "none") as server:
        assert server.port, server.lines
        path = "/v2/models/found/infer"
        with engines.load(tmp_path / "found", "onnxruntime") as net:
            for said in ({"size": [20, 40]}, {"format": "JPEG", "orientation": 6}, {"mode": "RGBA", "seed": 2}):
                file = image_cases.image_file(said)
                status, headers, body = server.ask("POST", path, file, {"Content-Type": "Image/x"})
                answer = json.loads(body)
                assert (status, headers["content-type"], answer["kind"]) == (200, "application/json", "detect")
                assert (
                    answer["predictions"] == json.loads(json.dumps([each.as_json() for each in net.predict(file)]))
                    and answer["model_name"] == "found"
                )
                prepared = predictor_of(Bundle.open(tmp_path / "found").manifest).prepare(file)
                height, width = prepared.where.image
                assert (answer["prepared"], answer["image"]) == (prepared.said, {"width": width, "height": height})
        for file, status, said in (
            (b"", 400, "the file is no image that can be read; give one of PNG, JPEG"),
            (image_cases.image_file({"cut": 0.5}), 400, "the PNG file is damaged, or cut short; send the whole file"),
            (BOMB, 413, "the image has more than 33554432 pixels; give a smaller one"),
        ):
            found, _, body = server.ask("POST", path, file, {"Content-Type": "image/png"})
            assert (found, json.loads(body)) == (status, {"error": said})
    with running(program, serving_cases.write_tiny(tmp_path / "tiny"), "--access-log", "none") as server:
        status, _, body = server.ask("POST", "/v2/models/tiny/infer", b"x", {"Content-Type": "image/png"})
        said = "the bundle says not how an image becomes its input; export it with --preprocessing"
        assert (status, json.loads(body)) == (400, {"error": said})


def test_closed_streams_and_a_log_that_is_full(program, bundle, tmp_path):
    """Given closed standard streams, and a log that may not grow -> it answers, and nobody gets what is said."""
    log, path = tmp_path / "log", tmp_path / "s"
    words = [program("bundle-serve"), bundle, "--unix-socket", path, "--lame-duck", 0, "--access-log", log]
    command = f"ulimit -f 1; exec {' '.join(map(str, words))} <&- >&- 2>&-"
    process = subprocess.Popen(["bash", "-c", command])
    try:
        assert until(path.exists)
        with socket.socket(socket.AF_UNIX) as connection, connection.makefile("rb") as received:
            connection.settimeout(LONG_S)
            connection.connect(str(path))
            for _ in range(20):
                connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n" * 5)
                for _ in range(5):
                    lines = iter(received.readline, b"\r\n")
                    assert next(lines) == b"HTTP/1.1 200 OK\r\n"
                    assert b"Content-Length: 13\r\n" in list(lines) and received.read(13) == b'{"live":true}'
            assert until(lambda: log.stat().st_size == 1024)
        process.terminate()
        assert process.wait(LONG_S) == 0
    finally:
        process.kill()
        process.wait(LONG_S)


def test_a_reader_of_the_log_that_leaves(program, bundle, tmp_path):
    """Given a pipe as the log, whose reader ends -> the server goes on; one without a reader -> that is said."""
    log = tmp_path / "log"
    os.mkfifo(log)
    reader = os.open(log, os.O_RDONLY | os.O_NONBLOCK)
    with running(program, bundle, "--access-log", log) as server:
        assert server.ask("GET", "/v2")[0] == 200
        assert until(lambda: select.select([reader], [], [], 0)[0])
        os.close(reader)
        for _ in range(5):
            assert server.ask("GET", "/v2")[0] == 200
            time.sleep(0.1)  # a line is written every so often
        assert server.stop()[0] == 0
    command = [program("bundle-serve"), bundle, "--access-log", log]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LONG_S)
    assert done.returncode == 2 and "log: no access log can be written there" in done.stderr
