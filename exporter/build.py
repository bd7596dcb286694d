"""The graphs of lower precisions and the engines of a bundle: made, held to float64, and not made twice."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .bundle import Bundle, Draft, EngineRecord, GraphRecord, Manifest, sha256_of_arrays, update_bundle
from .bundle.manifest import MODEL
from .errors import ExportError, PlainconvWarning, SourceError
from .layer_types import types_in_file
from .network import Request
from .parity import EvalData, Reference, Run, not_executed, read_eval_data, reference_from_module
from .parity.inputs import DATA
from .precision import Calibration, Precision, judged_by, precision_of_name, read_images, save, typed_model, typed_run
from .rooms import room
from .source import load_network
from .steps import Steps, fed, onnx_run

if TYPE_CHECKING:
    from engines import BuildOptions
    from engines.options import Batches, Sizes

REFERENCE = "reference.npz"
MAX_DATA = 256
"""The most of the user's images that a lower precision is held to."""
DATA_BUDGET = 200e9
"""Multiply-accumulates that these may take in float64: half a minute on a small CPU."""


@dataclass(frozen=True)
class BuildJob:
    """What to build for a bundle: a graph of each of `precisions`, and by `engine` ("none" for no) an engine of it.

    `shapes` are the optimization profiles, each the batches and the sizes that it covers, None where that is fixed.
    `calibration` is what int8 and fp8 are calibrated on, `method` how; `eval_data` what accuracy is counted on, and
    calibrated on where there is nothing else. `tolerance`, in units of the outputs' spread, takes the place of the
    precisions' own. The rest is for `engines.BuildOptions`.
    """

    precisions: Sequence[str] = ("fp32",)
    engine: str = "auto"
    targets: tuple[str, ...] = ()
    shapes: "Sequence[tuple[Batches | None, Sizes | None]]" = ((None, None),)
    tf32: bool = False
    workspace: int | None = None
    optimization_level: int | None = None
    timing_cache: Path | None = None
    calibration: Path | None = None
    method: str = "auto"
    tolerance: float | None = None
    eval_data: Path | None = None
    rebuild: bool = False

    def options(self, manifest: Manifest | None) -> "BuildOptions":
        """The builder's options for a network, or for any: then without optimization profiles.

        Raises EngineError where `shapes` do not suit the inputs of the network.
        """
        engines = room("engines")
        profiles = []
        if manifest is not None:
            profiles = [engines.profile_of(manifest.inputs, batch, size) for batch, size in self.shapes]
        built: BuildOptions = engines.BuildOptions(
            targets=self.targets,
            profiles=tuple(profile for profile in profiles if profile),
            tf32=self.tf32,
            workspace=self.workspace,
            optimization_level=self.optimization_level,
            timing_cache=self.timing_cache,
        )
        return built


@dataclass(frozen=True)
class _Wanted:
    """The graph of one precision: what int8 and fp8 are calibrated on, how, and the tolerance.

    What is None, or "auto", is left to whoever made the graph that the bundle has; but for random images, where
    `images_at_hand` says that there are better ones.
    """

    precision: Precision
    images: np.ndarray | None
    method: str
    tolerance: float | None
    images_at_hand: bool = False

    @property
    def sha256(self) -> str | None:
        """Of the images."""
        return None if self.images is None else sha256_of_arrays({"images": self.images})

    def made_as(self, graph: GraphRecord) -> bool:
        """Whether `graph` is what is wanted."""
        made: Mapping[str, Any] = graph.calibration or {}
        return (
            graph.precision == self.precision.name
            and self.tolerance in (None, graph.tolerance)
            and self.sha256 in (None, made.get("sha256"))
            and not (self.precision.quantized and self.images_at_hand and made.get("images") is None)
            and (not self.precision.quantized or self.method in ("auto", made.get("method")))
        )


def check_build(job: BuildJob) -> None:
    """Raise where `job` could not be done with any bundle: before the work that leads up to it.

    EngineError where no such engine can be built here, ExportError for a precision that does not exist, SourceError for
    calibration images that cannot be opened, and for what none of the precisions has a use for.
    """
    precisions = [precision_of_name(name) for name in job.precisions]
    _refuse_unused(job, precisions)
    if job.engine != "none":
        for name in job.precisions:
            room("engines").check_request(job.engine, job.options(None), precision=name)
    if job.calibration is not None:
        try:
            job.calibration.open("rb").close()
        except OSError as error:
            raise SourceError(f"{job.calibration}: {error.strerror}; give an .npz file with images") from None


