"""The field side by side: the same networks, weights and images through the tools that people have, and through ours.

    make bench                                                     # all these networks; on a quiet machine
    python tests/benchmarks/bench_field.py timm:mobileone_s0 --rounds 31

Latency is the median of interleaved rounds on this machine's CPU, every tool with the same threads and none of them
spinning; in brackets how far the middle half of the rounds lies apart; *of eager* the median of the ratios within a
round. What runs in ONNX Runtime is optimized by it as it does by default. *export* is a whole process from its start:
what the tools behind `torch.onnx.export` do comes on top of it. Ours also measures parity and writes the bundle. Error:
max |y − y64| / std(y64) on two images, y64 the training-time network in float64; the deploy forms that authors
published have weights of their own here, hence none. A tool that is missing, or fails, is a row that says so.
"""

import argparse
import importlib.metadata
import importlib.util
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import onnx
from field_forms import FORMS, Run, reference

from plainconv.exporter.errors import one_line
from plainconv.exporter.onnx_file.held import graphs_of

NETWORKS = ("vanillanet_6", "parnet_s", "parnet_l", "repvgg_a0", "timm:mobileone_s0")
QUIET = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}  # what torch's own threads are told
HEAD = "| network | form | latency, ms | of eager | nodes | file, MB | export, s | peak, MiB | error |"
TOOLS = ("plainconv", "torch", "onnx", "onnxruntime", "onnxslim", "onnxsim", "openvino", "timm")
WARM = 3
LIMIT = 1200
"""Seconds that a tool may take."""
PEAK = """
import resource, subprocess, sys

code = subprocess.call(sys.argv[2:])
with open(sys.argv[1], "w") as file:
    file.write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))
sys.exit(code)
"""
"""A small process between this large one and a tool: what a process starts from counts as its own peak."""


@dataclass(frozen=True)
class Made:
    """What making a form took: seconds and the largest resident set, in MiB; or why there is none."""

    seconds: float = 0.0
    peak_mib: float = 0.0
    why_not: str = ""


def main() -> None:
    """Print the table, a network as soon as it is measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=NETWORKS, metavar="NAME | timm:NAME")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args()
    if not QUIET.items() <= os.environ.items():  # read when torch is loaded
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **QUIET})
    import torch

    torch.set_num_threads(args.threads)
    versions = [f"{tool} {importlib.metadata.version(tool)}" for tool in TOOLS if installed(tool)]
    print(f"{time.strftime('%Y-%m-%d')}, {platform.machine()}, {args.threads} threads, {args.rounds} rounds")
    print(f"Python {platform.python_version()}, {', '.join(versions)}\n\n{HEAD}\n{'|---' * HEAD.count(' | ')}|---|")
    started = time.monotonic()
    for source in args.networks:
        with tempfile.TemporaryDirectory() as folder:
            for row in rows(source, Path(folder), args.threads, args.rounds):
                print(row, flush=True)
    print(f"\n{len(args.networks)} networks in {(time.monotonic() - started) / 60:.1f} minutes")


def rows(source: str, folder: Path, threads: int, rounds: int) -> list[str]:
    """The lines of one network."""
    made = {name: make(name, source, folder) for name in FORMS}
    runs: dict[str, Run] = {}
    errors: dict[str, str] = {}
    try:
        images, wanted = reference(source)
    except Exception as error:  # a network that there is not, or whose library is missing
        return [f"| {source} | | {one_line(error, 100)} | | | | | | |"]
    for name, form in FORMS.items():
        if made[name].why_not:
            continue
        try:
            runs[name] = run = form.run(source, folder, threads)
            off = max(float(abs(run(x) - y).max()) for x, y in zip(images, wanted, strict=True))
            own_weights = name == "its own fusing" and not source.startswith("timm:")
            errors[name] = "" if own_weights else f"{off / wanted.std():.1e}"
        except Exception as error:  # whatever a tool raises is its outcome
            made[name] = Made(why_not=one_line(error, 100))
            runs.pop(name, None)
    times = latencies(runs, images[0], rounds)
    return [row(source, name, folder, made[name], times, errors) for name in FORMS]


def make(name: str, source: str, folder: Path) -> Made:
    """Make one form in a process of its own."""
    form = FORMS[name]
    if missing := form.missing():
        return Made(why_not=missing)
    command = [sys.executable, str(Path(__file__).with_name("field_forms.py")), name, source, str(folder)]
    log, peak = folder / "log", folder / "peak"
    started = time.perf_counter()
    with log.open("wb") as sink:
        small = [sys.executable, "-S", "-c", PEAK, str(peak), "timeout", str(LIMIT), *command]
        code = subprocess.call(small, stdout=sink, stderr=sink)
    seconds = time.perf_counter() - started
    if code:
        lines = log.read_text(errors="replace").strip().splitlines() or ["it ended without a word"]
        return Made(why_not=lines[-1][:120])
    return Made(seconds, int(peak.read_text()) / 1024)


def latencies(runs: dict[str, Run], image: object, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of every form in each round, each round running all of them in turn."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + WARM):
        for name, run in runs.items():
            started = time.perf_counter()
            run(image)  # type: ignore[arg-type]
            if number >= WARM:
                times[name].append((time.perf_counter() - started) * 1e3)
    return times


def row(source: str, name: str, folder: Path, made: Made, times: dict[str, list[float]], errors: dict[str, str]) -> str:
    """One line of the table."""
    if made.why_not:
        return f"| {source} | {name} | {made.why_not.replace('|', '/')} | | | | | | |"
    low, median, high = statistics.quantiles(times[name], n=4)
    eager = times.get("torch eager", times[name])
    ratio = statistics.median(mine / theirs for mine, theirs in zip(times[name], eager, strict=True))
    file = folder / FORMS[name].file
    files = [file, file.with_suffix(".bin")] if FORMS[name].file else []
    size = sum(each.stat().st_size for each in files if each.exists()) / 1e6
    cells = [
        source,
        name,
        f"{median:.2f} (±{100 * (high - low) / 2 / median:.0f} %)",
        f"{ratio:.3f}",
        nodes_of(file) if files else "",
        f"{size:.2f}" if files else "",
        f"{made.seconds:.1f}",
        f"{made.peak_mib:.0f}",
        errors[name],
    ]
    return f"| {' | '.join(map(str, cells))} |"


def nodes_of(file: Path) -> int:
    """Nodes of an ONNX file, graphs within counted; of an OpenVINO file, what is neither a weight nor an end."""
    if file.suffix == ".xml":
        import openvino as ov

        ops = ov.Core().read_model(file).get_ops()
        return sum(op.get_type_name() not in ("Constant", "Parameter", "Result") for op in ops)
    return sum(len(graph.node) for graph in graphs_of(onnx.load(file, load_external_data=False).graph))


def installed(tool: str) -> bool:
    """Whether the tool is there; one without a version is not one of these."""
    return importlib.util.find_spec(tool) is not None


if __name__ == "__main__":
    main()
