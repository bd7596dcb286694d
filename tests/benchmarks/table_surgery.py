"""What graph surgery makes of training-form ONNX files, beside the tools and the hand-fused graphs that there are.

python tests/benchmarks/table_surgery.py                  # all networks; minutes, on a quiet machine
python tests/benchmarks/table_surgery.py parnet_s:silu    # some; an activation after a colon
python tests/benchmarks/table_surgery.py --fast           # three small networks, nothing timed but the tools

Per network, with random weights and fitting statistics (seed 0), at batch 1:
    raw          the training-time module, traced
    published    the deploy form of the published code, traced (other random weights: no error is given)
    onnxsim, onnxslim, simplify   what each tool makes of raw; onnxsim where it is installed
    plain        reparameterize, trace, surgery at a fixed size: what a bundle holds
`error` is max |y − y64| / std(y64) on two normal images, y64 the module in float64. `latency` is the median of the
ratios to raw of interleaved runs in ONNX Runtime, as it optimizes by default. `seconds` is the tool's own wall time.
"""

import argparse
import contextlib
import importlib.util
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch

from plainconv.exporter import reparameterize
from plainconv.exporter.onnx_file.file import infer_shapes, read, write
from plainconv.exporter.source.randomize import randomized
from plainconv.exporter.surgery import run_passes, simplify
from plainconv.exporter.surgery.cost import work_of
from plainconv.exporter.to_onnx.export import graph_from_module
from plainconv.models import create

NETWORKS = (
    "vanillanet_6", "vanillanet_9", "vanillanet_13",
    "parnet_s", "parnet_s:silu", "parnet_l", "parnet_l:silu",
    "repvgg_a0",
)  # fmt: skip
FAST = ("vanillanet_6", "parnet_s", "repvgg_a0")
ROUNDS = 15
HEAD = (
    "| network | form | nodes | GMACs | full-size passes | M elements moved | kernels | depth | parameters, M | error "
    "| latency | seconds |\n|---|---|---|---|---|---|---|---|---|---|---|---|"
)


def main() -> None:
    """Print the table, a network as soon as it is measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*")
    parser.add_argument("--fast", action="store_true", help="no latencies; three networks unless some are named")
    args = parser.parse_args()
    print(HEAD, flush=True)
    for name in args.networks or (FAST if args.fast else NETWORKS):
        with tempfile.TemporaryDirectory() as folder:
            for line in rows(name, Path(folder), timed=not args.fast):
                print(line, flush=True)


def rows(name: str, folder: Path, *, timed: bool) -> list[str]:
    """The lines of one network."""
    entry, _, activation = name.partition(":")
    options: dict[str, Any] = {"activation": activation} if activation else {}
    example = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    module = randomized(create(entry, **options), 0, example)
    write(graph_from_module(module, example), folder / "raw.onnx")
    published = randomized(create(entry, deploy=True, **options), 0, example)
    write(graph_from_module(published, example), folder / "published.onnx")
    seconds = {form: timed_call(tool, folder / "raw.onnx", folder / f"{form}.onnx") for form, tool in tools().items()}
    started = time.perf_counter()
    graph = graph_from_module(reparameterize(module, example)[0], example)
    run_passes(graph, fixed_size=True)
    write(graph, folder / "plain.onnx")
    seconds["plain"] = time.perf_counter() - started

    forms = ["raw", "published", *tools(), "plain"]
    images, wanted = reference(module)
    ratios = latencies([folder / f"{form}.onnx" for form in forms], images) if timed else {}
    lines = []
    for form in forms:
        path = folder / f"{form}.onnx"
        error = "" if form == "published" else f"{error_of(path, images, wanted):.1e}"
        lines.append(row(name, form, path, error, ratios.get(path), seconds.get(form)))
    return lines


def row(name: str, form: str, path: Path, error: str, ratio: float | None, seconds: float | None) -> str:
    """One line of the table."""
    graph, _ = read(path)
    graph.toposort()
    infer_shapes(graph)
    work = work_of(graph)
    cells = [
        name,
        form,
        len(graph.nodes),
        f"{work.macs / 1e9:.3f}",
        work.passes,
        f"{work.moved / 1e6:.2f}",
        work.kernels,
        work.depth,
        f"{work.parameters / 1e6:.2f}",
        error,
        "" if ratio is None else f"{ratio:.3f}",
        "" if seconds is None else f"{seconds:.2f}",
    ]
    return f"| {' | '.join(map(str, cells))} |"


def tools() -> dict[str, Callable[[Path, Path], Any]]:
    """Name → (source, target) of each tool that is installed."""
    found: dict[str, Callable[[Path, Path], Any]] = {}
    if importlib.util.find_spec("onnxsim"):
        found["onnxsim"] = run_onnxsim
    if importlib.util.find_spec("onnxslim"):
        found["onnxslim"] = run_onnxslim
    return found | {"simplify": simplify}


def run_onnxsim(source: Path, target: Path) -> None:
    """onnx-simplifier, its own check left out."""
    import onnx
    import onnxsim

    onnx.save(onnxsim.simplify(onnx.load(source), check_n=0)[0], target)


def run_onnxslim(source: Path, target: Path) -> None:
    """OnnxSlim, file to file."""
    import onnxslim

    onnxslim.slim(str(source), str(target))


def timed_call(tool: Callable[[Path, Path], Any], source: Path, target: Path) -> float:
    """Seconds of the second run: the first one imports."""
    for _ in range(2):
        started = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            tool(source, target)
        seconds = time.perf_counter() - started
    return seconds


def reference(module: torch.nn.Module) -> tuple[list[np.ndarray], np.ndarray]:
    """Two normal images, and what the module makes of them in float64."""
    rng = np.random.default_rng(1)
    images = [rng.standard_normal((1, 3, 224, 224)).astype(np.float32) for _ in range(2)]
    module.double()
    with torch.no_grad():
        outputs = [module(torch.from_numpy(x).double()).numpy() for x in images]
    module.float()
    return images, np.stack(outputs)


def session(path: Path) -> ort.InferenceSession:
    """A session whose threads do not spin while others are measured."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(str(path), options, ["CPUExecutionProvider"])


def error_of(path: Path, images: list[np.ndarray], wanted: np.ndarray) -> float:
    """max |y − y64| / std(y64)."""
    run = session(path)
    found = np.stack([run.run(None, {run.get_inputs()[0].name: x})[0] for x in images])
    return float(np.abs(found - wanted).max() / wanted.std())


def latencies(paths: list[Path], images: list[np.ndarray]) -> dict[Path, float]:
    """Of each file, the median over rounds of its time divided by that of the first one in the same round."""
    sessions = [session(path) for path in paths]
    ratios: dict[Path, list[float]] = {path: [] for path in paths}
    for number in range(ROUNDS + 2):
        times = []
        for each in sessions:
            started = time.perf_counter()
            each.run(None, {each.get_inputs()[0].name: images[0]})
            times.append(time.perf_counter() - started)
        if number >= 2:  # the first two warm up
            for path, seconds in zip(paths, times, strict=True):
                ratios[path].append(seconds / times[0])
    return {path: statistics.median(values) for path, values in ratios.items()}


if __name__ == "__main__":
    main()
