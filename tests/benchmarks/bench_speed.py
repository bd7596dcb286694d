"""How long the pipeline takes beside what a user has otherwise; each row a ratio of one run, and its spread.

    make bench-speed                                             # all rows, some ten minutes on two quiet cores
    python tests/benchmarks/bench_speed.py listing simplify growth --rounds 5

    listing         CPU seconds of commands that only list something
    simplify        `exporter simplify` ÷ OnnxSlim on one file, plain and in training form
    growth          `simplify` in one process on twice as many RepVGG blocks ÷ on half of them; with and without ReLUs:
                    of the least user time of all rounds, as what else runs only ever adds to it
    reparameterize  `reparameterize` ÷ one warm static torch.export, and ÷ the float64 products of its kernels
    run             `exporter run` ÷ a bare torch.onnx.export and OnnxSlim; by the clock and its peak, too

Whole processes in turn (A B A B …), but where it says otherwise; the median of the pairwise ratios, the smallest and
the largest. CPU seconds, user and system: work beside it on the machine shows little in them.
"""

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from bench_export import BARE
from onnx import TensorProto, helper, numpy_helper

BIN = Path(sys.executable).parent
LISTINGS = (["--help"], ["models"], ["simplify", "--list"], ["inspect", "--help"], ["serve", "--help"])
SIZES = (50, 100, 200, 400, 625)
LINEAR = (50, 100, 200, 400)
"""RepVGG blocks of eight nodes; seven without their ReLUs."""
REPARAMETERIZED = ("parnet_l", "repvgg_b1g4", "vanillanet_13")
EXPORTED = ("vanillanet_6", "parnet_l", "repvgg_a0")

GROW = """
import resource, sys
from pathlib import Path
from plainconv.exporter.surgery import simplify

def cpu():
    return resource.getrusage(resource.RUSAGE_SELF).ru_utime

first, *files = map(Path, sys.argv[1:])
simplify(first, first.with_suffix(".out"))
for file in files:
    before = cpu()
    simplify(file, file.with_suffix(".out"))
    print(cpu() - before, flush=True)
"""
REPARAMETERIZE = """
import sys, time, torch
from plainconv.exporter import reparameterize
from plainconv.models import create

image, products = torch.randn(1, 3, 224, 224), []
warm = create("repvgg_a0").eval()
torch.export.export(warm, (image,))
reparameterize(warm, image)
module, multiply = create(sys.argv[1]).eval(), torch.bmm

def timed(call):
    before = time.process_time(), time.perf_counter()
    result = call()
    return time.process_time() - before[0], time.perf_counter() - before[1], result

def product(a, b):
    seconds, _, result = timed(lambda: multiply(a, b))
    products.append(seconds)
    return result

for _ in range(int(sys.argv[2])):
    export, export_clock, _ = timed(lambda: torch.export.export(module, (image,)))
    products.clear()
    torch.bmm = product
    ours, ours_clock, _ = timed(lambda: reparameterize(module, image))
    torch.bmm = multiply
    print(export, ours, sum(products), export_clock, ours_clock, flush=True)
"""


