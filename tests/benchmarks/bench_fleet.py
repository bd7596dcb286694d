"""Servers beside each other on one network: requests a second, p50 and p99 by 1, 8, 32 and 256 clients.

    python tests/benchmarks/bench_fleet.py                            # ours in Python, KServe's as it comes
    python tests/benchmarks/bench_fleet.py --build engines/cpp/build --core /tmp/core  # and in C++, and Triton's
    python tests/benchmarks/bench_fleet.py out/digits --seconds 5 --clients 1,32

The network, where no bundle is given, is that of `bench_cpp_serve.py`: next to nothing to compute, 602,112 bytes a
request. Clients are threads of one process on the servers' own cores, each with a connection of its own; they send
bytes which were made before and look at the status alone. ONNX Runtime has one thread everywhere. A request that is
refused (429) is counted apart and not timed.

KServe's stock server is a `Model` whose `predict` runs ONNX Runtime, as its documentation shows one. `--core` is an
environment with nvidia-pytriton, see `triton_core.py`. bundle-serve's gRPC is measured where it has `--grpc-port`.
"""

import argparse
import collections
import contextlib
import http.client
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import triton_core
from bench_cpp_serve import means
from serving_client import DATATYPES, LONG_S, body_of, free_ports, serving, stop
from tritonclient.grpc import service_pb2

from plainconv.engines.bench import machine, random_inputs
from plainconv.engines.triton.repository import TritonOptions, write_repository
from plainconv.exporter.bundle import Bundle

METHOD = "/inference.GRPCInferenceService/ModelInfer"
_STOCK = """
import sys
sys.argv, (path, name, http, grpc) = sys.argv[:1], sys.argv[1:]
import numpy as np
import onnxruntime
from kserve import InferOutput, InferResponse, Model, ModelServer
class Stock(Model):
    def load(self):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.ready = True
    def predict(self, payload, headers=None):
        arrays = self.session.run(None, {each.name: each.as_numpy() for each in payload.inputs})
        outputs = []
        for value, array in zip(self.session.get_outputs(), arrays, strict=True):
            outputs.append(InferOutput(value.name, list(array.shape), "FP32"))
            outputs[-1].set_data_from_numpy(array, binary_data=True)
        return InferResponse(payload.id or "", self.name, outputs)
model = Stock(name)
model.load()
ModelServer(http_port=int(http), grpc_port=int(grpc), enable_latency_logging=False).start([model])
"""
Ask = Callable[[], str]
Running = list[tuple[str, str, str]]
"""Label, protocol and address."""


def main() -> None:
    """Print a line for each server, protocol and number of clients."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, nargs="?")
    parser.add_argument("--build", type=Path, metavar="DIR", help="where `make cpp` put bundle-serve")
    parser.add_argument("--core", type=Path, metavar="DIR", help="an environment with nvidia-pytriton")
    parser.add_argument("--clients", default="1,8,32,256")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each figure (default 3)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bundle = Bundle.open(args.bundle or means(Path(folder) / "means"))
        inputs = random_inputs(bundle.inputs, 1)
        size = sum(array.nbytes for array in inputs.values())
        here = machine()
        print(f"{here['cpu']}, {here['cores']} cores, load {here['load']}; {bundle.folder.name}, {size} bytes\n")
        print("| server | protocol | clients | requests a second | p50, ms | p99, ms | refused |")
        print(f"|{'---|' * 7}")
        for server in (ours, stock, cpp, core):
            with contextlib.contextmanager(server)(bundle, args, Path(folder)) as running:
                for label, protocol, address in running:
                    for count in map(int, args.clients.split(",")):
                        rate, p50, p99, refused = load(protocol, address, inputs, count, args.seconds)
                        row = (label, protocol, count, f"{rate:.0f}", f"{p50:.2f}", f"{p99:.2f}", refused)
                        print(f"| {' | '.join(map(str, row))} |", flush=True)


def ours(bundle: Bundle, args: argparse.Namespace, folder: Path) -> Iterator[Running]:
    """`exporter serve`."""
    with serving(bundle.folder, "--name", "net", "--engine", "onnxruntime", "--threads", "1") as server:
        yield [("exporter serve", "REST", server.http), ("exporter serve", "gRPC", server.grpc)]


def stock(bundle: Bundle, args: argparse.Namespace, folder: Path) -> Iterator[Running]:
    """KServe's server as it comes."""
    ports = free_ports()
    command = [sys.executable, "-c", _STOCK, str(bundle.file("model.onnx")), "net", *map(str, ports)]
    with _process(command) as process:
        http_address, grpc_address = (f"127.0.0.1:{port}" for port in ports)
        _wait_ready(process, http_address)
        yield [("KServe stock", "REST", http_address), ("KServe stock", "gRPC", grpc_address)]


