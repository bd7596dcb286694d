"""Whole-process wall time and peak memory of `exporter run` beside a bare torch.onnx.export + OnnxSlim.

    make bench-export                         # all four networks, three rounds
    python tests/benchmarks/bench_export.py vanillanet_6 --rounds 5

Both take the same training-form network with the same random weights; ours also reparameterizes, measures parity in
float64, builds a TensorRT-RTX engine and writes the bundle. The two run in turn (A B A B …); what is compared is the
median of the pairwise ratios.
"""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

NETWORKS = ("vanillanet_6", "vanillanet_13", "parnet_l", "vanillanet_13_x1_5")

BARE = """
import sys
import onnxslim
import torch
from plainconv import models
from plainconv.exporter.source.randomize import randomized

torch.manual_seed(0)
image = torch.randn(1, 3, 224, 224)
module = randomized(models.create(sys.argv[1]), 0, image)
program = torch.onnx.export(module, (image,), dynamo=True, verbose=False)
program.save(sys.argv[2])
onnxslim.slim(sys.argv[2], sys.argv[2])
"""


@dataclass(frozen=True)
class Run:
    """One process: seconds from start to end, and the largest resident set of it or a child, in MiB."""

    seconds: float
    peak_mib: float


def measured(command: list[str]) -> Run:
    """Run the command with its output discarded. Raises SystemExit if it fails."""
    started = time.perf_counter()
    with open(os.devnull, "wb") as nowhere:
        pid = os.posix_spawn(
            command[0],
            command,
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, nowhere.fileno(), 1),
                (os.POSIX_SPAWN_DUP2, nowhere.fileno(), 2),
            ],
        )
        _, status, usage = os.wait4(pid, 0)
    seconds = time.perf_counter() - started
    if status:
        raise SystemExit(f"{' '.join(command[:4])} … failed with {os.waitstatus_to_exitcode(status)}")
    return Run(seconds, usage.ru_maxrss / 1024)


def compare(name: str, rounds: int, folder: Path) -> str:
    """One row of the table."""
    exporter = str(Path(sys.executable).with_name("exporter"))
    ours, bare = [], []
    for i in range(rounds):
        out = folder / f"{name}-{i}"
        ours.append(measured([exporter, "run", name, "--random-init", "0", "-o", str(out), "--quiet"]))
        shutil.rmtree(out)
        bare.append(measured([sys.executable, "-c", BARE, name, str(folder / "bare.onnx")]))
        for file in folder.glob("bare.onnx*"):
            file.unlink()
    wall = statistics.median(a.seconds / b.seconds for a, b in zip(ours, bare, strict=True))
    memory = statistics.median(a.peak_mib / b.peak_mib for a, b in zip(ours, bare, strict=True))
    mid = statistics.median
    return (
        f"| {name} | {mid(r.seconds for r in ours):.1f} s | {mid(r.seconds for r in bare):.1f} s | {wall:.2f}× "
        f"| {mid(r.peak_mib for r in ours):.0f} MiB | {mid(r.peak_mib for r in bare):.0f} MiB | {memory:.2f}× |"
    )


def main() -> None:
    """Print the table, a row as soon as it is measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    print("| network | ours, wall | bare, wall | ratio | ours, peak | bare, peak | ratio |")
    print("|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in args.networks:
            print(compare(name, args.rounds, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
