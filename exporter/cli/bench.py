"""`exporter bench`: how long a bundle takes here, and beside another one or any ONNX file."""

import argparse
import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..bundle import write_whole
from ..errors import EngineError, SourceError, write_refused
from ..progress import track
from .arguments import count, devices
from .words import only_our_words

if TYPE_CHECKING:
    from plainconv.engines import Runner
    from plainconv.engines.bench import Ratio, Samples

SUMMARY = "measure how long a bundle takes, and beside another one"
PERCENTILES = (50, 90, 99)
_PROVIDERS = ("auto", "cpu", "cuda", "tensorrt", "tensorrt_rtx")
SAME = "same"  # as the one it is compared with


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Set up `exporter bench`."""
    parser.add_argument("subject", type=Path, metavar="BUNDLE", help="a bundle, or an ONNX file")
    engines = ("auto", "tensorrt", "tensorrt_rtx", "onnxruntime")
    parser.add_argument("--engine", choices=engines, default="auto", help="what runs it")
    parser.add_argument("--precision", default="auto", metavar="P", help="which of its precisions, such as fp16")
    parser.add_argument("--provider", choices=_PROVIDERS, default="auto", help=_PROVIDER)
    parser.add_argument("--threads", type=count(0), default=0, metavar="N", help="of ONNX Runtime (0: one per core)")
    parser.add_argument("--device", type=count(0, 1023), default=0, metavar="N", help="the GPU (default 0)")
    parser.add_argument("--devices", type=devices, metavar="0,1,2", help="run the parts that it is split into there")
    parser.add_argument("--batch", type=_batches, default=(), metavar="1,8,32", help="batch sizes to sweep")
    parser.add_argument("--size", type=_size, metavar="224", help="height and width where they are open, or 480x640")
    parser.add_argument("--warmup", type=count(0), default=10, metavar="N", help="calls before (default 10)")
    parser.add_argument("--rounds", type=count(1), default=30, metavar="N", help="turns of each (default 30)")
    parser.add_argument("--raw", type=Path, metavar="FILE.json", help="write every single sample there")
    against = parser.add_argument_group("comparison")
    against.add_argument("--against", type=Path, metavar="OTHER", help="a bundle or an ONNX file (default: BUNDLE)")
    against.add_argument("--against-engine", choices=engines, help="what runs OTHER (default: as --engine)")
    against.add_argument("--against-precision", metavar="P", help="its precision (default: as --precision)")
    against.add_argument("--against-threads", type=count(0), metavar="N", help="its threads (default: as --threads)")
    against.add_argument("--against-whole", action="store_true", help="compare the parts with the whole of BUNDLE")


_PROVIDER = "execution provider of ONNX Runtime (default: CUDA where it works, else CPU)"


def _batches(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(part.isdecimal() and 1 <= int(part) < 2**31 for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of batch sizes; wanted some like 1,8,32")
    return tuple(dict.fromkeys(int(part) for part in parts))


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    width = width or height
    if not all(part.isdecimal() and 1 <= int(part) < 2**31 for part in (height, width)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; wanted one like 224 or 480x640")
    return int(height), int(width)


@dataclass(frozen=True)
class Row:
    """One runner at one batch size: its samples, the medians of its stages on the device, its ratio to the first."""

    batch: int
    name: str
    shapes: Mapping[str, tuple[int, ...]]
    samples: "Samples"
    stages_ms: Mapping[str, float]
    ratio: "Ratio | None"

    def as_json(self) -> dict[str, Any]:
        """What is known of it, in milliseconds and images per second."""
        return {
            "batch": self.batch,
            "runner": self.name,
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
            "calls": len(self.samples.milliseconds),
            **{f"p{p}_ms": self.samples.percentile(p) for p in PERCENTILES},
            "images_per_second": self.samples.images_per_second(self.batch),
            "stages_ms": dict(self.stages_ms),
            "first_over_this": asdict(self.ratio) if self.ratio else None,
        }


@dataclass(frozen=True)
class Outcome:
    """What was measured, and all of it but the single samples as JSON."""

    rows: tuple[Row, ...]
    result: Mapping[str, Any]


def run(args: argparse.Namespace) -> None:
    """Measure, and print it. Raises as `measure` does."""
    with only_our_words():
        outcome = measure(args)
    show(args, outcome)


def measure(args: argparse.Namespace) -> Outcome:
    """Measure, and write FILE.json.

    Raises:
        SourceError: FILE.json cannot be written.
        BundleError: a bundle does not open.
        EngineError: something cannot run here, does not take the batch, or takes other inputs than what it is compared
            with.

    """
    if args.raw is not None and (not args.raw.parent.is_dir() or args.raw.is_dir()):
        raise SourceError(f"{args.raw}: no file can be written there; name one in a folder that exists")
    from plainconv.engines.bench import machine

    with contextlib.ExitStack() as held:
        runners = {name: held.enter_context(runner) for name, runner in _runners(args)}
        rows = measured(runners, args.batch, args.size, rounds=args.rounds, warmup=args.warmup)
        result = {
            "machine": machine(args.device),
            "threads": args.threads,
            "warmup": args.warmup,
            "rounds": args.rounds,
            "runners": {name: _description(runner) for name, runner in runners.items()},
            "results": [row.as_json() for row in rows],
        }
    if args.raw is not None:
        samples = [{"batch": r.batch, "runner": r.name, "turns_ms": r.samples.turns} for r in rows]
        with write_refused(args.raw, SourceError):
            write_whole(args.raw, json.dumps({**result, "samples": samples}).encode())
    return Outcome(rows, result)


def show(args: argparse.Namespace, outcome: Outcome) -> None:
    """Print it, as a table or as JSON."""
    if args.json:
        print(json.dumps(outcome.result, indent=2))
    else:
        _print(outcome.result, outcome.rows)


def _runners(args: argparse.Namespace) -> Iterator[tuple[str, "Runner"]]:
    """What is measured, by name, the subject first; each is opened when it is asked for."""
    for path, asked in ((args.subject, args.precision), (args.against or args.subject, args.against_precision)):
        if _is_onnx(path) and asked not in (None, "auto"):
            raise EngineError(f"{path} is a file, which has the precision that it has, not {asked}; give a bundle")
    if args.against_whole and args.devices is None:
        raise EngineError("--against-whole given, and what is measured is whole; give --devices too, or leave it out")
    subject = f"{args.subject} {len(args.devices)} devices" if args.devices else str(args.subject)
    yield subject, _runner(args.subject, args, args.engine, args.precision, args.threads, args.devices)
    given = (args.against, args.against_engine, args.against_precision, args.against_threads)
    if not args.against_whole and all(option is None for option in given):
        return
    other = args.against or args.subject
    engine, precision = args.against_engine or args.engine, args.against_precision or args.precision
    threads = args.threads if args.against_threads is None else args.against_threads
    said = [args.against_engine, args.against_precision, f"{threads} threads" if threads != args.threads else None]
    name = " ".join([str(other), *(part for part in said if part)])
    yield name if name != subject else f"{name} again", _runner(other, args, engine, precision, threads)


def _runner(
    path: Path,
    args: argparse.Namespace,
    engine: str,
    precision: str,
    threads: int,
    on: Sequence[int] | None = None,
) -> "Runner":
    """Load a bundle, or an ONNX file, which ONNX Runtime runs."""
    if _is_onnx(path):
        if engine not in ("auto", "onnxruntime") or on is not None:
            what = "in parts" if on is not None else engine
            raise EngineError(f"{path} is a file, which ONNX Runtime runs, not {what}; give a bundle that has them")
        from plainconv.engines.onnxruntime.runner import OnnxRuntimeRunner

        return OnnxRuntimeRunner(path, providers=args.provider, threads=threads, precision="", device=args.device)
    from plainconv.engines.loading import load

    return load(
        path,
        engine,
        precision=precision,
        threads=threads,
        providers=args.provider,
        device=args.device,
        devices=on,
        eager_kernels=True,  # others are measured before those that will serve are there
    )


def _is_onnx(path: Path) -> bool:
    return path.is_file() or path.suffix == ".onnx"


def measured(
    runners: Mapping[str, "Runner"],
    batches: Sequence[int] = (),
    size: tuple[int, int] | None = None,
    *,
    rounds: int,
    warmup: int,
) -> tuple[Row, ...]:
    """Measure each of `runners` at each batch size, interleaved; the ratios are the first one's time over the others'.

    Without `batches` they are what `default_batches` says of the first runner; `size` is the height and width where
    they are open. Raises EngineError as `measure` does.
    """
    from plainconv.engines import bench

    first, *others = runners
    subject = runners[first]
    batches = batches or bench.default_batches(subject.inputs, subject.profiles)
    for batch in batches:  # what does not run is told before the work, not after half of it
        _inputs_of(runners, batch, size)
    rows = []
    with track(f"measuring {first}", total=rounds * len(batches), unit="rounds") as bar:
        for batch in batches:
            inputs = _inputs_of(runners, batch, size)
            bar.advance(0, f"batch {batch}")
            samples = bench.measure(runners, inputs, rounds=rounds, warmup=warmup, tick=bar.advance)
            for name, runner in runners.items():
                over = bench.ratio(samples[first], samples[name]) if name in others else None
                stages = bench.stage_medians(runner, inputs[name], rounds)
                shapes = {key: array.shape for key, array in inputs[name].items()}
                rows.append(Row(batch, name, shapes, samples[name], stages, over))
    return tuple(rows)


def _inputs_of(runners: Mapping[str, "Runner"], batch: int, size: tuple[int, int] | None) -> dict[str, dict[str, Any]]:
    """The same random inputs for all of them, tried in one call each: an error names the runner."""
    from plainconv.engines import bench

    first = next(iter(runners.values()))
    inputs = bench.random_inputs(first.inputs, batch, size=size, profiles=first.profiles)
    own = {}
    for name, runner in runners.items():
        try:
            own[name] = bench.inputs_for(runner.inputs, inputs)
            runner(own[name])
        except EngineError as error:
            raise EngineError(f"{name}: {error}") from error
    return own


def _description(runner: "Runner") -> dict[str, Any]:
    """What runs: the backend, ONNX Runtime's provider and graph, the precision where it is known, whether with TF32.

    Of engines how many streams they have beside their own, and what should be known of how they run.
    """
    known = {
        key: getattr(runner, key, None) for key in ("backend", "provider", "graph", "precision", "tf32", "aux_streams")
    }
    return {key: value for key, value in (known | {"notes": list(runner.notes)}).items() if value not in (None, "", [])}


# ------------------------------------------------------------------ what is shown


def _print(result: Mapping[str, Any], rows: Sequence[Row]) -> None:
    from .table import rows_table

    m = result["machine"]
    lines = [
        f"{m['cpu']}, {m['cores']} cores, load {m['load']} · {m['gpu'] or 'no GPU'} · "
        + ", ".join(f"{name} {version}" for name, version in m["runtimes"].items()),
        *(f"{name}: {_words(what)}" for name, what in result["runners"].items()),
    ]
    stages = list(dict.fromkeys(stage for row in rows for stage in row.stages_ms))
    compared = any(row.ratio for row in rows)
    columns = ["runner", "batch", *(f"p{p} ms" for p in PERCENTILES), "images/s", *(f"{s} ms" for s in stages)]
    rows_table(
        lines,
        [*columns, *(["first / this"] if compared else [])],
        [
            [
                row.name,
                str(row.batch),
                *(_ms(row.samples.percentile(p)) for p in PERCENTILES),
                f"{row.samples.images_per_second(row.batch):.1f}",
                *(_ms(row.stages_ms[s]) if s in row.stages_ms else "" for s in stages),
                *([_ratio(row.ratio)] if compared else []),
            ]
            for row in rows
        ],
    )


def _words(description: Mapping[str, Any]) -> str:
    words = {"tf32": "TF32", "aux_streams": f"with {description.get('aux_streams')} auxiliary streams"}
    said = [words.get(key, value) for key, value in description.items() if value and key != "notes"]
    return "; ".join([" ".join(said), *description.get("notes", ())])


def _ms(value: float) -> str:
    return f"{value:.2f}" if value >= 10 else f"{value:.4f}"


def _ratio(ratio: "Ratio | None") -> str:
    return f"{ratio.median:.3f}× ({ratio.low:.3f}–{ratio.high:.3f})" if ratio else ""