def _refuse_unused(job: BuildJob, precisions: Sequence[Precision]) -> None:
    names = ", ".join(job.precisions)
    if not any(precision.quantized for precision in precisions):
        for option, given in (("--calibration", job.calibration), ("--calibration-method", job.method != "auto")):
            if given:
                raise SourceError(f"{option} given, and {names} is not calibrated; leave it out, or add int8 or fp8")
    if job.tolerance is not None and all(precision.name == "fp32" for precision in precisions):
        raise SourceError("--tolerance given, and fp32 has its own; leave it out, or add a lower --precision")


def build_bundle(path: Path, job: BuildJob) -> bool:
    """Add to the bundle at `path` the graphs and engines of `job` that it lacks; whether it lacked any.

    What it holds of the same graph, images, options and versions is not made again. Nothing is written where nothing is
    new, nor where any step fails.

    Raises CheckFailedError where a parity or an accuracy does not hold, EngineError where an engine cannot be built,
    SourceError for images that do not fit the network, and BundleError as `update_bundle` does.
    """
    check_build(job)
    bundle = Bundle.open(path)
    reference = Reference.load(bundle.file(REFERENCE))
    if not job.rebuild and _is_up_to_date(bundle.manifest, job, reference):
        return False
    data = _eval_data(job, reference)
    with update_bundle(path) as draft:
        steps = Steps(reference, data, draft.manifest.parities)
        if data is not None:
            steps.count_base(onnx_run(draft.file(MODEL), draft.manifest.inputs))
        for name in job.precisions:
            add_precision(draft, job, name, steps)
        steps.raise_failed()
    return True


def add_precision(draft: Draft, job: BuildJob, name: str, steps: Steps) -> None:
    """Add the graph and the engine of one precision to a draft that has its ONNX model, linked, and its reference."""
    if name != "fp32":
        wanted = _wanted(job, name, steps.reference)
        graph = _graph_in(draft.manifest, wanted)
        if graph is None or (job.rebuild and _can_be_remade(graph, wanted)):
            graph = _add_graph(draft, wanted, _eval_images(job, steps), steps)
            for same in [record for record in draft.manifest.engines if record.onnx_sha256 == graph.sha256]:
                check_engine(draft, same, steps)
            steps.raise_failed()
    if job.engine == "none":
        return
    engines, options = room("engines"), job.options(draft.manifest)
    record = None
    if not job.rebuild:
        record = engines.built(draft.manifest, engine=job.engine, precision=name, options=options)
    if record is None:
        record = engines.build_into(draft, engine=job.engine, precision=name, options=options)
        check_engine(draft, record, steps)


def check_engine(draft: Draft, record: EngineRecord, steps: Steps) -> None:
    """The engine against the reference of its graph where this machine can run it; else say why not."""
    engines = room("engines")
    step = f"{record.backend} {record.precision}"
    graph = next((graph for graph in draft.manifest.graphs if graph.sha256 == record.onnx_sha256), None)
    steps = steps if graph is None else steps.against(_judge_of(draft, graph))
    reason = engines.why_not_run(record)
    if reason is not None:
        steps.forget(record.file)
        for name in steps.reference.names:
            steps.add(not_executed(step, name, reason), file=record.file)
        return
    with engines.run_record(draft, record) as runner:
        tolerance = graph.tolerance if graph else None
        steps.check(step, run_of_runner(runner), file=record.file, tolerance=tolerance)


def check_graph(draft: Draft, graph: GraphRecord, steps: Steps) -> None:
    """A graph of a lower precision against its reference, its roundings computed as an engine computes them."""
    run = fed(typed_run(draft.file(graph.file)), draft.manifest.inputs)
    step = f"ONNX {graph.precision}"
    steps.against(_judge_of(draft, graph)).check(step, run, file=graph.file, tolerance=graph.tolerance)


def _judge_of(draft: Draft, graph: GraphRecord) -> Reference:
    """What a graph of a lower precision is held to."""
    return judged_by(Reference.load(draft.file(graph.reference)), precision_of_name(graph.precision))


def run_of_runner(runner: Any) -> Run:
    """A runner as a callable on arrays, one an input in its order."""

    def run(*arrays: np.ndarray) -> list[np.ndarray]:
        feeds = dict(zip((spec.name for spec in runner.inputs), arrays, strict=True))
        outputs = runner(feeds)
        return [outputs[spec.name] for spec in runner.outputs]

    return fed(run, runner.inputs)


def _is_up_to_date(manifest: Manifest, job: BuildJob, reference: Reference) -> bool:
    """Whether the bundle holds every graph and engine of `job` as they would be made now."""
    for name in job.precisions:
        if name != "fp32" and _graph_in(manifest, _wanted(job, name, reference)) is None:
            return False
        if job.engine != "none":
            options = job.options(manifest)
            if room("engines").built(manifest, engine=job.engine, precision=name, options=options) is None:
                return False
    return True


