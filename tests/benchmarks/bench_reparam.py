"""Wall time and memory of `reparameterize` beside one `torch.export.export` of the same module in the same process.

    make bench-reparam                                           # mobileone_s0 only where timm is installed
    python tests/benchmarks/bench_reparam.py parnet_l --rounds 5

Each network has a process of its own, in which a small network of the same kind goes through everything first.
`export` and `ours` are medians of interleaved rounds; `without the check` leaves the end-to-end comparison out. `peak`
is the largest resident set of one run beyond that of the process before it made the module, as a multiple of the
module's parameters in float32; the module is counted in.
"""

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

NETWORKS = {
    "vanillanet_13": "vanillanet_5",
    "parnet_l": "parnet_s",
    "repvgg_b1g4": "repvgg_a0",
    "timm:mobileone_s0": "repvgg_a0",
}
"""Each, and the one that goes first."""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measured(args.one, args.rounds)))
        return
    print("| network | export, s | ours, s | ours / export | without the check / export | peak |")
    print("|---|---|---|---|---|---|", flush=True)
    for name in args.networks or NETWORKS:
        if name.startswith("timm:") and find_spec("timm") is None:
            print(f"| {name} | timm is not installed |", flush=True)
            continue
        command = [sys.executable, __file__, "--one", name, "--rounds", str(args.rounds)]
        m = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        print(
            f"| {name} | {m['export']:.2f} | {m['ours']:.2f} | {m['ours'] / m['export']:.2f}× "
            f"| {m['unchecked'] / m['export']:.2f}× | {m['peak']:.2f}× |",
            flush=True,
        )


def measured(name: str, rounds: int) -> dict[str, float]:
    """Seconds and peak of one network, in this process."""
    import torch

    from plainconv.exporter import reparameterize

    image = torch.randn(1, 3, 224, 224)
    small = network(NETWORKS.get(name, "repvgg_a0"))
    torch.export.export(small, (image,))
    reparameterize(small, image)
    del small
    before = resident()
    module = network(name)
    parameters = sum(p.numel() for p in module.parameters()) * 4
    peak = peak_of(lambda: reparameterize(module, image)) - before
    exports, ours, unchecked = [], [], []
    for _ in range(rounds):
        exports.append(seconds(lambda: torch.export.export(module, (image,))))
        ours.append(seconds(lambda: reparameterize(module, image)))
        unchecked.append(seconds(lambda: reparameterize(module, image, check=False)))
    return {
        "export": statistics.median(exports),
        "ours": statistics.median(ours),
        "unchecked": statistics.median(unchecked),
        "peak": peak / parameters,
    }


def network(name: str) -> Any:
    """The network in eval mode, with random weights."""
    if name.startswith("timm:"):
        import timm

        return timm.create_model(name.removeprefix("timm:")).eval()
    from plainconv.models import create

    return create(name).eval()


def seconds(call: Callable[[], Any]) -> float:
    """How long the call takes."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def peak_of(call: Callable[[], Any]) -> int:
    """The largest resident set during the call, sampled every few milliseconds."""
    peak, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.003):
            peak[0] = max(peak[0], resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    call()
    done.set()
    watcher.join()
    return peak[0]


if __name__ == "__main__":
    main()
