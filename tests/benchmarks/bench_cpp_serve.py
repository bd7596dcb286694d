"""What `bundle-serve` costs: a request beside a call of `net.run` in a process without a server.

    python tests/benchmarks/bench_cpp_serve.py engines/cpp/build            # where `make cpp` put its programs
    python tests/benchmarks/bench_cpp_serve.py engines/cpp/build out/v6     # any bundle of one float32 input

The network, where no bundle is given, has next to nothing to compute: the mean of each channel of 1×3×224×224 float32
pixels, 602,112 bytes a request. What a request takes beyond it is the server, the loopback device and the client.

Rounds of `bundle-run --bench` (calls in one process) and of requests over one connection, one after the other, in turn;
`added` is the difference of their medians, the client's own sending and receiving included. The client is a socket that
sends bytes which were made before, as a client in C would; each answer is compared with the first.

Goal: at most 0.8 ms added at the median.
"""

import argparse
import json
import re
import socket
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from plainconv.exporter.bundle import Bundle, TensorSpec, write_bundle

MEANS = """<ir_version: 10, opset_import: ["" : 20]>
g (float[1,3,224,224] input) => (float[1,3] means) <int64[2] axes = {2, 3}> {
    means = ReduceMean<keepdims=0>(input, axes)
}"""
WARMUP = 50


def main() -> None:
    """Print one line for each round, then the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=Path)
    parser.add_argument("bundle", type=Path, nargs="?")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=300)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bundle = arguments.bundle or means(Path(folder) / "means")
        measure(arguments, bundle)


def means(target: Path) -> Path:
    """The bundle of the network that has next to nothing to compute."""
    with write_bundle(target) as draft:
        draft.manifest.name = "means"
        draft.manifest.inputs = (TensorSpec("input", "float32", (1, 3, 224, 224)),)
        draft.manifest.outputs = (TensorSpec("means", "float32", (1, 3)),)
        onnx.save(onnx.parser.parse_model(MEANS), draft.path("model.onnx"))
        draft.link("checkpoint", sha256="c" * 64)
        draft.link_onnx()
    return target


def measure(arguments: argparse.Namespace, bundle: Path) -> None:
    """Rounds of calls and requests."""
    (spec,) = Bundle.open(bundle).inputs
    shape = [axis if isinstance(axis, int) else 1 for axis in spec.shape]
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    npy = Path(tempfile.mkdtemp()) / "x.npy"
    np.save(npy, x)
    options = ["--threads", str(arguments.threads)]
    command = [arguments.build / "bundle-serve", bundle, "--port", "0", "--name", "m", "--access-log", "none", *options]
    command += ["--max-delay-us", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr
        port = int(server.stderr.readline().rsplit(":", 1)[1])
        calls, requests = [], []
        for _ in range(arguments.rounds):
            calls.append(calls_ms(arguments, bundle, npy, options))
            requests.append(statistics.median(requests_ms(port, spec.name, x, arguments.calls)))
            print(f"net.run {calls[-1]:.3f} ms, request {requests[-1]:.3f} ms, added {requests[-1] - calls[-1]:.3f} ms")
        server.terminate()
        assert server.wait() == 0
    call, request = statistics.median(calls), statistics.median(requests)
    print(f"{x.nbytes} bytes, p50 of {arguments.calls}, {arguments.rounds} rounds: added {request - call:.3f} ms")


def calls_ms(arguments: argparse.Namespace, bundle: Path, npy: Path, options: list[str]) -> float:
    """The median call of net.run in a process of its own."""
    command = [arguments.build / "bundle-run", bundle, "--input", npy, "--bench", "--calls", str(arguments.calls)]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=True)
    found = re.search(r"p50 ([0-9.]+) ms", done.stdout)
    assert found
    return float(found[1])


def requests_ms(port: int, name: str, x: np.ndarray[Any, Any], count: int) -> list[float]:
    """What each of `count` requests took, from the first byte sent to the last received."""
    tensor = {"name": name, "datatype": "FP32", "shape": x.shape, "parameters": {"binary_data_size": x.nbytes}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    request = (
        b"POST /v2/models/m/infer HTTP/1.1\r\nHost: x\r\n"
        + f"Inference-Header-Content-Length: {len(head)}\r\nContent-Length: {len(head) + x.nbytes}\r\n\r\n".encode()
        + head
        + x.tobytes()
    )
    samples, first = [], b""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for i in range(-WARMUP, count):
            start = time.perf_counter()
            connection.sendall(request)
            answer = received(connection)
            if i >= 0:
                samples.append((time.perf_counter() - start) * 1e3)
            first = first or answer
            assert answer == first and answer.startswith(b"HTTP/1.1 200")
    return samples


def received(connection: socket.socket) -> bytes:
    """One answer."""
    answer = b""
    while True:
        answer += connection.recv(1 << 20)
        head, end, body = answer.partition(b"\r\n\r\n")
        if end and len(body) == length_of(head):
            return answer


def length_of(head: bytes) -> int:
    """What the head of an answer says of its body."""
    found = re.search(rb"\r\ncontent-length: (\d+)", head.lower())
    assert found
    return int(found[1])


if __name__ == "__main__":
    main()
