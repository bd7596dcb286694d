"""What `exporter serve` costs: a request over REST and over gRPC beside a call of the runner in this process.

    python tests/benchmarks/bench_serve.py                      # the networks below; goals are said beside the figures
    python tests/benchmarks/bench_serve.py out/digits out/v6    # any bundles
    python tests/benchmarks/bench_serve.py --rounds 30 --seconds 1 --options "--max-delay-us 0"
    python tests/benchmarks/bench_serve.py --bundle-serve BUILD/bundle-serve      # the server in C++ in its place

The networks: both of tests/assets as they were trained, 1×1×32×32; the same with random weights for 3×224×224 float32
pixels, 602,112 bytes a request; and vanillanet_5 with random weights. Each is exported with its batch open, 1 to 32,
and served by ONNX Runtime on the CPU with as many threads as here.

Latency: `--rounds` rounds of one call of the runner, one request over REST (binary tensors), one over gRPC, one over
both with its tensors in shared memory, in turn and every other round backwards, from arrays to arrays. `added` is the
median over the rounds of what a request took beyond its round's call, the client's own work included. Each answer is
compared with the runner's. This process keeps the memory that it frees: glibc else gives the copies of a request back
to the kernel and takes them again, 500 page faults a request of Triton's client, 1.2 ms which are not the server's.
--trim leaves it at that.

Throughput: requests of one row in `--seconds`, longer where they are few, by 1, 8 and 32 clients, half of them over
each protocol (one: REST), with batches as by default and with none (--max-batch 1). The clients are threads of one
process on the server's own cores.
"""

import argparse
import contextlib
import functools
import gc
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from serving_client import Arrays, GrpcClient, RestClient, Server, SharedClient, serving

from plainconv import engines
from plainconv.engines.bench import Samples, machine, random_inputs
from plainconv.exporter.bundle import Bundle
from plainconv.exporter.memory import keep_freed
from plainconv.exporter.pipeline.export import Job, export_bundle
from plainconv.exporter.progress import be_quiet
from plainconv.exporter.source.network import Request

ASSETS = Path(__file__).parents[1] / "assets"
BATCHES = (1, 8, 32)
CLIENTS = (1, 8, 32)
MODES = {"on": (), "off": ("--max-batch", "1", "--max-delay-us", "0")}
PIXELS = (1, 3, 224, 224)
WARMUP = 20
ANSWERS = 4  # of each client, at least, in a throughput
POLL_S = 0.01
GOALS = "Goals, added: 2.5 ms over REST, 1.5 ms over gRPC, .4 ms with shared memory; at vanillanet_5 15 % of the call."
WAYS = ("rest", "grpc", "rest, shared", "grpc, shared")