def cpp(bundle: Bundle, args: argparse.Namespace, folder: Path) -> Iterator[Running]:
    """`bundle-serve`, where it is built."""
    program = args.build and args.build / "bundle-serve"
    if not program or not program.is_file():
        print(f"left out: bundle-serve ({program or 'no --build'})", file=sys.stderr)
        yield []
        return
    helped = subprocess.run([program, "--help"], capture_output=True, text=True)
    has_grpc = "--grpc-port" in helped.stdout + helped.stderr
    http_port, grpc_port = free_ports()
    command = [program, bundle.folder, "--name", "net", "--port", http_port, "--threads", 1, "--access-log", "none"]
    with _process([*map(str, command), *(["--grpc-port", str(grpc_port)] if has_grpc else [])]) as process:
        _wait_ready(process, f"127.0.0.1:{http_port}")
        found = [("bundle-serve", "REST", f"127.0.0.1:{http_port}")]
        yield found + ([("bundle-serve", "gRPC", f"127.0.0.1:{grpc_port}")] if has_grpc else [])


def core(bundle: Bundle, args: argparse.Namespace, folder: Path) -> Iterator[Running]:
    """A Triton core, where there is one."""
    if not args.core or not triton_core.is_there(args.core):
        print(f"left out: Triton's core ({args.core or 'no --core'} holds no nvidia-pytriton)", file=sys.stderr)
        yield []
        return
    write_repository(bundle, folder / "models", TritonOptions("net", devices=(), engine="onnxruntime"))
    with triton_core.core(args.core, folder / "models") as started:
        if not started.wait(lambda: started.client.is_model_ready("net")):
            raise SystemExit("Triton's core does not load the model")
        label = "Triton core, Python backend"
        yield [(label, "REST", started.http), (label, "gRPC", started.address)]


@contextlib.contextmanager
def _process(command: list[str]) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        stop(process)


def _wait_ready(process: "subprocess.Popen[bytes]", address: str) -> None:
    end = time.monotonic() + LONG_S
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), contextlib.closing(http.client.HTTPConnection(address, timeout=5)) as asked:
            asked.request("GET", "/v2/health/ready")
            if asked.getresponse().status == 200:
                return
        time.sleep(0.1)
    raise SystemExit(f"no server is ready on {address}")


def load(protocol: str, address: str, inputs: Any, clients: int, seconds: float) -> tuple[float, float, float, int]:
    """Answers a second, p50 and p99 in ms, and how many were refused, by so many clients."""
    make = {"REST": rest_client, "gRPC": grpc_client}[protocol]
    outcomes: collections.Counter[str] = collections.Counter()
    samples: list[list[float]] = [[] for _ in range(clients)]
    begin, end = threading.Event(), threading.Event()

    def ask(own: list[float]) -> None:
        with make(address, inputs) as once:
            while not end.is_set():
                start = time.perf_counter()
                outcome = once()
                if begin.is_set():
                    outcomes[outcome] += 1
                    if outcome == "answered":
                        own.append((time.perf_counter() - start) * 1e3)

    threads = [threading.Thread(target=ask, args=(own,)) for own in samples]
    for thread in threads:
        thread.start()
    time.sleep(max(0.5, seconds / 3))
    begin.set()
    start = time.perf_counter()
    time.sleep(seconds)
    took = time.perf_counter() - start
    end.set()
    answered = [each for own in samples for each in list(own)]
    for thread in threads:
        thread.join()
    if outcomes["failed"] or not answered:
        raise SystemExit(
            f"{protocol} on {address}: {outcomes['failed']} requests failed, {len(answered)} were answered"
        )
    p50, p99 = np.percentile(answered, (50, 99))
    return len(answered) / took, float(p50), float(p99), outcomes["refused"]


@contextlib.contextmanager
def rest_client(address: str, inputs: Any) -> Iterator[Ask]:
    """A connection that sends the same request again and again."""
    body, headers = body_of(inputs)
    connection = http.client.HTTPConnection(address, timeout=LONG_S)

    def once() -> str:
        try:
            connection.request("POST", "/v2/models/net/infer", body, headers)
            answer = connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException):
            connection.close()
            return "failed"
        return {200: "answered", 429: "refused"}.get(answer.status, "failed")

    with contextlib.closing(connection):
        yield once


@contextlib.contextmanager
def grpc_client(address: str, inputs: Any) -> Iterator[Ask]:
    """The same over gRPC."""
    message = service_pb2.ModelInferRequest(model_name="net")
    for name, array in inputs.items():
        message.inputs.add(name=name, datatype=DATATYPES[array.dtype.name], shape=array.shape)
        message.raw_input_contents.append(array.tobytes())
    data = message.SerializeToString()
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(address, options) as channel:
        call = channel.unary_unary(METHOD)

        def once() -> str:
            try:
                call(data, timeout=LONG_S)
            except grpc.RpcError as error:
                return "refused" if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED else "failed"
            return "answered"

        yield once


if __name__ == "__main__":
    main()
