"""One row per network of the papers beyond their ImageNet classifiers: what `exporter run` made of it.

python tests/benchmarks/table_papers.py                       # the whole list; large networks take minutes each
python tests/benchmarks/table_papers.py alexnet retinanet_vanillanet_13@1,3,800,1280

NAME@N,C,H,W runs at that size. Weights and statistics are random (seed 0), those of the digits trained.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from plainconv.models import entries

ASSETS = Path(__file__).resolve().parents[1] / "assets"
PRINTED = {
    "parnet_m_depth9": 25, "parnet_m_depth15": 46, "parnet_l_depth9": 39, "parnet_l_depth15": 71,
    "parnet_xl_depth9": 60, "parnet_xl_depth15": 110, "parnet_m_1stream": 36, "parnet_m_2streams": 36,
    "parnet_m_4streams": 36, "parnet_ensemble_2": 72, "parnet_ensemble_3": 108, "resnet12_wide": 39.0,
    "resnet12_wide_sse": 39.0, "parnet_cifar10_32": 1.3, "parnet_cifar10_112": 15.5, "parnet_cifar10_168": 35,
    "parnet_cifar100_32": 1.3, "parnet_cifar100_112": 15.5, "parnet_cifar100_168": 35,
    "retinanet_vanillanet_13": 74.6, "mask_rcnn_vanillanet_13": 76.3,
}  # fmt: skip
"""Millions of parameters in the papers' tables; the detectors' are of series activations of n = 3, published are 4."""
NETWORKS = (
    *(name for name in PRINTED if "vanillanet" not in name),
    "parnet_m_no_gates",
    "alexnet",
    "resnet_50",
    *(f"{name}_digits" for name in ("vanillanet", "parnet", "resnet")),
    "digits_detector",
    "digits_segmenter",
    *(f"{name}@1,3,256,256" for name in ("retinanet_vanillanet_13", "mask_rcnn_vanillanet_13")),
    *(f"{name}@1,3,256,256" for name in ("parnet_xl_yolo", "parnet_xl_csp_yolo")),
)
HEAD = (
    "| network | input | plain M (paper's) | plain GMACs | ONNX nodes | norms left | parity | engine | correct "
    "| seconds, peak GB |\n|---|---|---|---|---|---|---|---|---|---|"
)


def row(asked: str, folder: Path) -> str:
    """Run the whole job once, without an engine where the builder refuses the network, and tell what came out."""
    name, _, shape = asked.partition("@")
    weights = ["--random-init", "0"]
    if (ASSETS / f"{name}.pth").exists():
        held_out = ["--eval-data", str(ASSETS / "digits_heldout.npz")] if name.endswith("_digits") else []
        weights = ["--checkpoint", str(ASSETS / f"{name}.pth"), *held_out]
    command = ["run", name, *weights, "-o", str(folder / "b"), "--json", *(["--input-shape", shape] if shape else [])]
    code, out, said, used = run(command)
    refused = ""
    if code:
        refused = said
        code, out, said, used = run([*command, "--engine", "none"])
    if code not in (0, 1) or not out:
        return f"| {asked} | failed with {code}: {said} |"
    return f"| {' | '.join(cells(name, json.loads(out), refused, used))} |"


def run(arguments: Sequence[str]) -> tuple[int, str, str, str]:
    """Exit status, stdout, the last line of stderr, and seconds and gigabytes, of the exporter."""
    exporter = Path(sys.executable).with_name("exporter")
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        started = os.times().elapsed
        process = subprocess.Popen([str(exporter), *arguments], stdout=out, stderr=err, text=True)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = os.times().elapsed - started
        out.seek(0)
        err.seek(0)
        lines = err.read().strip().splitlines() or [""]
        used = f"{seconds:.0f}, {usage.ru_maxrss / 2**20:.1f}"
        return os.waitstatus_to_exitcode(status), out.read(), lines[-1].replace("|", "/"), used


def cells(name: str, result: Mapping[str, Any], refused: str, used: str) -> list[str]:
    """The row's cells from the command's --json."""
    counts = result["counts"]
    graph = [p for p in result["parities"] if p["step"] == "ONNX (ONNX Runtime)"]
    ops = counts["onnx"]["ops"]
    norms = sum(count for op, count in ops.items() if op.endswith("Normalization"))
    paper = f" ({PRINTED[name]})" if name in PRINTED else ""
    engine = result["engines"][0] if result["engines"] else None
    counted = [p["accuracy"] for p in result["parities"] if p.get("accuracy")]
    return [
        name,
        "×".join(str(size) for size in result["inputs"][0]["shape"]),
        f"{entries()[name].params_plain / 1e6:.2f}{paper}",
        f"{counts['plain']['macs'] / 1e9:.2f}",
        f"{counts['onnx, as traced']['nodes']} → {counts['onnx']['nodes']}",
        str(norms),
        "; ".join(f"{p['output']} {p['error']:.1e} of {p['tolerance']:.1e} {p['status']}" for p in graph),
        f"{engine['size'] / 1e6:.1f} MB, {', '.join(engine['targets'])}" if engine else refused,
        f"{counted[0]['correct']} → {counted[-1]['correct']} of {counted[0]['images']}" if counted else "–",
        used,
    ]


def main() -> None:
    """Print the table, a row as soon as it is measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    args = parser.parse_args()
    print(HEAD, flush=True)
    for name in args.networks:
        with tempfile.TemporaryDirectory() as folder:
            print(row(name, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
