"""int8 on a CPU beside fp32: ONNX Runtime on both layouts of Q/DQ, and OpenVINO on the same files; ratios of one run.

python tests/benchmarks/bench_int8.py                           # vanillanet_6, parnet_s, repvgg_a0, one thread
python tests/benchmarks/bench_int8.py repvgg_a0 --rounds 9 --threads 2

Random weights (seed 0) and random images: these say nothing of accuracy, and every layer is in int8 by a tolerance that
any graph holds. OpenVINO is measured where it is installed (pip install 'plainconv[bench]').
"""

import argparse
import importlib.util
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from plainconv.engines.onnxruntime.runner import OnnxRuntimeRunner
from plainconv.exporter.bundle import Bundle

NETWORKS = ("vanillanet_6", "parnet_s", "repvgg_a0")
FILES = {"fp32": "model.onnx", "int8, TensorRT's": "model.int8.onnx", "int8, CPU's": "model.int8.cpu.onnx"}
EXPORTER = str(Path(sys.executable).with_name("exporter"))
HEAD = "| network | runtime | graph | ms, median | fp32 in ONNX Runtime ÷ this (quartiles) |\n|---|---|---|---|---|"

Call = Callable[[np.ndarray], object]


def by_onnxruntime(path: Path, threads: int) -> Call:
    """The file in ONNX Runtime on the CPU, as bundles are served."""
    runner = OnnxRuntimeRunner(path, providers="cpu", threads=threads)
    name = runner.inputs[0].name
    return lambda x: runner({name: x})


def by_openvino(path: Path, threads: int) -> Call:
    """The file in OpenVINO, in the types that it has: its default would be bfloat16 where the CPU has that."""
    import openvino

    options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    request = openvino.Core().compile_model(path, "CPU", options).create_infer_request()
    return lambda x: request.infer([x])


def rows(name: str, rounds: int, threads: int, folder: Path) -> list[str]:
    """Each runtime and graph of one network, all in turns."""
    bundle = folder / name
    subprocess.run([EXPORTER, "export", name, "--random-init", "0", "-o", bundle], check=True, capture_output=True)
    made = [EXPORTER, "build", bundle, "--engine", "none", "--precision", "int8", "--tolerance", "99"]
    subprocess.run(made, check=True, capture_output=True)
    opened = Bundle.open(bundle)
    runtimes = {"ONNX Runtime": by_onnxruntime}
    if importlib.util.find_spec("openvino") is not None:
        runtimes["OpenVINO"] = by_openvino
    calls = {
        (runtime, graph): make(opened.file(file), threads)
        for runtime, make in runtimes.items()
        for graph, file in FILES.items()
    }
    x = np.random.default_rng(0).standard_normal(opened.inputs[0].shape).astype(np.float32)
    times: dict[tuple[str, str], list[float]] = {key: [] for key in calls}
    for turn in range(rounds + 2):
        for key, call in calls.items():
            started = time.perf_counter()
            call(x)
            if turn > 1:
                times[key].append(time.perf_counter() - started)
    found = []
    for (runtime, graph), own in times.items():
        ratios = [a / b for a, b in zip(times["ONNX Runtime", "fp32"], own, strict=True)]
        low, median, high = (f"{ratio:.2f}" for ratio in statistics.quantiles(ratios, n=4))
        milliseconds = f"{1e3 * statistics.median(own):.2f}"
        found.append(f"| {name} | {runtime} | {graph} | {milliseconds} | {median} ({low}–{high}) |")
    return found


def main() -> None:
    """Print the table, a network as soon as it is measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    print(HEAD, flush=True)
    for name in args.networks:
        with tempfile.TemporaryDirectory() as folder:
            print("\n".join(rows(name, args.rounds, args.threads, Path(folder))), flush=True)


if __name__ == "__main__":
    main()
