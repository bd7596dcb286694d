"""A server under load: every answer is checked against its own input, memory and threads are watched, then SIGTERM.

    python tests/benchmarks/load_serve.py out/digits                    # 20,000 requests, 32 clients, 1 % malformed
    python tests/benchmarks/load_serve.py out/digits --options "--max-delay-us 0 --workers 2"
    python tests/benchmarks/load_serve.py out/digits --bundle-serve engines/cpp/build/bundle-serve

Half of the clients speak REST, half gRPC; requests have one to four rows where the bundle's batch is open. An answer is
wrong where it is further from the runner's own than a thousandth of the output's spread: requests that share a run are
rounded in another order. No two inputs of the pool have answers that near. After --requests requests the server gets
SIGTERM while the clients go on. What it took then is known from its access log: each request that it answered must have
arrived, and it must end with exit code 0.

Ends with exit code 1 where an answer is wrong, a sound request is refused, a malformed one is not, or one is dropped;
where memory grows by more than --growth MiB between the second fifth of the load and its end, or threads by more than
a few; where the server, told to stop, leaves one unanswered.
"""

import argparse
import collections
import http.client
import itertools
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from serving_client import LONG_S, Arrays, GrpcClient, RestClient, Server, Usage, body_of, serving, tensors_of
from serving_client import outputs_of as outputs_of_body
from tritonclient.grpc import InferenceServerException

from plainconv import engines
from plainconv.engines.bench import random_inputs
from plainconv.engines.serving.batch_axis import batch_axis
from plainconv.exporter.bundle import Bundle

CLOSE = 1e-3
INPUTS = 64
MALFORMED = 0.01
FEW_THREADS = 8  # a pool of threads, filled late
_GONE = ("StatusCode.UNAVAILABLE", "StatusCode.CANCELLED")
Pool = Sequence[tuple[Arrays, Arrays]]
BadRest = Callable[[bytes, dict[str, str]], tuple[bytes, dict[str, str]]]


class Load:
    """What the clients share, and what became of their requests."""

    def __init__(self, server: Server, name: str, pool: Pool) -> None:
        self.server, self.name, self.pool = server, name, pool
        self.told_to_stop = False
        self.numbers = itertools.count()
        self.outcomes: collections.Counter[str] = collections.Counter()
        self.examples: dict[str, str] = {}
        self.answered: set[str] = set()
        self._lock = threading.Lock()
        self._spread = spread_of(pool)

    def count(self, outcome: str, example: object = "", answered: str = "") -> None:
        """Note what became of a request; `answered` is its id where it got a result."""
        with self._lock:
            self.outcomes[outcome] += 1
            self.examples.setdefault(outcome, str(example)[:200])
            if answered:
                self.answered.add(answered)

    def rest(self, seed: int) -> None:
        """One REST client."""
        client, rng = RestClient(self.server.http), random.Random(seed)
        for number in self.numbers:
            inputs, wanted = self.pool[rng.randrange(len(self.pool))]
            body, headers = body_of(inputs, id=str(number))
            is_malformed = rng.random() < MALFORMED
            if is_malformed:
                body, headers = BAD_REST[number % len(BAD_REST)](body, headers)
            try:
                status, data, given = client.post(self.name, body, headers)
            except (OSError, http.client.HTTPException) as error:
                never_taken = self.told_to_stop and not client.is_reused
                self.count("not accepted" if never_taken else "DROPPED", repr(error))
            else:
                if is_malformed:
                    self.count("malformed, refused" if status == 400 else "WRONG: malformed, not refused", data)
                elif status != 200:
                    is_ending = status == 503 and self.told_to_stop
                    self.count("not accepted" if is_ending else f"WRONG: refused with {status}", data)
                else:
                    self._check(str(number), outputs_of_body(data, given), wanted)
                continue
            if self.told_to_stop:
                break
        client.close()

    def grpc(self, seed: int) -> None:
        """One gRPC client."""
        client, rng = GrpcClient(self.server.grpc), random.Random(seed)
        for number in self.numbers:
            inputs, wanted = self.pool[rng.randrange(len(self.pool))]
            tensors = tensors_of(inputs)
            is_malformed = rng.random() < MALFORMED
            if is_malformed:
                BAD_GRPC[number % len(BAD_GRPC)](tensors)
            try:
                result = client.infer_tensors(self.name, tensors, request_id=str(number))
            except InferenceServerException as error:
                if is_malformed and error.status() == "StatusCode.INVALID_ARGUMENT":
                    self.count("malformed, refused", error)
                elif self.told_to_stop and error.status() in _GONE:
                    self.count("not accepted", error)  # if it was, the access log tells
                    break
                else:
                    self.count("DROPPED" if error.status() in _GONE else f"WRONG: refused with {error.status()}", error)
                continue
            if is_malformed:
                self.count("WRONG: malformed, not refused", tensors)
            else:
                self._check(str(number), {name: result.as_numpy(name) for name in wanted}, wanted)
        client.close()

    def _check(self, number: str, given: Arrays, wanted: Arrays) -> None:
        is_right = distance(given, wanted, self._spread) <= CLOSE
        self.count("right" if is_right else "WRONG: another's answer", number, answered=number)


