"""`bundle-serve` over gRPC: what the Python server is tested for, the shared list as messages, and its end."""

import collections
import contextlib
import json
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import grpc
import grpc_cases
import pytest
import serving_cases
from certificates import write_certificate
from cpp_server import LONG_S, not_here, running, served_by
from grpc_checks import *  # noqa: F403 - the tests that the Python server passes
from places import ROOT
from serving_bundles import make_bundle
from tritonclient.grpc import model_config_pb2, service_pb2
from waiting import until

SERVICE = "/inference.GRPCInferenceService"
SOURCE = ROOT / "engines" / "cpp"


def python_server(*arguments):
    """`exporter serve`, as long as a `with` block."""
    main = "import sys; from plainconv.exporter.cli.main import main; sys.exit(main())"
    ports = ("--http-port", 0, "--grpc-port", 0, "--threads", 1)
    return served_by([sys.executable, "-c", main, "serve", *arguments, *ports])


@pytest.fixture(scope="module")
def start(program):
    """Starts `bundle-serve`, as a function of its arguments, where it was built with gRPC."""
    done = subprocess.run([program("bundle-serve"), "--version"], capture_output=True, text=True, check=True)
    if "without gRPC" in done.stdout:
        not_here("bundle-serve has no gRPC: libgrpc++-dev, libprotobuf-dev or protobuf-compiler-grpc is not installed")
    return lambda *arguments: running(program, *arguments)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Two bundles: `open`, whose batch is open, and `one`, of batch 1."""
    folder = tmp_path_factory.mktemp("models")
    make_bundle(folder / "open")
    make_bundle(folder / "one", batch=1, scale=2.0)
    return folder


@pytest.fixture(scope="module")
def server(start, store):
    options = ("--repository-api", "--access-log", "none", "--max-body", "1", "--max-batch", "8")
    with start(store, *options, "--grpc-port", "0") as started:
        assert started.grpc, started.lines
        yield started


@pytest.mark.parametrize("which", ["cpp", "python"])
def test_the_shared_list(request, which, tmp_path):
    """Given the requests of the list that can be messages -> the same answers, from both servers."""
    bundle = serving_cases.write_tiny(tmp_path / "bundle")
    options = [word for key, value in serving_cases.OPTIONS.items() for word in (f"--{key}", str(value))]
    options += ["--access-log", "none"]
    pairs = [(case, grpc_cases.message_of(case)) for case in serving_cases.CASES]
    pairs = [(case, message) for case, message in pairs if message is not None]
    assert len(pairs) > 60
    serves = request.getfixturevalue("start")(bundle, *options, "--grpc-port", "0") if which == "cpp" else None
    with serves or python_server(bundle, *options) as server, grpc.insecure_channel(server.grpc) as channel:
        said = {case["name"]: grpc_cases.wrong(channel, case, message) for case, message in pairs}
    assert not {name: wrong for name, wrong in said.items() if wrong}


def test_messages_are_the_protocols():
    """Given each field of the proto -> its number and type in Triton's protocol, or KServe's where that differs."""
    messages = dict(service_pb2.DESCRIPTOR.message_types_by_name) | dict(
        model_config_pb2.DESCRIPTOR.message_types_by_name
    )
    text = re.sub(r"//.*", "", (SOURCE / "serve/grpc/inference.proto").read_text(encoding="utf-8"))
    kserve = {"RepositoryModelLoadResponse", "RepositoryModelUnloadResponse"}  # no fields in Triton's
    own = {"ModelRequest": "ModelConfigRequest", "RepositoryModelRequest": "RepositoryModelLoadRequest"}
    compared = 0
    found = re.findall(r"^message (\w+) \{(?:\n(.*?)^\}|([^\n]*)\}$)", text, re.M | re.S)
    for name, long, short in found:
        body = long or short
        theirs = messages.get(own.get(name, name))
        if theirs is None or name in kserve:
            assert name in kserve or name.startswith("HealthCheck"), name
            continue
        inner = re.sub(r"(message|enum) \w+ \{[^}]*\}", "", body)
        for field, number in re.findall(r"(\w+) = (\d+);", inner):
            assert theirs.fields_by_name[field].number == int(number), (name, field)
            compared += 1
    assert compared > 80
    numbers = dict(re.findall(r"(TYPE_\w+|KIND_\w+) = (\d+)", text))
    kinds = model_config_pb2.ModelInstanceGroup.Kind
    assert all(
        int(number) == (kinds if name.startswith("KIND") else model_config_pb2.DataType).Value(name)
        for name, number in numbers.items()
    )


def test_token_and_tls(start, store, tmp_path):
    """Given a token and certificates that are replaced -> who has both is answered, health without the token."""
    cert, key = write_certificate(tmp_path)
    token = tmp_path / "token"
    token.write_text("a-token-of-sixteen")
    options = ("--tls-cert", cert, "--tls-key", key, "--token-file", token, "--access-log", "none", "--grpc-port", 0)
    with start(store, *options) as server:

        def live(method, *metadata):
            trusted = grpc.ssl_channel_credentials(cert.read_bytes())
            names = (("grpc.use_local_subchannel_pool", 1),)
            with grpc.secure_channel(server.grpc, trusted, names) as channel:
                return channel.unary_unary(f"{SERVICE}/{method}")(b"", timeout=LONG_S, metadata=metadata)

        def asked(*metadata):
            with pytest.raises(grpc.RpcError) as caught:
                live("ServerMetadata", *metadata)
            return caught.value.code().name

        assert live("ServerReady") == b"\x08\x01"
        bearer = ("authorization", "Bearer a-token-of-sixteen")
        assert live("ServerMetadata", bearer) and asked() == asked(bearer, bearer) == "UNAUTHENTICATED"
        write_certificate(tmp_path)
        end = time.monotonic() + LONG_S
        while time.monotonic() < end:  # the new one is trusted alone, and taken soon
            with contextlib.suppress(grpc.RpcError):
                assert live("ServerReady") == b"\x08\x01"
                break
        else:
            pytest.fail("the new certificate is not taken")


def test_a_unix_socket_and_the_log(start, store, tmp_path):
    """Given a path -> gRPC on it; a line of the access log for each call, and counters."""
    path = tmp_path / "grpc"
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with start(store, "--access-log", tmp_path / "log", "--grpc-unix-socket", path, "--max-body", 1) as server:

        def counted(status, count):
            line = f'plainconv_answers_total{{protocol="grpc",status="{status}"}} {count}'
            return line in server.ask("GET", "/metrics")[2].decode()

        with grpc.insecure_channel(f"unix:{path}") as channel:
            message = service_pb2.ModelInferRequest(model_name="open", id="a")
            message.inputs.add(name="x", datatype="FP32", shape=[1, 4]).contents.fp32_contents.extend([1, 2, 3, 4])
            infer = channel.unary_unary(f"{SERVICE}/ModelInfer")
            with pytest.raises(grpc.RpcError, match="larger than max"):
                infer(bytes(3 << 20), timeout=LONG_S)
            assert until(lambda: counted("INVALID_ARGUMENT", 1))  # gRPC answers it, the server hears of it then
            infer(message.SerializeToString(), timeout=LONG_S, metadata=[("traceparent", parent)])
            for no_message in (b"\xff", b"\x0a\x01\xff"):
                with pytest.raises(grpc.RpcError):
                    infer(no_message, timeout=LONG_S)
        assert counted("OK", 1) and counted("INVALID_ARGUMENT", 3)
        code, said = server.stop()
    assert code == 0 and not path.exists() and [line for line in said if not line.startswith("serving ")] == []
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    large, good, bad, _ = (line for line in lines if line["protocol"] == "grpc")
    assert (good["method"], good["status"], good["model"], good["id"], good["rows"]) == (
        "ModelInfer",
        "OK",
        "open",
        "a",
        1,
    )
    assert good["trace_id"] == parent[3:35] and good["client"] == "unix:" and good["bytes_in"] == message.ByteSize()
    assert (large["status"], large["client"]) == ("INVALID_ARGUMENT", "unix:")
    assert (bad["status"], bad["bytes_in"]) == ("INVALID_ARGUMENT", 1) and "model" not in bad


def test_the_end(start, store):
    """Given SIGTERM while clients ask, and a stream is open -> health says so first; UNAVAILABLE, none CANCELLED."""
    message = service_pb2.ModelInferRequest(model_name="open")
    message.inputs.add(name="x", datatype="FP32", shape=[1, 4]).contents.fp32_contents.extend([1, 2, 3, 4])
    data, codes, answered = message.SerializeToString(), collections.Counter(), []
    with start(store, "--access-log", "none", "--grpc-port", 0, "--lame-duck", 0.3) as server:

        def ask():
            own = (("grpc.use_local_subchannel_pool", 1),)
            with grpc.insecure_channel(server.grpc, own) as channel:
                infer = channel.unary_unary(f"{SERVICE}/ModelInfer")
                try:
                    while True:
                        answered.append(infer(data, timeout=LONG_S))
                except grpc.RpcError as error:
                    codes[error.code().name] += 1

        with grpc.insecure_channel(server.grpc) as channel:
            health = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"", timeout=LONG_S)
            assert next(health) == b"\x08\x01"
            idle = channel.stream_stream(f"{SERVICE}/ModelStreamInfer")(iter([data]), timeout=LONG_S)
            next(idle)
            threads = [threading.Thread(target=ask) for _ in range(8)]
            for thread in threads:
                thread.start()
            while len(answered) < 50:
                time.sleep(0.01)
            assert server.stop()[0] == 0
            assert list(health) == [b"\x08\x02"]
        for thread in threads:
            thread.join(LONG_S)
    assert codes == {"UNAVAILABLE": 8}


def test_who_asks_to_the_very_end(start, store):
    """Given clients that ask again and again while the server stops -> UNAVAILABLE to its end, which is a good one."""
    message = service_pb2.ModelInferRequest(model_name="open")
    data, codes = message.SerializeToString(), collections.Counter()
    with start(store, "--access-log", "none", "--grpc-port", 0) as server:

        def ask():
            own = (("grpc.use_local_subchannel_pool", 1),)
            with grpc.insecure_channel(server.grpc, own) as channel:
                infer = channel.unary_unary(f"{SERVICE}/ModelInfer")
                while server.process.poll() is None:
                    with pytest.raises(grpc.RpcError) as caught:
                        infer(data, timeout=LONG_S)
                    codes[caught.value.code().name] += 1

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        while sum(codes.values()) < 50:
            time.sleep(0.01)
        assert server.stop()[0] == 0
        for thread in threads:
            thread.join(LONG_S)
    assert codes.keys() == {"INVALID_ARGUMENT", "UNAVAILABLE"}


def test_places_are_given_back(start, store):
    """Given one connection after the other, and more at once than may be -> the first are answered, then a new one."""
    with start(store, "--access-log", "none", "--grpc-port", 0, "--max-connections", 8) as server:
        host, _, port = server.grpc.rpartition(":")
        for _ in range(20):
            with grpc.insecure_channel(server.grpc, (("grpc.use_local_subchannel_pool", 1),)) as channel:
                channel.unary_unary(f"{SERVICE}/ServerLive")(b"", timeout=LONG_S)
        with contextlib.ExitStack() as held:
            many = [held.enter_context(socket.create_connection((host, int(port)), LONG_S)) for _ in range(12)]
            assert many[-1].recv(100) == b""  # three quarters of the places are one address's
        with grpc.insecure_channel(server.grpc) as channel:
            live = channel.unary_unary(f"{SERVICE}/ServerLive")
            assert live(b"", timeout=LONG_S, wait_for_ready=True) == b"\x08\x01"


def held_mib(server):
    found = re.search(r"VmRSS:\s+(\d+)", (Path("/proc") / str(server.process.pid) / "status").read_text())
    return int(found[1]) / 1024


def test_what_a_flood_took_goes_back_to_the_system(start, store):
    """Given pings without end, answers to which nobody reads -> they are cut, and soon the server holds as before."""
    ping = b"\0\0\x08\x06\0\0\0\0\0" + bytes(8)
    with start(store, "--access-log", "none", "--grpc-port", 0) as server:
        if "libasan" in Path(f"/proc/{server.process.pid}/maps").read_text():
            pytest.skip("the address sanitizer keeps what was freed")
        host, _, port = server.grpc.rpartition(":")
        before = held_mib(server)
        for _ in range(3):
            with (
                contextlib.suppress(OSError),
                socket.create_connection((host, int(port)), LONG_S) as connection,
            ):
                connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04\0\0\0\0\0")
                while True:
                    connection.sendall(ping * 10_000)
        end = time.monotonic() + LONG_S
        while held_mib(server) > before + 16:
            assert time.monotonic() < end, (before, held_mib(server))
            time.sleep(0.1)