def main() -> None:
    """Print the tables, a network as soon as it is measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="*", type=Path)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each throughput (default 5; 0: none)")
    parser.add_argument("--threads", type=int, default=0, help="of ONNX Runtime, here and in the server")
    parser.add_argument("--options", default="", help="of `exporter serve`, for the latency")
    parser.add_argument("--bundle-serve", type=Path, help="the server in C++, in the place of `exporter serve`")
    parser.add_argument("--trim", action="store_true", help="give freed memory back at once, as programs do")
    args = parser.parse_args()
    be_quiet()
    if not args.trim:
        keep_freed(2**30)
    here = machine()
    print(
        f"{here['cpu']}, {here['cores']} cores, load {here['load']}; ONNX Runtime {onnxruntime.__version__}\n{GOALS}\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        bundles = args.bundles or networks(Path(folder))
        run = functools.partial(serving, bundle_serve=args.bundle_serve)
        threads = ("--threads", str(args.threads), "--backend" if args.bundle_serve else "--engine", "onnxruntime")
        names = ("REST", "gRPC", "REST, shared memory", "gRPC, shared memory")
        print(f"| network | input | in process, ms | {' | '.join(f'{name}, ms | added' for name in names)} |")
        print(f"|{'---|' * (3 + 2 * len(names))}")
        for path in bundles:
            with run(path, "--name", "net", "--shared-memory", *threads, *args.options.split()) as server:
                print(latency_row(Bundle.open(path), server, args.rounds, args.threads), flush=True)
        if not args.seconds:
            return
        print(f"\n| network | batches | {' | '.join(f'{n} clients, requests a second' for n in CLIENTS)} |")
        print("|---|---|---|---|---|")
        for path in bundles:
            for mode, options in MODES.items():
                with run(path, "--name", "net", *threads, *options) as server:
                    print(throughput_row(Bundle.open(path), server, mode, args.seconds), flush=True)


def networks(folder: Path) -> list[Path]:
    """The bundles that are measured where none is given."""
    digits = ("vanillanet_digits", "parnet_digits")
    pixels = Request(random_init=0, options={"in_channels": 3}, input_shape=PIXELS)
    jobs = {
        **{name: (name, Request(checkpoint=ASSETS / f"{name}.pth")) for name in digits},
        **{f"{name}, 3 channels": (name, pixels) for name in digits},
        "vanillanet_5": ("vanillanet_5", Request(random_init=0)),
    }
    for name, (source, request) in jobs.items():
        job = Job(source, request, folder / name, dynamic_batch=BATCHES, end_to_end=False)
        export_bundle(job)
    return [folder / name for name in jobs]


def latency_row(bundle: Bundle, server: Server, rounds: int, threads: int) -> str:
    """One line of the table of latencies: p50 and p99 of each way, and what a request adds."""
    inputs = random_inputs(bundle.inputs, 1)
    with engines.load(bundle, "onnxruntime", threads=threads) as runner, contextlib.ExitStack() as held:
        outputs = runner(inputs)
        clients: list[Any] = [
            RestClient(server.http),
            GrpcClient(server.grpc),
            SharedClient("http", server.http, inputs, outputs),
            SharedClient("grpc", server.grpc, inputs, outputs),
        ]
        ways: dict[str, Callable[[], Arrays]] = {"local": lambda: runner(inputs)}
        for way, client in zip(WAYS, clients, strict=True):
            held.callback(client.close)
            ways[way] = functools.partial(client.infer, "net", inputs)
        samples = interleaved(ways, rounds)
    cells = [bundle.folder.name, "×".join(map(str, next(iter(inputs.values())).shape)), both(samples["local"])]
    for way in WAYS:
        added = added_ms(samples[way], samples["local"])
        cells += [both(samples[way]), f"{added:.2f} ({added / samples['local'].percentile(50):.1%})"]
    return f"| {' | '.join(cells)} |"


def interleaved(ways: dict[str, Callable[[], Arrays]], rounds: int) -> dict[str, Samples]:
    """Milliseconds of single calls of each way, one of each a round. Raises AssertionError where answers differ."""
    wanted = ways["local"]()
    for call in ways.values():
        for _ in range(WARMUP):
            for name, array in call().items():
                np.testing.assert_allclose(array, wanted[name], rtol=1e-4, atol=1e-4 * float(np.std(wanted[name])))
    turns: dict[str, list[tuple[float, ...]]] = {name: [] for name in ways}
    order = list(ways)
    gc.disable()
    for _ in range(rounds):
        for name in order:
            start = time.perf_counter()
            ways[name]()
            turns[name].append(((time.perf_counter() - start) * 1e3,))
        order.reverse()
    gc.enable()
    return {name: Samples(tuple(of_way)) for name, of_way in turns.items()}


def added_ms(request: Samples, call: Samples) -> float:
    """The median over the rounds of what a request took beyond its round's call."""
    return statistics.median(a - b for a, b in zip(request.milliseconds, call.milliseconds, strict=True))


def both(samples: Samples) -> str:
    """The median, and the 99th percentile after it."""
    return f"{samples.percentile(50):.2f} (p99 {samples.percentile(99):.2f})"


def throughput_row(bundle: Bundle, server: Server, mode: str, seconds: float) -> str:
    """One line of the table of throughputs."""
    inputs = random_inputs(bundle.inputs, 1)
    rates = [throughput(server, inputs, count, seconds) for count in CLIENTS]
    return f"| {bundle.folder.name} | {mode} | {' | '.join(f'{rate:.0f}' for rate in rates)} |"


def throughput(server: Server, inputs: Arrays, clients: int, seconds: float) -> float:
    """Requests a second by so many clients, after a fifth of the time to warm up."""
    counts = [0] * clients
    end = threading.Event()

    def ask(index: int, client: Any) -> None:
        while not end.is_set():
            client.infer("net", inputs)
            counts[index] += 1
        client.close()

    made = [GrpcClient(server.grpc) if i % 2 else RestClient(server.http) for i in range(clients)]
    threads = [threading.Thread(target=ask, args=each, daemon=True) for each in enumerate(made)]
    for thread in threads:
        thread.start()
    time.sleep(seconds / 5)
    before, start = sum(counts), time.perf_counter()
    while time.perf_counter() - start < seconds or sum(counts) - before < ANSWERS * clients:
        time.sleep(POLL_S)
    rate = (sum(counts) - before) / (time.perf_counter() - start)
    end.set()
    for thread in threads:
        thread.join()
    return rate


if __name__ == "__main__":
    main()