def _with_json(change: Callable[[dict[str, Any]], None]) -> BadRest:
    """A change of the JSON of a request."""

    def changed(body: bytes, headers: dict[str, str]) -> tuple[bytes, dict[str, str]]:
        length = int(headers["Inference-Header-Content-Length"])
        request = json.loads(body[:length])
        change(request)
        head = json.dumps(request).encode()
        return head + body[length:], {"Inference-Header-Content-Length": str(len(head))}

    return changed


BAD_REST: tuple[BadRest, ...] = (
    lambda body, headers: (body[:-1], headers),
    lambda body, headers: (body + b"\0", headers),
    lambda body, headers: (b"{" + body, {}),
    lambda body, headers: (body, {"Inference-Header-Content-Length": "-1"}),
    _with_json(lambda request: request.pop("inputs")),
    _with_json(lambda request: request["inputs"][0].update(name="another")),
    _with_json(lambda request: request["inputs"][0].update(datatype="FP64")),
    _with_json(lambda request: request["inputs"][0]["shape"].append(2)),
    _with_json(lambda request: request["inputs"][0]["shape"].__setitem__(-1, -1)),
    _with_json(lambda request: request["inputs"][0]["parameters"].update(binary_data_size=2**40)),
)
BAD_GRPC: tuple[Callable[[list[Any]], Any], ...] = (
    lambda tensors: tensors[0].set_shape([*tensors[0].shape(), 2]),
    lambda tensors: tensors[0].set_shape([-1, *tensors[0].shape()[1:]]),
    lambda tensors: setattr(tensors[0], "_raw_content", tensors[0]._raw_content[:-1]),
    lambda tensors: setattr(tensors[0]._input, "name", "another"),
    lambda tensors: setattr(tensors[0]._input, "datatype", "FP64"),
    lambda tensors: tensors.clear(),
)


def spread_of(pool: Pool) -> dict[str, float]:
    """The standard deviation of each output over the pool."""
    return {name: float(np.std(np.concatenate([wanted[name] for _, wanted in pool]))) or 1.0 for name in pool[0][1]}


def distance(given: Arrays, wanted: Arrays, spread: Arrays) -> float:
    """How far outputs are from those wanted, in units of their spread; infinite where shapes differ or with a NaN."""
    if any(given[name].shape != wanted[name].shape for name in wanted):
        return float("inf")
    found = max(float(np.abs(given[name] - wanted[name]).max()) / spread[name] for name in wanted)
    return found if found == found else float("inf")


def pool_of(folder: Path) -> Pool:
    """Inputs, and the answers of a runner in this process. No two answers are near each other."""
    bundle = Bundle.open(folder)
    rows = range(1, 5) if batch_axis(bundle.inputs, bundle.outputs) else (1,)
    with engines.load(bundle, "onnxruntime") as runner:
        inputs = [random_inputs(bundle.inputs, rows[seed % len(rows)], seed=seed) for seed in range(INPUTS)]
        pool = [(arrays, runner(arrays)) for arrays in inputs]
    spread = spread_of(pool)
    nearest = min(distance(a, b, spread) for (_, a), (_, b) in itertools.combinations(pool, 2))
    if nearest < 10 * CLOSE:
        wanted = f"wanted at least {10 * CLOSE:.0e}; give a trained network"
        raise SystemExit(f"two inputs have answers {nearest:.1e} of their spread apart, {wanted}")
    return pool


