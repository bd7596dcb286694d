"""What a request costs where `exporter serve --ray` has its replica on another host.

    python tests/benchmarks/bench_ray_hosts.py                # as root
    python tests/benchmarks/bench_ray_hosts.py --rounds 100

The hosts are network namespaces of this machine, joined by a switch (tests/helpers/ray_hosts.py), so that what is
measured is Ray's work and, where the link is held to a rate (`tc`'s token bucket), the time of the bytes; not a real
network's delay. The client is on the front end's host. Requests are one row, one after the other, binary tensors over
REST, to the digits VanillaNet (4 KiB) and to the same with three channels of 224×224 (588 KiB). In turn, every other
round backwards: without Ray, with the replica on the front end's host, and with it on the other host.
"""

import argparse
import contextlib
import functools
import sys
import tempfile
import threading
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "helpers"))
import ray_hosts
from bench_serve import added_ms, both, interleaved
from ray_hosts import Hosts
from serving_client import RestClient

from plainconv.engines.bench import machine, random_inputs
from plainconv.exporter.bundle import Bundle
from plainconv.exporter.pipeline.export import Job, export_bundle
from plainconv.exporter.progress import be_quiet
from plainconv.exporter.source.network import Request

CHECKPOINT = Path(__file__).parents[1] / "assets/vanillanet_digits.pth"
LINKS = {"as it is": (), "1 Gbit/s": ("rate", "1gbit"), "100 Mbit/s": ("rate", "100mbit")}
BUCKET = ("burst", "64kb", "latency", "1s")
PORTS = {"local": 8000, "near": 8001, "far": 8002}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=300)
    args = parser.parse_args()
    if reason := ray_hosts.why_not():
        raise SystemExit(f"there can be no hosts here: {reason}")
    be_quiet()
    here = machine()
    print(f"{here['cpu']}, {here['cores']} cores, load {here['load']}\n")
    print("| input | link | without Ray, ms | replica on this host, ms | added | on the other, ms | added |")
    print(f"|{'---|' * 7}")
    with tempfile.TemporaryDirectory() as folder, Hosts(1, 2) as hosts:
        small, large = Path(folder) / "small", Path(folder) / "large"
        export_bundle(Job("vanillanet_digits", Request(checkpoint=CHECKPOINT), small, end_to_end=False))
        pixels = Request(random_init=0, options={"in_channels": 3}, input_shape=(1, 3, 224, 224))
        export_bundle(Job("vanillanet_digits", pixels, large, end_to_end=False))
        for path in (small, large):
            measure(hosts, path, args.rounds)


def measure(hosts: Hosts, path: Path, rounds: int) -> None:
    """One line of the table for each link."""
    head, other = hosts.all
    named = ("--name", "net", "--engine", "onnxruntime")
    with contextlib.ExitStack() as held:
        # the other host has two processors, so that the first replica goes there, and then the second has to stay here
        far = ("--cpus-per-replica", "2", "--http-port", str(PORTS["far"]))
        held.enter_context(hosts.serving(path, *named, *far))
        held.enter_context(hosts.serving(path, *named, "--http-port", str(PORTS["near"])))
        held.enter_context(hosts.serving(path, *named, "--http-port", str(PORTS["local"]), ray=False))
        assert len(head.replicas) == len(other.replicas) == 1
        for link, shape in LINKS.items():
            if shape:
                other.shape("tbf", *shape, *BUCKET)
            asking = threading.Thread(target=ask, args=(hosts, path, link, rounds))
            asking.start()
            asking.join()
        other.shape()


def ask(hosts: Hosts, path: Path, link: str, rounds: int) -> None:
    """Print one line, in a thread of its own: it goes over to the first host."""
    hosts.all[0].enter()
    inputs = random_inputs(Bundle.open(path).inputs, 1)
    clients = {name: RestClient(f"127.0.0.1:{port}") for name, port in PORTS.items()}
    ways = {name: functools.partial(client.infer, "net", inputs) for name, client in clients.items()}
    samples = interleaved(ways, rounds)
    cells = ["×".join(map(str, next(iter(inputs.values())).shape)), link, both(samples["local"])]
    for way in ("near", "far"):
        cells += [both(samples[way]), f"{added_ms(samples[way], samples['local']):.2f}"]
    print(f"| {' | '.join(cells)} |", flush=True)
    for client in clients.values():
        client.close()


if __name__ == "__main__":
    main()
