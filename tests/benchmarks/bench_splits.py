"""A split network on ONNX Runtime beside the whole, and what its scheduler costs.

    python tests/benchmarks/bench_splits.py                     # parnet_s and parnet_l, random weights
    python tests/benchmarks/bench_splits.py out/mine parnet_m   # any bundle, any SOURCE

Each network is split for two devices by times measured on one core here, with the memory that all cores share as the
link. Then, interleaved in one process at batch 1 and in fp32:

    split / whole   the parts on two workers of one thread each, over the whole on two threads
    cut / whole     the parts' sessions called one after another by a loop, over the whole on one thread: what cutting
                    costs ONNX Runtime, which lays out and fuses within one session only
    scheduler       the same parts on one worker, beside that loop: the difference is what handing over, waiting and
                    checking cost, of the whole on one thread
"""

import argparse
import statistics
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnxruntime

from plainconv import engines
from plainconv.engines.bench import machine, measure, random_inputs, ratio
from plainconv.engines.onnxruntime.split import OnnxRuntimeSplitRunner
from plainconv.engines.runner import Runner
from plainconv.engines.schedule import schedule_of
from plainconv.exporter.bundle import Bundle
from plainconv.exporter.partition import Link
from plainconv.exporter.pipeline.export import Job, export_bundle
from plainconv.exporter.pipeline.split import MEASURE, SplitJob, split_bundle
from plainconv.exporter.progress import be_quiet
from plainconv.exporter.source.network import Request

NETWORKS = ("parnet_s", "parnet_l")
MEMORY = Link(1e12, 30e-6, "shared memory")
"""Nothing is copied; a worker wakes another."""


def main() -> None:
    """Print the table, a network as soon as it is measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    parser.add_argument("--rounds", type=int, default=21)
    args = parser.parse_args()
    be_quiet()
    here = machine()
    print(f"{here['cpu']}, {here['cores']} cores, load {here['load']}; ONNX Runtime {onnxruntime.__version__}\n")
    print("| network | parts | whole, ms | split, ms | split / whole | 95 % | cut / whole | scheduler, µs | share |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in args.networks:
        with tempfile.TemporaryDirectory() as folder:
            print(row(name, split(name, Path(folder)), args.rounds), flush=True)


def split(name: str, folder: Path) -> Bundle:
    """A bundle of `name` in `folder`, split for two devices."""
    target = folder / "bundle"
    if Path(name).is_dir():
        import shutil

        shutil.copytree(name, target)
    else:
        export_bundle(Job(source=name, request=Request(random_init=0), target=target, end_to_end=False))
    split_bundle(target, SplitJob(devices=2, link=MEMORY, profile=MEASURE, force=True))
    return Bundle.open(target)


def row(name: str, bundle: Bundle, rounds: int) -> str:
    """One line of the table."""
    inputs = random_inputs(bundle.inputs, 1)
    with (
        engines.load(bundle, "onnxruntime", threads=1, devices=[0, 1]) as parts,
        engines.load(bundle, "onnxruntime", threads=2) as whole,
    ):
        samples = measure({"parts": parts, "whole": whole}, {"parts": inputs, "whole": inputs}, rounds=rounds)
        two, over = samples, ratio(samples["parts"], samples["whole"])
    with on_one_worker(bundle) as ours, Loop(bundle) as theirs, engines.load(bundle, "onnxruntime", threads=1) as whole:
        runners = {"ours": ours, "theirs": theirs, "whole": whole}
        samples = measure(runners, dict.fromkeys(runners, inputs), rounds=rounds)
    more = statistics.median(
        statistics.median(a) - statistics.median(b)
        for a, b in zip(samples["ours"].turns, samples["theirs"].turns, strict=True)
    )
    cells = [
        name,
        len(bundle.splits[0].parts),
        *(f"{two[each].percentile(50):.2f}" for each in ("whole", "parts")),
        f"{over.median:.3f}×",
        f"{over.low:.3f}–{over.high:.3f}",
        f"{ratio(samples['theirs'], samples['whole']).median:.3f}×",
        f"{more * 1e3:.0f}",
        f"{more / samples['whole'].percentile(50):.2%}",
    ]
    return f"| {' | '.join(map(str, cells))} |"


def on_one_worker(bundle: Bundle) -> OnnxRuntimeSplitRunner:
    """The parts of a bundle's split, all on one place."""
    split = bundle.splits[0]
    alone = replace(split, devices=1, streams=1, parts=tuple(replace(p, device=0, stream=0) for p in split.parts))
    files = {part.name: bundle.file(part.file) for part in split.parts}
    return OnnxRuntimeSplitRunner(alone, files, bundle.inputs, bundle.outputs)


class Loop(Runner):
    """The parts of a bundle's split, called one after another on the thread that asks."""

    def __init__(self, bundle: Bundle) -> None:
        """One session a part, of one thread."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.inputs, self.outputs = bundle.inputs, bundle.outputs
        self.schedule = schedule_of(bundle.splits[0])
        self.sessions = [
            onnxruntime.InferenceSession(str(bundle.file(step.part.file)), options, ["CPUExecutionProvider"])
            for step in self.schedule.steps
        ]

    def __call__(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Run once."""
        made: dict[tuple[int | None, str], Any] = {
            (None, name): onnxruntime.OrtValue.ortvalue_from_numpy(array) for name, array in inputs.items()
        }
        for at, (step, session) in enumerate(zip(self.schedule.steps, self.sessions, strict=True)):
            names = [spec.name for spec in step.part.outputs]
            feeds = {name: made[source, name] for name, source in step.sources.items()}
            values = session.run_with_ort_values(names, feeds)
            made |= {(at, name): value for name, value in zip(names, values, strict=True)}
        return {name: made[source, name].numpy() for name, source in self.schedule.results.items()}

    def close(self) -> None:
        """Release the sessions."""
        self.sessions = []


if __name__ == "__main__":
    main()