def _wanted(job: BuildJob, name: str, reference: Reference) -> _Wanted:
    precision = precision_of_name(name)
    images = None
    if precision.quantized and job.calibration is not None:
        images = read_images(job.calibration, reference.inputs[0].shape[1:])
    return _Wanted(precision, images, job.method, job.tolerance, images_at_hand=job.eval_data is not None)


def _eval_images(job: BuildJob, steps: Steps) -> np.ndarray | None:
    """What int8 and fp8 are calibrated on where nothing else is given."""
    return None if steps.data is None or job.eval_data is None else steps.data.images


def _eval_data(job: BuildJob, reference: Reference) -> EvalData | None:
    return None if job.eval_data is None else read_eval_data(job.eval_data, reference.inputs[0].shape[1:])


def _graph_in(manifest: Manifest, wanted: _Wanted) -> GraphRecord | None:
    """The graph that the bundle holds of just this; the ONNX model that it was made from never changes in a bundle."""
    return next((graph for graph in manifest.graphs if wanted.made_as(graph)), None)


def _can_be_remade(graph: GraphRecord, wanted: _Wanted) -> bool:
    """Whether what the graph was calibrated on is at hand."""
    return wanted.images is not None or (graph.calibration or {}).get("images") is None


def _add_graph(draft: Draft, wanted: _Wanted, eval_images: np.ndarray | None, steps: Steps) -> GraphRecord:
    """Make the graph of a precision, measure it, and add both to the draft."""
    precision, name = wanted.precision, wanted.precision.name
    _refuse_lower(draft.file(MODEL), name)
    reference, at = steps.reference, REFERENCE
    calibration = record = None
    if precision.quantized:
        images = eval_images if wanted.images is None else wanted.images
        record = {"images": None if images is None else len(images), "method": wanted.method}
        if images is None:
            _warn_of_random_images(name)
            images = judged_by(reference, precision).inputs[0]
        else:
            record["sha256"] = sha256_of_arrays({"images": images})
            reference, at = _reference_on(images, draft, steps.reference)
        calibration = Calibration(images, wanted.method)
    tolerance = precision.tolerance if wanted.tolerance is None else wanted.tolerance
    typed = typed_model(draft.file(MODEL), precision, reference, calibration=calibration, tolerance=tolerance)
    file = f"model.{name.replace('+', '_')}.onnx"
    if draft.file(f"{file}.data").exists():  # of an earlier one
        draft.remove(f"{file}.data")
    save(typed.model, draft.path(file))
    before = [graph.reference for graph in draft.manifest.graphs if graph.precision == name]
    types = sorted(typed.layers.values())
    onnx = next(link for link in draft.manifest.chain if link.step == "onnx")
    graph = draft.add_graph(
        GraphRecord(
            file=file,
            precision=name,
            sha256="",
            onnx_sha256=onnx.sha256,
            layers={kind: types.count(kind) for kind in types},
            reference=at,
            tolerance=tolerance,
            kept=tuple({"layer": kept.node, "type": kept.type, "reason": kept.reason} for kept in typed.kept),
            calibration=record and {**record, "chosen": typed.method},
        )
    )
    for unused in set(before) - {REFERENCE, *(graph.reference for graph in draft.manifest.graphs)}:
        draft.remove(unused)
    check_graph(draft, graph, steps)
    return graph


def _warn_of_random_images(name: str) -> None:
    warnings.warn(
        f"{name} is calibrated on random images, as none were given, and says nothing of real ones; give --calibration",
        PlainconvWarning,
        stacklevel=3,
    )


def _refuse_lower(model: Path, name: str) -> None:
    """Raise ExportError where the ONNX model, of a file that was given, is not fp32 itself."""
    lower = sorted(set(types_in_file(model).values()) - {"fp32"})
    if lower:
        raise ExportError(
            f"the network computes in {', '.join(lower)} as it is, {name} is made of one in fp32; export that one"
        )


def _reference_on(images: np.ndarray, draft: Draft, base: Reference) -> tuple[Reference, str]:
    """The ONNX model, which parity holds to the eager network, in float64 on the user's images; and its file.

    One that another precision has made of the same images is taken as it is.
    """
    file = f"reference.{sha256_of_arrays({'images': images})[:8]}.npz"
    if draft.file(file).exists():
        return Reference.load(draft.file(file)), file
    macs = float(draft.manifest.counts.get("onnx", {}).get("macs") or 0)
    count = min(MAX_DATA, max(2, int(DATA_BUDGET / macs) if macs else MAX_DATA))
    network = load_network(str(draft.file(MODEL)), Request(input_shape=(base.batch, *base.inputs[0].shape[1:])))
    reference = reference_from_module(
        network.module,
        network.example,
        output_names=base.names,
        macs=macs or None,
        longest_sum=base.longest_sum,
        data=images[:count],
        max_data=count,
    ).of_kinds((DATA,))
    reference.save(draft.path(file))
    return reference, file
