"""`exporter serve`: a bundle, or a folder of bundles, over the Open Inference Protocol."""

import argparse
import logging
import sys
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from ..bundle import MANIFEST, read_manifest
from ..errors import EngineError
from .arguments import count, devices, number
from .ray_options import add_arguments as add_ray_arguments
from .ray_options import loader_of, ray_options_of

if TYPE_CHECKING:
    from plainconv.engines.serving.options import ServeOptions

SUMMARY = "serve a bundle, or a folder of them, over REST and gRPC"
MIB = 2**20
_WANTED = "wanted seconds, as in 0.5 or 30"
_seconds = number(f"is not a time; {_WANTED}", 1e9)
_some_seconds = number(f"is not a time; {_WANTED}", 1e9, zero=f"is no time to answer in; {_WANTED}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Set up `exporter serve`."""
    parser.add_argument("path", type=Path, metavar="PATH", help="a bundle, or a folder of bundles")
    parser.add_argument("--name", default="", help="of the model (default: the network's; in a folder, the bundle's)")
    where = parser.add_argument_group("where")
    where.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine alone)")
    where.add_argument("--http-port", type=_port, default=8000, metavar="N", help="0: any that is free (default 8000)")
    where.add_argument("--grpc-port", type=_port, default=8001, metavar="N", help="0: any that is free (default 8001)")
    where.add_argument("--no-grpc", action="store_true", help="REST alone")
    where.add_argument("--token-file", type=Path, metavar="FILE", help="requests must bear the token that it holds")
    where.add_argument("--tls-cert", type=Path, metavar="FILE.pem", help="certificate; with --tls-key")
    where.add_argument("--tls-key", type=Path, metavar="FILE.pem", help="its key")
    batch = parser.add_argument_group("batches, where the bundle leaves the batch open")
    batch.add_argument("--max-batch", type=count(1), default=32, metavar="N", help="rows of a run (default 32)")
    batch.add_argument("--max-delay-us", type=count(0), default=500, metavar="N", help="wait as long for others (500)")
    batch.add_argument("--workers", type=count(1), default=1, metavar="N", help="runs at a time (1); of a replica")
    limits = parser.add_argument_group("limits")
    limits.add_argument("--max-queue", type=count(1), default=256, metavar="N", help="requests that wait (256)")
    limits.add_argument("--max-body", type=count(1), default=64, metavar="MIB", help="of one request (default 64)")
    limits.add_argument("--max-pending", type=count(1), default=1024, metavar="MIB", help="of all requests (1024)")
    limits.add_argument("--max-connections", type=count(1), default=1024, metavar="N", help="of each protocol (1024)")
    limits.add_argument("--timeout", type=_some_seconds, default=30.0, metavar="S", help="of a request (default 30)")
    limits.add_argument("--grace", type=_seconds, default=30.0, metavar="S", help="to answer what is accepted (30)")
    lame_duck = "go on, not ready, before it stops (1); within --grace"
    limits.add_argument("--lame-duck", type=_seconds, default=1.0, metavar="S", help=lame_duck)
    add_ray_arguments(parser)
    life = parser.add_argument_group("models and log")
    life.add_argument("--repository-api", action="store_true", help="let requests list, load and unload models")
    shared = (
        "let requests name system shared memory of this machine, as Triton's clients do: any that this user may open"
    )
    life.add_argument("--shared-memory", action="store_true", help=shared)
    life.add_argument("--watch", type=_seconds, default=2.0, metavar="S", help="look for a replaced bundle (0: never)")
    life.add_argument("--access-log", default="-", metavar="FILE", help="JSON lines (default -: stderr; none)")
    life.add_argument("--engine", choices=_ENGINES, default="auto", help="what runs it")
    life.add_argument("--precision", default="auto", metavar="P", help="which of its precisions, such as fp16")
    life.add_argument("--devices", type=devices, metavar="0,1,2", help="run its split on these; or whole on one GPU")
    eager = "TensorRT-RTX compiles its kernels for a new shape before the first call of it ends"
    life.add_argument("--eager-kernels", action="store_true", help=eager)
    life.add_argument("--threads", type=count(0), default=0, metavar="N", help="of ONNX Runtime (0: one per core)")


_ENGINES = ("auto", "tensorrt", "tensorrt_rtx", "onnxruntime")


def run(args: argparse.Namespace) -> None:
    """Serve until SIGTERM or SIGINT; a line on stderr says where.

    Raises:
        BundleError: PATH is neither a bundle nor a folder of some.
        EngineError: nothing here runs it, a port is taken, or an option does not fit another.
        CheckFailedError: requests were not answered within the grace time.

    """
    from plainconv.engines.serving.places import places_of
    from plainconv.engines.serving.running import serve

    options = options_of(args)
    ray_options_of(args)
    if not options.token and not _is_loopback(options.host):
        found = f"{options.host} lets other machines send requests, and no token is asked for"
        _say(f"exporter: warning: {found}; give --token-file, or see that the network does")
    is_bundle = (args.path / MANIFEST).exists() or not args.path.is_dir()
    places = places_of(args.path, args.name, read_manifest(args.path).name if is_bundle else "")
    _log_to_stderr()
    with loader_of(args) as (loader, give_up):
        serve(places, options, say=_say, loader=loader, give_up=give_up)


def options_of(args: argparse.Namespace) -> "ServeOptions":
    """The options as the server takes them. Raises EngineError where they do not fit together."""
    from plainconv.engines.serving.auth import token_of_file
    from plainconv.engines.serving.options import ServeOptions

    if (args.tls_cert is None) != (args.tls_key is None):
        raise EngineError("one of --tls-cert and --tls-key given; wanted both, or neither")
    for path in (args.tls_cert, args.tls_key):
        if path is not None and not path.is_file():
            raise EngineError(f"{path}: no such file; give PEM files as --tls-cert and --tls-key")
    token = token_of_file(args.token_file) if args.token_file else ""
    return ServeOptions(
        host=args.host,
        http_port=args.http_port,
        grpc_port=None if args.no_grpc else args.grpc_port,
        max_batch=args.max_batch,
        max_delay_us=args.max_delay_us,
        workers=args.workers,
        max_queue=args.max_queue,
        max_body=args.max_body * MIB,
        max_pending=args.max_pending * MIB,
        max_connections=args.max_connections,
        timeout_s=args.timeout,
        grace_s=args.grace,
        lame_duck_s=args.lame_duck,
        watch_s=args.watch,
        repository=args.repository_api,
        shared_memory=args.shared_memory,
        token=token,
        tls_cert=args.tls_cert,
        tls_key=args.tls_key,
        access_log="" if args.access_log == "none" else args.access_log,
        engine=args.engine,
        precision=args.precision,
        threads=args.threads,
        devices=args.devices,
        eager_kernels=args.eager_kernels,
    )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Formatter(logging.Formatter):
    """As the command line says what is wrong."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, and the stack where there is one."""
        return f"exporter: {record.levelname.lower()}: {super().format(record)}"


def _log_to_stderr() -> None:
    """What goes wrong, ours and the libraries', one line each where it is not a fault of the program."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter())
    for name in ("plainconv.serving", "uvicorn.error", "kserve", "grpc", "asyncio"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.ERROR if name == "uvicorn.error" else logging.WARNING)  # it warns of what anyone sends
        logger.propagate = False
        logger.handlers = [handler]


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port; wanted 0 to 65535")
    return int(text)