def main() -> int:
    """Print what became of the requests."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--requests", type=int, default=20_000, metavar="N", help="before SIGTERM (default 20000)")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--growth", type=float, default=8.0, metavar="MIB", help="of memory, at most (default 8)")
    parser.add_argument("--options", default="", help="of the server")
    parser.add_argument("--bundle-serve", type=Path, metavar="FILE", help="the server in C++, in the place of ours")
    args = parser.parse_args()
    pool = pool_of(args.bundle)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "access.jsonl"
        options = ["--name", "net", *args.options.split()]
        with serving(args.bundle, *options, log=str(log), bundle_serve=args.bundle_serve) as server:
            load = Load(server, "net", pool)
            clients = [
                threading.Thread(target=load.grpc if i % 2 else load.rest, args=(i,), daemon=True)
                for i in range(args.clients)
            ]
            start = time.monotonic()
            for client in clients:
                client.start()
            usage = watch(load, args.requests)
            seconds, before = time.monotonic() - start, sum(load.outcomes.values())
            load.told_to_stop = True
            server.process.send_signal(signal.SIGTERM)
            code = server.process.wait(LONG_S)
            for client in clients:
                client.join(LONG_S)
        logged = answered_in(log)
    print(f"{before} requests by {args.clients} clients in {seconds:.1f} s, {before / seconds:.0f} a second")
    print("memory of the server, MiB:", " ".join(f"{each.mib:.0f}" for each in usage))
    print("its threads:", " ".join(str(each.threads) for each in usage))
    for outcome, count in sorted(load.outcomes.items()):
        print(f"{count:8d} {outcome}  {load.examples[outcome]}".rstrip())
    hanging, lost = sum(client.is_alive() for client in clients), logged - load.answered
    print(f"after SIGTERM: {sum(load.outcomes.values()) - before} further requests, exit code {code}")
    print(f"the server logged {len(logged)} results, of which {len(lost)} did not arrive; {hanging} clients wait still")
    problems = [outcome for outcome in load.outcomes if outcome.startswith(("WRONG", "DROPPED"))]
    problems += growth(usage, args.growth)
    if lost or hanging or load.answered - logged:
        problems.append("results and the server's log differ, or clients hang")
    if code:
        problems.append(f"exit code {code}: {' '.join(server.lines[-3:])}")
    print("FAILED: " + "; ".join(problems) if problems else "every answer right, none dropped, memory flat")
    return int(bool(problems))


def growth(usage: Sequence[Usage], most_mib: float) -> list[str]:
    """What grew between the second fifth of the load and its end."""
    early, late = usage[len(usage) // 5 * 2], usage[-1]
    problems = []
    if late.mib - early.mib > most_mib:
        problems.append(f"memory grew by {late.mib - early.mib:.1f} MiB, at most {most_mib:g} wanted")
    if late.threads > early.threads + FEW_THREADS:
        problems.append(f"{late.threads} threads at the end, {early.threads} before")
    return problems


def watch(load: Load, requests: int) -> list[Usage]:
    """Until as many requests as wanted have ended: what the server holds, twenty times."""
    usage: list[Usage] = []
    while (done := sum(load.outcomes.values())) < requests:
        if done * 20 >= len(usage) * requests:
            usage.append(load.server.usage())
        time.sleep(0.01)
    return [*usage, load.server.usage()]


def answered_in(log: Path) -> set[str]:
    """The ids of the requests that the server says it gave a result."""
    lines = map(json.loads, log.read_text().splitlines())
    return {line["id"] for line in lines if line.get("status") in (200, "OK") and line.get("id")}


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # not held up by a client that hangs, which has been reported
