"""What splitting a network is expected to bring, on 1 to 4 devices over PCIe and NVLink and on streams of one device.

    python tests/benchmarks/table_splits.py                         # parnet_s, parnet_l, timm:hrnet_w18 (if installed)
    python tests/benchmarks/table_splits.py parnet_m out/mine       # any SOURCE, random weights, or any bundle
    python tests/benchmarks/table_splits.py --edges parnet_l        # and each copy: value, bytes, from where to where

Nothing is timed: times are those of the planner's model of an A100 at batch 1 in fp32. `path` is the share of the
multiply-accumulates on the longest path, `again` what is computed more than once, `bound` the speed-up if nothing were
sent or launched, `pays from` the seconds that the whole must take for the split to be as fast.
"""

import argparse
import importlib.util
import tempfile
from collections.abc import Iterator
from pathlib import Path

from plainconv.exporter.bundle import Bundle
from plainconv.exporter.partition import LINKS, Proposal, network_of_model, propose, read_model
from plainconv.exporter.partition.picture import size
from plainconv.exporter.partition.planner import micro
from plainconv.exporter.pipeline.export import Job, export_bundle
from plainconv.exporter.progress import be_quiet
from plainconv.exporter.source.network import Request

NETWORKS = ("parnet_s", "parnet_l", "timm:hrnet_w18")
WAYS = [("1 device, 2 streams", None, 2), ("1 device, 3 streams", None, 3)] + [
    (f"{devices} devices, {link}", link, devices) for link in LINKS for devices in (2, 3, 4)
]
HEAD = (
    "| network | on | parts | copies | sent | path | again | predicted | whole | speed-up | bound | pays from |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|---|"
)


def main() -> None:
    """Print the table, a network as soon as it is planned."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    parser.add_argument("--edges", action="store_true", help="list the copies")
    args = parser.parse_args()
    be_quiet()
    print(HEAD, flush=True)
    for name in args.networks:
        if name.startswith("timm:") and importlib.util.find_spec("timm") is None:
            print(f"| {name} | timm is not installed |{' |' * 10}", flush=True)
            continue
        with tempfile.TemporaryDirectory() as folder:
            for line in rows(name, bundle_of(name, Path(folder)), edges=args.edges):
                print(line, flush=True)


def bundle_of(name: str, folder: Path) -> Bundle:
    """The bundle at `name`, or one of that SOURCE with random weights."""
    if Path(name).is_dir():
        return Bundle.open(name)
    job = Job(source=name, request=Request(random_init=0), target=folder / "bundle", end_to_end=False)
    return Bundle.open(export_bundle(job))


def rows(name: str, bundle: Bundle, *, edges: bool) -> Iterator[str]:
    """The lines of one network."""
    model = read_model(bundle.onnx)
    networks = {link: network_of_model(model, link=LINKS[link]) for link in LINKS}
    for where, link, count in WAYS:
        on_one = link is None
        network = networks[link or "pcie"]
        proposal = propose(network, streams=count) if on_one else propose(network, devices=count)
        yield row(name, where, proposal)
        for edge in proposal.prediction.edges if edges and proposal.prediction else ():
            what = f"{edge.value}: {edge.source or 'input'} → device {edge.device}"
            yield f"|  | {what} |  |  | {size(edge.bytes)} |{' |' * 7}"


def row(name: str, where: str, proposal: Proposal) -> str:
    """One line of the table."""
    plan, predicted = proposal.plan, proposal.prediction
    if plan is None or predicted is None:
        return f"| {name} | {where} | not split: {proposal.refusal} |{' |' * 9}"
    used = f" (uses {plan.devices})" if 1 < plan.devices < int(where[0]) else ""
    cells = [
        name,
        where + used,
        len(plan.parts),
        len(predicted.edges),
        size(predicted.sent),
        f"{predicted.mac_path:.1%}",
        f"{predicted.work - 1:.1%}",
        micro(predicted.seconds),
        micro(predicted.whole),
        f"{predicted.speedup:.2f}×",
        f"{predicted.bound:.2f}×",
        micro(predicted.break_even),
    ]
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    main()