def main() -> None:
    """Print the rows that are asked for, each as soon as it is measured."""
    rows: dict[str, Callable[[int, Path], Iterable[str]]] = {
        "listing": listing, "simplify": simplify, "growth": growth, "reparameterize": reparameterize, "run": run,
    }  # fmt: skip
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", choices=[[], *rows], default=[])
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    print("| figure | median | smallest | largest |\n|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in args.rows or rows:
            for line in rows[name](args.rounds, Path(folder)):
                print(line, flush=True)


def row(figure: str, values: Sequence[float], unit: str, middle: float | None = None) -> str:
    """One line of the table; `middle` stands where the median does otherwise."""
    middle = statistics.median(values) if middle is None else middle
    return f"| {figure} | {middle:.2f} {unit} | {min(values):.2f} | {max(values):.2f} |"


def seconds(command: Sequence[str]) -> tuple[float, float, float]:
    """Of one process: user and system time, by the clock, and its peak in MiB. Raises SystemExit where it fails."""
    started = time.perf_counter()
    with open(os.devnull, "wb") as nowhere:
        process = subprocess.Popen(command, stdout=nowhere, stderr=nowhere)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if status:
        raise SystemExit(f"{' '.join(command[:4])} … failed with {process.returncode}")
    return usage.ru_utime + usage.ru_stime, time.perf_counter() - started, usage.ru_maxrss / 1024


def in_turn(figure: str, ours: Sequence[str], other: Sequence[str], rounds: int) -> Iterator[str]:
    """The rows of two commands, run in turn: CPU seconds, by the clock, and the largest resident set."""
    taken = np.array([(seconds(ours), seconds(other)) for _ in range(rounds)])  # [rounds, command, what]
    for (what, unit), pairs in zip(
        {"CPU": "s", "clock": "s", "peak": "MiB"}.items(), np.moveaxis(taken, 2, 0), strict=True
    ):
        mine, theirs = np.median(pairs, axis=0)
        yield row(
            f"{figure}, {what} ({mine:.4g} {unit} ÷ {theirs:.4g} {unit})", (pairs[:, 0] / pairs[:, 1]).tolist(), "×"
        )


def listing(rounds: int, folder: Path) -> Iterator[str]:
    """CPU seconds of each."""
    for words in LISTINGS:
        command = [str(BIN / "exporter"), *words]
        seconds(command)
        yield row(f"exporter {' '.join(words)}", [seconds(command)[0] for _ in range(rounds)], "s")


def simplify(rounds: int, folder: Path) -> Iterator[str]:
    """A plain file with a few nodes too many, and one in training form."""
    for form in ("plain", "training"):
        file, out = repvgg(folder / f"{form}.onnx", 20, training=form == "training"), str(folder / "out.onnx")
        ours = [str(BIN / "exporter"), "simplify", str(file), "-o", out, "--quiet"]
        yield from in_turn(f"simplify ÷ OnnxSlim, {form} form", ours, [str(BIN / "onnxslim"), str(file), out], rounds)


def growth(rounds: int, folder: Path) -> Iterator[str]:
    """The least seconds at each size over those at the size before, for a doubling; and those of each round."""
    warm = repvgg(folder / "warm.onnx", 4, training=True)
    for words, relu, sizes in (("RepVGG blocks", True, SIZES), ("one linear component, blocks", False, LINEAR)):
        files = [repvgg(folder / f"{relu}{n}.onnx", n, training=True, relu=relu) for n in sizes]
        command = [sys.executable, "-c", GROW, str(warm), *map(str, files)]
        found = np.array([list(map(float, _lines(command))) for _ in range(rounds)])
        least = found.min(axis=0)
        for i, (few, many) in enumerate(itertools.pairwise(sizes)):
            power = 1 / np.log2(many / few)
            figure = f"{words}: {few} → {many} ({least[i]:.2f} s → {least[i + 1]:.2f} s), a doubling"
            each = (found[:, i + 1] / found[:, i]) ** power
            yield row(figure, each.tolist(), "×", (least[i + 1] / least[i]) ** power)


def reparameterize(rounds: int, folder: Path) -> Iterator[str]:
    """In one process each, after a small network."""
    for name in REPARAMETERIZED:
        found = [
            list(map(float, line.split())) for line in _lines([sys.executable, "-c", REPARAMETERIZE, name, str(rounds)])
        ]
        yield row(f"reparameterize ÷ export, {name}, CPU", [ours / export for export, ours, *_ in found], "×")
        yield row(f"reparameterize ÷ export, {name}, clock", [ours / export for *_, export, ours in found], "×")
        if name == "vanillanet_13":
            floors = [ours / gemm for _, ours, gemm, *_ in found]
            yield row(f"reparameterize ÷ its float64 products, {name}", floors, "×")


def run(rounds: int, folder: Path) -> Iterator[str]:
    """The same network and weights."""
    for name in EXPORTED:
        ours = [
            str(BIN / "exporter"),
            "run",
            name,
            "--random-init",
            "0",
            "--engine",
            "none",
            "-o",
            str(folder / name),
            "--force",
            "--quiet",
        ]
        bare = [sys.executable, "-c", BARE, name, str(folder / "bare.onnx")]
        yield from in_turn(f"run ÷ (torch.onnx.export + OnnxSlim), {name}", ours, bare, rounds)


def _lines(command: Sequence[str]) -> list[str]:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


def repvgg(path: Path, blocks: int, *, training: bool, relu: bool = True, channels: int = 16) -> Path:
    """A file of RepVGG blocks on maps of 32 × 32; the plain one has an Identity in every second block."""
    rng, nodes, weights = np.random.default_rng(0), list[onnx.NodeProto](), list[TensorProto]()

    def add(op: str, name: str, inputs: Sequence[str], **attributes: object) -> str:
        nodes.append(helper.make_node(op, inputs, [f"{name}.y"], name=name, **attributes))
        return f"{name}.y"

    def constant(name: str, values: np.ndarray) -> str:
        weights.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def conv(x: str, name: str, taps: int, *, bias: bool = False) -> str:
        spread = (channels * taps * taps) ** -0.5
        read = [x, constant(f"{name}.w", spread * rng.standard_normal((channels, channels, taps, taps)))]
        read += [constant(f"{name}.b", 0.1 * rng.standard_normal(channels))] * bias
        return add("Conv", name, read, kernel_shape=[taps, taps], pads=[taps // 2] * 4)

    def norm(x: str, name: str) -> str:
        values = {"g": np.full(channels, 0.5), "b": 0.3 * rng.standard_normal(channels)}
        values |= {"m": 0.3 * rng.standard_normal(channels), "v": rng.uniform(0.5, 1.5, channels)}
        return add("BatchNormalization", name, [x, *(constant(f"{name}.{k}", v) for k, v in values.items())])

    x = "x"
    for i in range(blocks):
        if training:
            wide, narrow, skip = (
                norm(conv(x, f"b{i}.3", 3), f"b{i}.n3"),
                norm(conv(x, f"b{i}.1", 1), f"b{i}.n1"),
                norm(x, f"b{i}.n0"),
            )
            x = add("Add", f"b{i}.t", [add("Add", f"b{i}.s", [wide, narrow]), skip])
        else:
            x = conv(x, f"b{i}.c", 3, bias=True)
        x = add("Relu", f"b{i}.r", [x]) if relu else x
        x = add("Identity", f"b{i}.i", [x]) if not training and i % 2 else x
    shape = ["N", channels, 32, 32]
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)] for name in ("x", x)]
    graph = helper.make_graph(nodes, "blocks", *ends, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


if __name__ == "__main__":
    main()
