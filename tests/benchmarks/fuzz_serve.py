"""`exporter serve` given what nobody means to send, ten thousand times and more: no fault, no hang, and it serves on.

    pip install schemathesis
    python tests/benchmarks/fuzz_serve.py                               # each kind 2,000 times
    python tests/benchmarks/fuzz_serve.py --examples 200 --kinds rest-infer,grpc-infer --seed 7

Each kind's requests come in blocks of a hundred. None may be answered with 5xx, INTERNAL or UNKNOWN, all that are
refused get one sentence, and none waits a minute. After each block good requests over both protocols get their own
answers, and the server has written nothing to its log but lines of its own: no stack, nothing that a sender chose.
Memory and threads are shown from before, after each kind, and at the end.

    rest-infer     inferences over REST: JSON and binary tensors with something in them changed, or bytes of them
    rest-other     other paths and methods, the repository's among them
    rest-schema    what schemathesis makes of the protocol's OpenAPI document, valid and not (serving_openapi)
    http-bytes     damaged HTTP
    grpc-infer     ModelInferRequests with anything in any field, or bytes of them
    grpc-other     other methods, any bytes
    http2-bytes    damaged HTTP/2 on gRPC's port

The requests are those of tests/engines/serving/fuzz_requests. A seed gives the same requests again; what fails is made
smaller, printed, and ends its block. Ends with exit code 1 where anything failed.
"""

import argparse
import contextlib
import itertools
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import hypothesis
from hypothesis import HealthCheck, Phase, given, settings
from serving_client import GrpcClient, Server, serving
from serving_openapi import document
from tritonclient.grpc import service_pb2

sys.path.append(str(Path(__file__).parents[1] / "helpers"))
import fuzz_requests as fuzz
from serving_bundles import make_bundle

SERVICE = "/inference.GRPCInferenceService"
BLOCK = 100
OWN_LINE = re.compile(r"exporter: (warning|error): [\x20-\x7e]*", re.IGNORECASE)
QUIET = settings(
    database=None,
    deadline=None,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
    print_blob=False,
)


@dataclass
class Target:
    """A server, and what it has answered."""

    server: Server
    channel: Any
    statuses: Counter[str]

    def note(self, status: object) -> None:
        """Count an answer."""
        self.statuses[str(status)] += 1


Kind = tuple[Any, Callable[[Target, Any], list[str]]]
"""A strategy, and what is wrong with the answer to what it draws."""


