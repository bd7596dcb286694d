"""TLS and the bearer token, over both protocols; and limits of gRPC."""

import json
import ssl
import time
from collections.abc import Callable, Iterator
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from certificates import write_certificate

grpc = pytest.importorskip("grpc")
triton = pytest.importorskip("tritonclient.grpc")
pytest.importorskip("cryptography")
LONG_S = 60.0
TOKEN = "0123456789abcdef0123"
BODY = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]})


class Secured:
    """A server with TLS and a token, and what its clients need."""

    def __init__(self, server: Any, certificate: Path) -> None:
        self.server, self.certificate = server, certificate

    def rest(self, method: str, path: str, token: str | None) -> tuple[int, bytes, dict[str, str]]:
        host, _, port = self.server.http.rpartition(":")
        trusted = ssl.create_default_context(cafile=str(self.certificate))
        connection = HTTPSConnection(host, int(port), timeout=LONG_S, context=trusted)
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        connection.request(method, path, BODY if method == "POST" else None, headers)
        response = connection.getresponse()
        data = response.read()
        connection.close()
        return response.status, data, dict(response.getheaders())

    def infer(self, token: str | None) -> Any:
        tensor = triton.InferInput("x", [1, 4], "FP32")
        tensor.set_data_from_numpy(np.array([[1, 2, 3, 4]], np.float32))
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        with self.client() as client:
            return client.infer("b", [tensor], headers=headers, client_timeout=LONG_S).as_numpy("y").tolist()

    def client(self) -> Any:
        return triton.InferenceServerClient(self.server.grpc, ssl=True, root_certificates=str(self.certificate))


@pytest.fixture(scope="module")
def secured(
    run_server: Callable[..., Any], bundle_of: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("secured")
    certificate, key = write_certificate(folder)
    (folder / "token").write_text(TOKEN)
    options = ("--tls-cert", certificate, "--tls-key", key, "--token-file", folder / "token", "--max-body", 1)
    log = folder / "log"
    with run_server(bundle_of(folder / "b"), "--name", "b", "--access-log", log, *options) as server:
        assert server.http, server.lines
        yield Secured(server, certificate)


def test_with_the_token(secured: Secured) -> None:
    """Given TLS and the token -> answered, over both protocols."""
    assert secured.server.lines[0].startswith("serving b on https://127.0.0.1:")
    status, data, _ = secured.rest("POST", "/v2/models/b/infer", TOKEN)
    assert status == 200 and json.loads(data)["outputs"][0]["data"] == [3, 7]
    assert secured.infer(TOKEN) == [[3, 7]]


@pytest.mark.parametrize("token", [None, "", TOKEN[:-1], f"{TOKEN}x"])
@pytest.mark.parametrize("path", ["/v2/models/b/infer", "/v2/repository/models/b/unload"])
def test_without_the_token(secured: Secured, token: str | None, path: str) -> None:
    """Given another token, or none -> 401, whatever is asked for."""
    status, data, headers = secured.rest("POST", path, token)
    assert status == 401 and list(json.loads(data)) == ["error"] and headers["www-authenticate"] == "Bearer"
    assert TOKEN not in data.decode()
    assert secured.rest("GET", "/v2/models", token)[0] == secured.rest("GET", "/metrics", token)[0] == 401
    with pytest.raises(triton.InferenceServerException, match="UNAUTHENTICATED"):
        secured.infer(token)


def test_a_probe_needs_none(secured: Secured) -> None:
    for path in ("/v2/health/live", "/v2/health/ready"):
        assert secured.rest("GET", path, None)[0] == 200
    with secured.client() as client:
        assert client.is_server_live() and client.is_server_ready()
        with pytest.raises(triton.InferenceServerException, match="UNAUTHENTICATED"):
            client.is_model_ready("b")


def test_without_tls(secured: Secured) -> None:
    """Given a client that speaks no TLS -> no answer, and the next one that does is served."""
    with pytest.raises(OSError):
        secured.server.ask("GET", "/v2/health/live")
    assert secured.rest("GET", "/v2/health/live", None)[0] == 200


def test_the_token_is_in_no_log(secured: Secured) -> None:
    secured.rest("POST", "/v2/models/b/infer", TOKEN)
    assert not any(TOKEN in line for line in secured.server.lines)


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
def test_a_message_beyond_the_limit(secured: Secured, compression: Any) -> None:
    """Given a message that is too large, or that would become so -> RESOURCE_EXHAUSTED, and the next is answered."""
    request = triton.service_pb2.ModelInferRequest(model_name="b", raw_input_contents=[bytes(20 * 2**20)])
    request.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    credentials = grpc.ssl_channel_credentials(secured.certificate.read_bytes())
    with grpc.secure_channel(secured.server.grpc, credentials) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError) as caught:
            metadata = (("authorization", f"Bearer {TOKEN}"),)
            call(request.SerializeToString(), timeout=LONG_S, metadata=metadata, compression=compression)
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in caught.value.details()
    assert secured.infer(TOKEN) == [[3, 7]]


@pytest.mark.parametrize("what", ["no certificate", "another key", "a key that asks for a password"])
def test_tls_that_does_not_work(
    start: Callable[..., Any], bundle_of: Callable[..., Path], tmp_path: Path, what: str
) -> None:
    """Given files that are no pair -> exit code 2, in one line, and nobody is asked for a password."""
    from cryptography.hazmat.primitives import serialization

    certificate, key = write_certificate(tmp_path)
    if what == "no certificate":
        certificate.write_text("no certificate")
    elif what == "another key":
        (tmp_path / "other").mkdir()
        _, key = write_certificate(tmp_path / "other")
    else:
        loaded = serialization.load_pem_private_key(key.read_bytes(), None)
        sealed = serialization.BestAvailableEncryption(b"secret")
        key.write_bytes(loaded.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, sealed))
    server = start(bundle_of(tmp_path / "b"), "--tls-cert", certificate, "--tls-key", key)
    assert server.process.wait(LONG_S) == 2
    (line,) = server.lines
    assert line.startswith("exporter: ") and "cert.pem" in line and "wanted" in line


def test_a_certificate_that_is_replaced(
    run_server: Callable[..., Any], bundle_of: Callable[..., Path], tmp_path: Path
) -> None:
    """Given a new certificate in the place of the old one -> both protocols use it, without a new start."""
    certificate, key = write_certificate(tmp_path)
    options = ("--tls-cert", certificate, "--tls-key", key, "--watch", "0.05", "--access-log", "none")
    with run_server(bundle_of(tmp_path / "b"), "--name", "b", *options) as server:
        assert server.http, server.lines
        here = Secured(server, certificate)
        assert here.rest("GET", "/v2/health/live", None)[0] == 200 and here.infer(None) == [[3, 7]]
        write_certificate(tmp_path)
        end = time.monotonic() + LONG_S
        while not any("certificate reloaded" in line for line in server.lines):
            assert time.monotonic() < end and not time.sleep(0.01)
        assert here.rest("GET", "/v2/health/live", None)[0] == 200 and here.infer(None) == [[3, 7]]
