"""What the serving benchmarks share: the server as a process of its own, and clients that hide nothing.

KServe's protobuf and Triton's cannot be loaded side by side, so a client's process is never the server's.
"""

import contextlib
import http.client
import importlib
import json
import re
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import shared_memory

COMMAND = "import sys; from plainconv.exporter.cli.main import main; sys.exit(main())"
LONG_S = 120.0  # what no answer takes, nor a server's start or end
MIB = 2**20
_SERVING = re.compile(r"serving .* on https?://(\S+) and grpc (\S+)")


@dataclass(frozen=True)
class Usage:
    """What a process holds: memory in MiB, and threads."""

    mib: float
    threads: int


@dataclass(frozen=True)
class Server:
    """A running server."""

    process: "subprocess.Popen[str]"
    http: str
    grpc: str
    lines: list[str]  # what it has written to stderr so far

    def usage(self) -> Usage:
        """What it holds now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        resident, threads = (re.search(rf"{key}:\s+(\d+)", status) for key in ("VmRSS", "Threads"))
        if not resident or not threads:
            raise SystemExit("the server ended by itself")
        return Usage(int(resident[1]) * 1024 / MIB, int(threads[1]))


@contextlib.contextmanager
def serving(path: Path, *options: str, log: str = "none", bundle_serve: Path | None = None) -> Iterator[Server]:
    """`exporter serve`, or that `bundle-serve`, on free ports; ended, if it still runs, by SIGTERM, else killed."""
    if bundle_serve:
        command = [str(bundle_serve), str(path), "--port", "0"]
    else:
        command = [sys.executable, "-c", COMMAND, "serve", str(path), "--http-port", "0"]
    command += ["--grpc-port", "0", "--access-log", log]
    process = subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True, errors="replace")
    lines: list[str] = []
    started = threading.Event()
    threading.Thread(target=_read, args=(process, lines, started), daemon=True).start()
    try:
        if not started.wait(LONG_S) or not (found := next(filter(None, map(_SERVING.search, lines)), None)):
            raise SystemExit(f"the server did not start: {' '.join(lines)}")
        yield Server(process, found[1], found[2], lines)
    finally:
        stop(process)


def stop(process: "subprocess.Popen[Any]") -> None:
    """End it by SIGTERM, kill it where that takes too long."""
    process.terminate()
    try:
        process.wait(LONG_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(LONG_S)


def free_ports() -> tuple[int, int]:
    """Two that are free, for servers that cannot choose their own."""
    with contextlib.ExitStack() as held:
        bound = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        return bound[0].getsockname()[1], bound[1].getsockname()[1]


def _read(process: "subprocess.Popen[str]", lines: list[str], started: threading.Event) -> None:
    for line in process.stderr or ():
        lines.append(line.rstrip())
        if _SERVING.search(line):
            started.set()
    started.set()


Arrays = Mapping[str, Any]


def body_of(inputs: Arrays, **more: Any) -> tuple[bytes, dict[str, str]]:
    """A request with binary tensors, asking for binary ones, and its headers; `more` goes into its JSON."""
    tensors = [
        {
            "name": name,
            "shape": x.shape,
            "datatype": DATATYPES[x.dtype.name],
            "parameters": {"binary_data_size": x.nbytes},
        }
        for name, x in inputs.items()
    ]
    head = json.dumps({"inputs": tensors, "parameters": {"binary_data_output": True}, **more}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    return b"".join([head, *(x.tobytes() for x in inputs.values())]), headers


DATATYPES = {"float32": "FP32", "float16": "FP16", "int64": "INT64", "int8": "INT8", "uint8": "UINT8", "bool": "BOOL"}
_DTYPES = {datatype: dtype for dtype, datatype in DATATYPES.items()}


def outputs_of(data: bytes, headers: Mapping[str, str]) -> dict[str, Any]:
    """The arrays of an answer."""
    at = int(headers["inference-header-content-length"])
    outputs = {}
    for tensor in json.loads(data[:at])["outputs"]:
        end = at + tensor["parameters"]["binary_data_size"]
        outputs[tensor["name"]] = np.frombuffer(data[at:end], _DTYPES[tensor["datatype"]]).reshape(tensor["shape"])
        at = end
    return outputs


class RestClient:
    """One connection, opened again where the server closed it after an answer. Nothing is tried twice.

    `is_reused` says whether the last request went over a connection that had been there before.
    """

    is_reused = False

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._connection = http.client.HTTPConnection(host, int(port), timeout=LONG_S)

    def post(self, model: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes, dict[str, str]]:
        """Status, body and headers of the answer. Raises OSError and HTTPException where there is none."""
        self.is_reused = self._connection.sock is not None
        try:
            self._connection.request("POST", f"/v2/models/{model}/infer", body, dict(headers))
            response = self._connection.getresponse()
            return response.status, response.read(), {k.lower(): v for k, v in response.getheaders()}
        except BaseException:
            self._connection.close()
            raise

    def infer(self, model: str, inputs: Arrays) -> dict[str, Any]:
        """The outputs for `inputs`."""
        status, data, headers = self.post(model, *body_of(inputs))
        if status != 200:
            raise SystemExit(f"REST answered {status}: {data[:200]!r}")
        return outputs_of(data, headers)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


class GrpcClient:
    """One connection of its own, which gRPC's channels to the same address would else share."""

    def __init__(self, address: str) -> None:
        own = [(f"grpc.max_{way}_message_length", -1) for way in ("send", "receive")]
        own.append(("grpc.use_local_subchannel_pool", 1))
        self._client = triton.InferenceServerClient(address, channel_args=own)

    def infer(self, model: str, inputs: Arrays, **more: Any) -> dict[str, Any]:
        """The outputs for `inputs`. Raises InferenceServerException."""
        result = self._client.infer(model, tensors_of(inputs), client_timeout=LONG_S, **more)
        return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}

    def infer_tensors(self, model: str, tensors: list[Any], **more: Any) -> Any:
        """Triton's own result for Triton's own tensors. Raises InferenceServerException."""
        return self._client.infer(model, tensors, client_timeout=LONG_S, **more)

    def close(self) -> None:
        """Close the channel."""
        self._client.close()