def main() -> int:
    """Print what was answered."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=2000, metavar="N", help="of each kind (default 2000)")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bundle-serve", type=Path, metavar="FILE", help="the server in C++, in the place of ours")
    args = parser.parse_args()
    failures: list[str] = []
    sent = 0
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder)
        make_bundle(store / "open")
        make_bundle(store / "one", batch=1, scale=2.0)
        options = ("--repository-api", "--max-body", "1", "--max-batch", "8", "--threads", "1")
        started = serving(store, *options, bundle_serve=args.bundle_serve)
        with started as server, grpc.insecure_channel(server.grpc) as channel:
            mib, threads = [server.usage().mib], [server.usage().threads]
            for name in args.kinds.split(","):
                target, start = Target(server, channel, Counter()), time.monotonic()
                found = [*fuzzed(target, KINDS[name](server), args.examples, args.seed)]
                mib.append(server.usage().mib)
                threads.append(server.usage().threads)
                sent += sum(target.statuses.values())
                answers = ", ".join(f"{count} {status}" for status, count in sorted(target.statuses.items()))
                print(f"{name}: {answers}; {len(found)} failures; {time.monotonic() - start:.0f} s", flush=True)
                failures += [f"{name}: {each}" for each in found]
        print(f"{sent} requests; memory, MiB: {' '.join(f'{each:.0f}' for each in mib)}; threads: {threads}")
        print(f"exit code after SIGTERM: {server.process.returncode}")
        lines = [line for line in server.lines if not line.startswith("serving")]
        print(f"{len(lines)} lines in its log", *lines[:5], sep="\n    ")
    for failure in failures:
        print(f"FAILED {failure}")
    return int(bool(failures) or server.process.returncode != 0)


def fuzzed(target: Target, kind: Kind, examples: int, seed: int) -> Iterator[str]:
    """What failed, block by block."""
    strategy, problems = kind
    for block in range(-(-examples // BLOCK)):

        @hypothesis.seed(seed * 1_000_003 + block)
        @settings(QUIET, max_examples=min(BLOCK, examples - block * BLOCK))
        @given(request=strategy)
        def ask(request: Any) -> None:
            found = problems(target, request)
            assert not found, found

        seen = len(target.server.lines)
        try:
            ask()
        except (AssertionError, OSError, ExceptionGroup) as error:
            yield f"block {block}: {type(error).__name__}: {error} {getattr(error, '__notes__', '')}"[:2000]
        if target.server.process.poll() is not None:
            yield f"block {block}: the server ended"
            return
        yield from (f"after block {block}: {problem}" for problem in afterwards(target))
        foreign = [line for line in target.server.lines[seen:] if not OWN_LINE.fullmatch(line)]
        yield from (f"block {block}: {len(foreign)} lines in the log like {line!r}"[:500] for line in foreign[:1])


def afterwards(target: Target) -> Iterator[str]:
    """What is wrong with the answers to good requests."""
    with contextlib.suppress(grpc.RpcError):  # of a load, which may be what is wrong: the next lines tell
        target.channel.unary_unary(f"{SERVICE}/RepositoryModelLoad")(b"\x12\x03one", timeout=fuzz.LONG_S)
    for model, wanted in fuzz.GOOD_ANSWER.items():
        if not fuzz.is_serving(target.server.http, model):
            yield f"REST does not serve {model}"
        client = GrpcClient(target.server.grpc)
        with contextlib.closing(client):
            given_y = client.infer(model, {"x": fuzz.X})["y"]
        if given_y.tolist() != [wanted]:
            yield f"gRPC gives {given_y.tolist()} for {model}"


def _rest(target: Target, request: Any) -> list[str]:
    received = fuzz.exchanged(target.server.http, request.bytes)
    target.note(received[9:12].decode("latin-1") or "none")
    return list(fuzz.rest_problems(request, received))


def _http_bytes(target: Target, data: bytes) -> list[str]:
    statuses = fuzz.statuses_of(fuzz.exchanged(target.server.http, data, half_closed=True))
    target.note("+".join(map(str, sorted(statuses))) or "closed")
    return [f"status {status}" for status in statuses if status >= 500]


def _http2_bytes(target: Target, data: bytes) -> list[str]:
    fuzz.exchanged(target.server.grpc, data, half_closed=True)
    target.note("closed")
    return []


def _grpc_infer(target: Target, data: bytes) -> list[str]:
    return _grpc_other(target, ("ModelInfer", data))


def _grpc_other(target: Target, call: tuple[str, bytes]) -> list[str]:
    method, data = call
    code, details = "OK", None
    try:
        target.channel.unary_unary(f"{SERVICE}/{method}")(data, timeout=fuzz.LONG_S)
    except grpc.RpcError as error:
        code, details = error.code().name, error.details()
    target.note(code)
    return list(fuzz.grpc_problems(data, code, details))


def _schema(server: Server) -> Kind:
    """Schemathesis' cases of every operation, valid ones and others, against what the document says is answered."""
    try:
        import schemathesis  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        raise SystemExit("schemathesis is not installed: pip install schemathesis, or give other --kinds") from None
    schema = schemathesis.openapi.from_dict(document())
    operations = [result.ok() for result in schema.get_all_operations()]
    strategies = itertools.product(operations, schemathesis.GenerationMode)
    checks = [schemathesis.checks.not_a_server_error]

    def problems(target: Target, case: Any) -> list[str]:
        response = case.call(base_url=f"http://{server.http}", timeout=fuzz.LONG_S)
        target.note(response.status_code)
        try:
            case.validate_response(response, checks=checks)
        except AssertionError as error:
            return [str(error)]
        if response.status_code >= 400 and case.method != "HEAD":
            return list(fuzz.sentence_problems(fuzz.error_of(response.content)))
        return []

    return hypothesis.strategies.one_of(
        *(each.as_strategy(generation_mode=mode) for each, mode in strategies)
    ), problems


KINDS: Mapping[str, Callable[[Server], Kind]] = {
    "rest-infer": lambda server: (fuzz.rest_infers(), _rest),
    "rest-other": lambda server: (fuzz.rest_others(), _rest),
    "rest-schema": _schema,
    "http-bytes": lambda server: (fuzz.HTTP_BYTES, _http_bytes),
    "grpc-infer": lambda server: (fuzz.grpc_infers(service_pb2), _grpc_infer),
    "grpc-other": lambda server: (fuzz.GRPC_OTHERS, _grpc_other),
    "http2-bytes": lambda server: (fuzz.HTTP2_BYTES, _http2_bytes),
}

if __name__ == "__main__":
    sys.exit(main())
