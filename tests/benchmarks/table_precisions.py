"""One row per network, batch and precision: the typed graph's parity and the TensorRT-RTX engine, built or refused.

python tests/benchmarks/table_precisions.py                          # the whole matrix, half an hour on two cores
python tests/benchmarks/table_precisions.py vanillanet_digits --precisions fp16 fp8

The digits networks have their trained weights, and their held-out images for calibration and accuracy; the others
random weights (seed 0), and random images.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NETWORKS = (
    "vanillanet_digits",
    "parnet_digits",
    "vanillanet_6",
    "vanillanet_13",
    "parnet_s",
    "parnet_l",
    "repvgg_a0",
)
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
BATCHES = {"static": None, "1:8:32": "1:8:32"}
ASSETS = Path(__file__).parents[1] / "assets"
EXPORTER = str(Path(sys.executable).with_name("exporter"))
HEAD = (
    "| network | batch | precision | error | tolerance | top-1 | accuracy | kept in fp32 | engine, MB | built in, s "
    "| whole step, s |\n|---|---|---|---|---|---|---|---|---|---|---|"
)


def rows(name: str, batch: str, precisions: list[str], folder: Path) -> list[str]:
    """Export once, then build each precision."""
    is_trained = name.endswith("_digits")
    images = ["--eval-data", str(ASSETS / "digits_heldout.npz")] if is_trained else []
    weights = ["--checkpoint", str(ASSETS / f"{name}.pth")] if is_trained else ["--random-init", "0"]
    shapes = ["--dynamic-batch", batch] if BATCHES[batch] else []
    bundle = str(folder / f"{name}-{len(shapes)}")
    _run("export", name, *weights, *shapes, *images, "-o", bundle)
    return [_row(name, batch, precision, bundle, [*shapes, *images]) for precision in precisions]


def _row(name: str, batch: str, precision: str, bundle: str, options: list[str]) -> str:
    done, seconds = _timed("build", bundle, "--precision", precision, *options)
    if isinstance(done, str):
        return f"| {name} | {batch} | {precision} | refused: {done} |"
    step = "ONNX (ONNX Runtime)" if precision == "fp32" else f"ONNX {precision}"
    parity = next(p for p in done["parities"] if p["step"] == step)
    graph = next((g for g in done["graphs"] if g["precision"] == precision), {"kept": [], "layers": {}})
    engine = next(e for e in done["engines"] if e["precision"] == precision)
    share = parity.get("accuracy")
    cells = [
        name,
        batch,
        precision,
        f"{parity['error']:.2g}",
        f"{parity['tolerance']:.2g}",
        f"{parity['top1']:.1%}",
        f"{share['correct']}/{share['images']}" if share else "",
        f"{len(graph['kept'])} of {sum(engine['layers'].values())}",
        f"{engine['size'] / 1e6:.1f}",
        f"{engine['seconds']:.1f}",
        f"{seconds:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def _timed(*arguments: str) -> tuple[dict, float] | tuple[str, float]:
    started = time.perf_counter()
    try:
        return _run(*arguments), time.perf_counter() - started
    except RuntimeError as error:
        return str(error), time.perf_counter() - started


def _run(*arguments: str) -> dict:
    """One command's JSON. Raises RuntimeError with its one line where it fails."""
    done = subprocess.run([EXPORTER, *arguments, "--json"], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return json.loads(done.stdout)


def main() -> None:
    """Print the table, a row as soon as it is measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    parser.add_argument("--precisions", nargs="*", default=PRECISIONS)
    args = parser.parse_args()
    print(HEAD, flush=True)
    for name in args.networks:
        for batch in BATCHES:
            with tempfile.TemporaryDirectory() as folder:
                for line in rows(name, batch, list(args.precisions), Path(folder)):
                    print(line, flush=True)


if __name__ == "__main__":
    main()