class SharedClient:
    """Triton's client of one protocol, its tensors in shared memory: the inputs, and behind them the outputs."""

    def __init__(self, protocol: str, address: str, inputs: Arrays, outputs: Arrays) -> None:
        """`outputs` are as large as the answers will be."""
        self._triton = importlib.import_module(f"tritonclient.{protocol}")
        self._client = self._triton.InferenceServerClient(address)
        self._region = f"bench-{uuid.uuid4().hex}"
        self._size = sum(array.nbytes for array in (*inputs.values(), *outputs.values()))
        self._handle = shared_memory.create_shared_memory_region(self._region, f"/{self._region}", self._size)
        self._client.register_system_shared_memory(self._region, f"/{self._region}", self._size)
        self._inputs, self._outputs, self._places = [], [], {}
        offset = 0
        for name, array in inputs.items():
            self._inputs.append(self._triton.InferInput(name, list(array.shape), DATATYPES[array.dtype.name]))
            self._inputs[-1].set_shared_memory(self._region, array.nbytes, offset)
            offset += array.nbytes
        for name, array in outputs.items():
            self._outputs.append(self._triton.InferRequestedOutput(name))
            self._outputs[-1].set_shared_memory(self._region, array.nbytes, offset)
            self._places[name] = (array.dtype, list(array.shape), offset)
            offset += array.nbytes

    def infer(self, model: str, inputs: Arrays) -> dict[str, Any]:
        """The outputs for `inputs`, from arrays to arrays. Raises InferenceServerException."""
        shared_memory.set_shared_memory_region(self._handle, list(inputs.values()))
        self._client.infer(model, self._inputs, outputs=self._outputs)
        return {
            name: shared_memory.get_contents_as_numpy(self._handle, *place).copy()
            for name, place in self._places.items()
        }

    def close(self) -> None:
        """Give the region back."""
        self._client.unregister_system_shared_memory(self._region)
        self._client.close()
        shared_memory.destroy_shared_memory_region(self._handle)


def tensors_of(inputs: Arrays) -> list[Any]:
    """The tensors as Triton's client sends them."""
    tensors = []
    for name, array in inputs.items():
        tensors.append(triton.InferInput(name, list(array.shape), DATATYPES[array.dtype.name]))
        tensors[-1].set_data_from_numpy(array)
    return tensors
