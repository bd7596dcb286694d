"""One row per network: what `exporter run` made of it, with random weights and statistics (seed 0).

python tests/benchmarks/table_networks.py                      # the whole list; large networks take a minute each
python tests/benchmarks/table_networks.py vanillanet_6 parnet_s
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

NETWORKS = (
    *(f"vanillanet_{depth}" for depth in range(5, 14)),
    "vanillanet_13_x1_5",
    "vanillanet_13_x1_5_ada_pool",
    "parnet_s",
    "parnet_s_96",
    "parnet_m",
    "parnet_l",
    "parnet_xl",
    "repvgg_a0",
    "repvgg_b1g4",
)
HEAD = (
    "| network | parameters, M | GMACs | convs | norms | ONNX nodes | eager f32 | plain | ONNX | tolerance "
    "| engine, MB | seconds |\n|---|---|---|---|---|---|---|---|---|---|---|---|"
)


def row(name: str, folder: Path) -> str:
    """Run the whole job once and tell what came out."""
    exporter = Path(sys.executable).with_name("exporter")
    command = [str(exporter), "run", name, "--random-init", "0", "-o", str(folder / name), "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return f"| {name} | failed with {done.returncode}: {done.stderr.strip().splitlines()[-1]} |"
    result = json.loads(done.stdout)
    counts = result["counts"]
    training, plain, onnx, traced = (counts[k] for k in ("training", "plain", "onnx", "onnx, as traced"))
    parities = {p["step"]: p for p in result["parities"]}
    ours, graph = parities["plain network"], parities["ONNX (ONNX Runtime)"]

    def change(key: str, scale: float = 1, digits: int = 0) -> str:
        return f"{training[key] / scale:.{digits}f} → {plain[key] / scale:.{digits}f}"

    cells = [
        name,
        change("parameters", 1e6, 2),
        change("macs", 1e9, 3),
        change("convs"),
        change("norms"),
        f"{traced['nodes']} → {onnx['nodes']}",
        f"{ours['own_error']:.1e}",
        *(f"{p['error']:.1e} {p['status']}" for p in (ours, graph)),
        f"{graph['tolerance']:.1e}",
        f"{result['engines'][0]['size'] / 1e6:.1f}",
        f"{sum(result['seconds'].values()):.0f}",
    ]
    return f"| {' | '.join(cells)} |"


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
