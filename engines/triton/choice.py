"""Which engines of a bundle Triton is to run, or which of its ONNX graphs: of the parts of a split, or of the whole."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from plainconv.exporter.bundle import Bundle, EngineRecord, PartRecord, SplitRecord, TensorSpec
from plainconv.exporter.errors import EngineError

from ..choice import FASTEST_FIRST, graph_of, why_not_run
from ..options import Profile

RUNTIMES = ("tensorrt", "onnxruntime")
"""Triton's backends for what a bundle holds. The one for TensorRT loads no engine of TensorRT-RTX."""


@dataclass(frozen=True)
class TritonOptions:
    """How a bundle is to be served.

    `name` is the model's; by default the bundle's own, in letters that a model's name may have. `engine` is "auto",
    "tensorrt" or "onnxruntime", `precision` "auto" or one of the bundle's. `whole` leaves a split of it aside.
    `devices` are the GPUs for the devices of the split, in order, or those of the whole network; an empty tuple is the
    CPU; None: GPUs from 0 on for an engine, the CPU for ONNX Runtime. `instances` of each model run on each device.
    `max_batch` limits batches to fewer than they could be, `max_delay_us` is how long a request waits for others.
    """

    name: str = ""
    engine: str = "auto"
    precision: str = "auto"
    whole: bool = False
    devices: tuple[int, ...] | None = None
    instances: int = 1
    max_batch: int | None = None
    max_delay_us: int = 0


@dataclass(frozen=True)
class Piece:
    """What becomes one model: a part, or the whole network (`part` None), and the engine that runs it, or ONNX Runtime.

    `profiles` are the engine's; of a graph those of some engine of it, whatever its backend: what its user meant.
    """

    file: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    engine: EngineRecord | None
    profiles: tuple[Profile, ...]
    part: PartRecord | None = None

    def __str__(self) -> str:
        return f"part {self.part.name}" if self.part else "the network"


@dataclass(frozen=True)
class Choice:
    """The models to make of a bundle, one a piece; `split` where they are parts. `notes` are for the user.

    `profiles` are those of some engine of the whole graph: what parts without one go by.
    """

    precision: str
    pieces: tuple[Piece, ...]
    split: SplitRecord | None
    notes: tuple[str, ...] = ()
    profiles: tuple[Profile, ...] = ()


def chosen(bundle: Bundle, options: TritonOptions) -> Choice:
    """The TensorRT engines asked for, or else the ONNX graph: of the parts where there is a split of that precision.

    Raises EngineError where the bundle has none of what is asked for, with what it has.
    """
    if options.engine not in ("auto", *RUNTIMES):
        raise EngineError(f"unknown engine {options.engine!r}; wanted one of auto, {', '.join(RUNTIMES)}")
    if options.engine == "tensorrt" and options.devices == ():
        raise EngineError("a TensorRT engine runs on no CPU; give GPUs by --devices, or --engine onnxruntime")
    if options.engine != "onnxruntime" and options.devices != ():
        choice = _chosen_engines(bundle, options)
        if choice is not None:
            return choice
        if options.engine == "tensorrt":
            raise EngineError(_why_no_engines(bundle, options))
    precision = "fp32" if options.precision == "auto" else options.precision
    file, _ = graph_of(bundle.manifest, precision, on_cpu=not options.devices)
    _, sha256 = graph_of(bundle.manifest, precision)
    split = _split(bundle, precision, options)
    rtx = options.engine == "auto" and any(e.backend == "tensorrt_rtx" for e in _all_engines(bundle))
    notes = ("the bundle's TensorRT-RTX engines are left out: Triton's TensorRT backend cannot load them",) * rtx
    profiles = _profiles_of(bundle, sha256)
    if split is None:
        return Choice(precision, (Piece(file, bundle.inputs, bundle.outputs, None, profiles),), None, notes)
    pieces = tuple(Piece(p.file, p.inputs, p.outputs, None, _profiles_of(bundle, p.sha256), p) for p in split.parts)
    return Choice(precision, pieces, split, notes, profiles)


def _chosen_engines(bundle: Bundle, options: TritonOptions) -> Choice | None:
    """The fastest precision that there are TensorRT engines of, of the parts or else of the whole network."""
    precisions = FASTEST_FIRST if options.precision == "auto" else (options.precision,)
    for precision in precisions:
        split, lacking = _split(bundle, precision, options), ""
        if split is not None:
            found = {part.name: _engines_of(bundle, part.sha256) for part in split.parts}
            lacking = next((name for name, engines in found.items() if not engines), "")
            if not lacking:
                picked = [_picked(found[part.name]) for part in split.parts]
                pieces = tuple(
                    Piece(engine.file, part.inputs, part.outputs, engine, engine.profiles, part)
                    for part, (engine, _) in zip(split.parts, picked, strict=True)
                )
                return Choice(precision, pieces, split, tuple(dict.fromkeys(note for _, note in picked if note)))
        whole = [e for e in bundle.engines if e.backend == "tensorrt" and e.precision == precision]
        if whole:
            engine, note = _picked(whole)
            left = f"the {precision} split is left aside: its part {lacking} has no TensorRT engine"
            piece = Piece(engine.file, bundle.inputs, bundle.outputs, engine, engine.profiles)
            return Choice(precision, (piece,), None, tuple(n for n in (note, left if lacking else "") if n))
    return None


def _picked(engines: Sequence[EngineRecord]) -> tuple[EngineRecord, str]:
    """Of engines of the same graph the first that runs on this machine, else the first; and a note of the others."""
    if len(engines) == 1:
        return engines[0], ""
    picked = next((engine for engine in engines if why_not_run(engine) is None), engines[0])
    return picked, f"{picked.file} is one of {len(engines)} TensorRT engines of its graph, for {_place(picked)}"


def _place(engine: EngineRecord) -> str:
    return f"{', '.join(engine.targets)}, {engine.backend} {engine.backend_version}"


def _why_no_engines(bundle: Bundle, options: TritonOptions) -> str:
    asked = "" if options.precision == "auto" else options.precision
    found = "none"
    if any(engine.backend == "tensorrt_rtx" for engine in _all_engines(bundle)):
        found = "TensorRT-RTX ones, which Triton's TensorRT backend cannot load"
    if any(engine.backend == "tensorrt" for engine in _all_engines(bundle)):
        found = "others, or some parts only"
    return (
        f"{bundle.folder} holds no TensorRT engine that serves {f'it in {asked}' if asked else 'it'}, found {found}; "
        f"`exporter build --engine tensorrt{f' --precision {asked}' if asked else ''}`, or give --engine onnxruntime"
    )


def _split(bundle: Bundle, precision: str, options: TritonOptions) -> SplitRecord | None:
    return None if options.whole else next((s for s in bundle.manifest.splits if s.precision == precision), None)


def _all_engines(bundle: Bundle) -> Iterator[EngineRecord]:
    yield from bundle.engines
    for split in bundle.manifest.splits:
        yield from split.engines


def _engines_of(bundle: Bundle, sha256: str) -> list[EngineRecord]:
    return [e for e in _all_engines(bundle) if e.onnx_sha256 == sha256 and e.backend == "tensorrt"]


def _profiles_of(bundle: Bundle, sha256: str) -> tuple[Profile, ...]:
    """The shapes that some engine of a graph was built for: what its user meant, though ONNX Runtime takes others."""
    return next((e.profiles for e in _all_engines(bundle) if e.onnx_sha256 == sha256 and e.profiles), ())
