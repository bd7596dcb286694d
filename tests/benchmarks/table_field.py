"""What `exporter simplify` makes of anybody's ONNX files and timm networks, beside OnnxSlim and onnxsim.

python tests/benchmarks/table_field.py a.onnx b.onnx               # files
python tests/benchmarks/table_field.py timm:resnet18 timm:levit_128s   # networks of timm, random weights, traced at 224

Per file and tool: nodes (those of graphs within counted), GMACs and M elements moved at batch 1, an open axis taken as
long as it usually is; the error of the outcome against the file, as `exporter simplify` checks it; the tool's seconds.
A tool that is not installed is a row that says so. onnxsim runs in a process of its own: it may end it.
"""

import argparse
import contextlib
import importlib.util
import io
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import onnx
import torch

from plainconv.exporter.errors import PlainconvError, one_line
from plainconv.exporter.onnx_file.file import infer_shapes, read, write
from plainconv.exporter.onnx_file.held import graphs_of
from plainconv.exporter.source.randomize import randomized
from plainconv.exporter.surgery import simplify
from plainconv.exporter.surgery.compare import compare
from plainconv.exporter.surgery.cost import suppose_usual_sizes, work_of
from plainconv.exporter.surgery.sizes import sizes_of
from plainconv.exporter.to_onnx.export import graph_from_module

LIMIT = 600
"""Seconds that onnxsim may take."""
HEAD = "| file | form | nodes | GMACs | M elements moved | error | seconds |\n|---|---|---|---|---|---|---|"
Tool = Callable[[Path, Path], None]


def main() -> None:
    """Print the table, a row as soon as it is measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+", metavar="FILE.onnx | timm:NAME")
    print(HEAD, flush=True)
    for source in parser.parse_args().sources:
        with tempfile.TemporaryDirectory() as folder:
            path = traced(source, Path(folder)) if source.startswith("timm:") else Path(source)
            known: dict[str, list[int]] = {}
            print(f"| {path.stem} | given | {measured(path, known)} | | |", flush=True)
            for name, tool in (("OnnxSlim", onnxslim), ("onnxsim", onnxsim), ("simplify", ours)):
                print(
                    f"| {path.stem} | {name} | {outcome(path, tool, Path(folder) / f'{name}.onnx', known)} |",
                    flush=True,
                )


def traced(source: str, folder: Path) -> Path:
    """The training-time network of timm as an ONNX file."""
    import timm

    example = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    name = source.removeprefix("timm:")
    module = randomized(timm.create_model(name, exportable=True).eval(), 0, example)
    return write(graph_from_module(module, example), folder / f"{name}.onnx")


def measured(path: Path, known: dict[str, list[int]]) -> str:
    """Nodes, GMACs and elements moved; sizes that the file leaves open from `known`, which takes up what it says.

    So that a tool's outcome, whose shapes may say less, is counted at the sizes of the file given.
    """
    nodes = sum(len(graph.node) for graph in graphs_of(onnx.load(path, load_external_data=False).graph))
    try:
        graph, _ = read(path)
        graph.toposort()
        infer_shapes(graph)
    except PlainconvError as error:
        return f"{nodes} | {one_line(error, 60)} | "
    known |= sizes_of(graph)
    suppose_usual_sizes(graph, known)
    work = work_of(graph)
    return f"{nodes} | {work.macs / 1e9:.3f} | {work.moved / 1e6:.2f}"


def outcome(path: Path, tool: Tool, target: Path, known: dict[str, list[int]]) -> str:
    """The row of what `tool` makes of the file."""
    start = time.perf_counter()
    try:
        tool(path, target)
    except Exception as error:  # whatever a tool raises is its outcome
        return f"{one_line(error, 100)} | | | | {time.perf_counter() - start:.1f}"
    seconds = time.perf_counter() - start
    check = compare(path, target)
    error = check.status if check.error is None or check.failed else f"{check.error:.1e}"
    return f"{measured(target, dict(known))} | {error} | {seconds:.1f}"


def ours(source: Path, target: Path) -> None:
    """`exporter simplify` without its check, which every tool gets here."""
    simplify(source, target)


def onnxslim(source: Path, target: Path) -> None:
    """OnnxSlim."""
    import onnxslim

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        onnxslim.slim(str(source), str(target))


def onnxsim(source: Path, target: Path) -> None:
    """onnxsim's own command."""
    if importlib.util.find_spec("onnxsim") is None:
        raise RuntimeError("not installed")
    run = [sys.executable, "-m", "onnxsim", str(source), str(target)]
    done = subprocess.run(run, capture_output=True, text=True, timeout=LIMIT, check=False)
    if not target.exists():
        lines = (done.stderr or done.stdout).strip().splitlines() or ["ended without a word"]
        raise RuntimeError(lines[-1])


if __name__ == "__main__":
    main()
