"""What a server is told when it starts."""

from dataclasses import dataclass
from pathlib import Path

MIB = 2**20


@dataclass(frozen=True)
class ServeOptions:
    """Where it listens, how it batches, what it takes, and how long it waits.

    A port of 0 is any that is free; a `grpc_port` of None is no gRPC. `max_delay_us` is how long a request waits for
    others to share a batch with, `workers` how many runs of a model there are at a time. `max_queue` counts requests
    that wait for a model, `max_body` bytes of one request, `max_pending` bytes of all that are in the server.
    `timeout_s` is how long any request may take. Told to stop, the server says that it is not ready and goes on for
    `lame_duck_s`; then what was accepted has until `grace_s` are over. `watch_s` is how often a bundle and a
    certificate on disk are looked at (0: never). `repository` and `shared_memory` are what is offered beside inference:
    requests that load models, and tensors in shared memory. `access_log` is a file, "-" for stderr
    or "" for none. `engine`, `precision`, `threads`, `devices` and `eager_kernels` are `engines.load`'s.
    """

    host: str = "127.0.0.1"
    http_port: int = 8000
    grpc_port: int | None = 8001
    max_batch: int = 32
    max_delay_us: int = 500
    workers: int = 1
    max_queue: int = 256
    max_body: int = 64 * MIB
    max_pending: int = 1024 * MIB
    max_connections: int = 1024
    timeout_s: float = 30.0
    grace_s: float = 30.0
    lame_duck_s: float = 1.0
    watch_s: float = 2.0
    repository: bool = False
    shared_memory: bool = False
    token: str = ""
    tls_cert: Path | None = None
    tls_key: Path | None = None
    access_log: str = "-"
    engine: str = "auto"
    precision: str = "auto"
    threads: int = 0
    devices: tuple[int, ...] | None = None
    eager_kernels: bool = False
