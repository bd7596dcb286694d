"""What a bundle is asked to hold: graphs and engines of each precision, held to float64, and not made twice."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from plainconv.engines import building, choice, loading, split_loading
from plainconv.engines.options import BuildOptions, profile_of

from ..bundle import Bundle, Draft, EngineRecord, GraphRecord, Manifest, SplitRecord, update_bundle
from ..bundle.manifest import MODEL
from ..bundle.undo import undone_on_error
from ..errors import CheckFailedError, EngineError, ExportError, PlainconvError, SourceError
from ..parity import Reference, not_executed
from ..precision import QUICK, TOLERANCES, Precision, precision_of_name, read_images
from ..source.shapes import Batches, Sizes
from .eval_data import judges_of_bundle
from .lower_graphs import (
    REFERENCE,
    Wanted,
    add_cpu_graph,
    add_graph,
    can_be_remade,
    graph_in,
    judge_of,
    lacks_cpu_graph,
    on_cpus,
    warn,
)
from .part_options import part_options
from .steps import Steps, onnx_run, run_of_runner

LEFT_OUT = "left_out"
"""The manifest's key for precisions that could not be, and why."""


@dataclass(frozen=True)
class BuildJob:
    """What to build for a bundle: a graph of each of `precisions`, and by `engine` ("none" for no) an engine of it.

    `shapes` are the optimization profiles, each the batches and the sizes that it covers, None where that is fixed, or
    what the bundle was exported for.
    `calibration` is what int8 and fp8 are calibrated on, `method` how; `eval_data` what accuracy is counted on, and
    calibrated on where there is nothing else. `tolerance`, in units of the outputs' spread, takes the place of the
    precisions' own. `builder` is what any engine is built with, without profiles.
    """

    precisions: Sequence[str] = ("fp32",)
    engine: str = "auto"
    shapes: Sequence[tuple[Batches | None, Sizes | None]] = ((None, None),)
    builder: BuildOptions = field(default_factory=BuildOptions)
    calibration: Path | None = None
    method: str = "auto"
    tolerance: float | None = None
    eval_data: Path | None = None
    rebuild: bool = False

    def options(self, manifest: Manifest | None) -> BuildOptions:
        """The builder's options for a network, or for any: then without optimization profiles.

        Raises EngineError where `shapes` do not suit the inputs of the network.
        """
        profiles = []
        if manifest is not None:
            of_batch, of_size = (_exported_for(manifest, name) for name in ("dynamic_batch", "dynamic_size"))
            profiles = [profile_of(manifest.inputs, batch or of_batch, size or of_size) for batch, size in self.shapes]
        return replace(self.builder, profiles=tuple(profile for profile in profiles if profile))


def _exported_for(manifest: Manifest, name: str) -> Any:
    """The batches, or the sizes, that the bundle was exported for; None where it does not say."""
    found = manifest.source.get(name)
    return None if found is None else tuple(tuple(each) if isinstance(each, list) else each for each in found)


def check_build(job: BuildJob) -> None:
    """Raise where `job` could not be done with any bundle: before the work that leads up to it.

    EngineError where no such engine can be built here, ExportError for a precision that does not exist, SourceError for
    calibration images that cannot be opened, and for what none of the precisions has a use for.
    """
    precisions = [precision_of_name(name) for name in job.precisions]
    _refuse_unused(job, precisions)
    if job.engine != "none":
        for name in job.precisions:
            building.check_request(job.engine, job.options(None), precision=name)
    if job.calibration is not None:
        try:
            job.calibration.open("rb").close()
        except OSError as error:
            raise SourceError(f"{job.calibration}: {error.strerror}; give an .npz file with images") from None


def _refuse_unused(job: BuildJob, precisions: Sequence[Precision]) -> None:
    names = ", ".join(job.precisions)
    if job.method != "auto" and not any(precision.quantized for precision in precisions):
        found = f"--calibration-method given, and {names} is not calibrated"
        raise SourceError(f"{found}; leave it out, or add int8 or fp8")
    if all(precision.name == "fp32" for precision in precisions):
        if job.calibration is not None:
            raise SourceError(f"--calibration given, and {names} needs none; leave it out, or add a lower --precision")
        if job.tolerance is not None:
            raise SourceError("--tolerance given, and fp32 has its own; leave it out, or add a lower --precision")


def build_bundle(path: Path, job: BuildJob) -> bool:
    """Add to the bundle at `path` the graphs and engines of `job` that it lacks; whether it lacked any.

    Of a split graph an engine of each part too. What it holds of the same graph, images, options and versions is not
    made again. A lower precision that cannot be is left out, and stands in the bundle as such; where it is all that was
    asked for, nothing is written, nor where nothing is new, or fp32 fails.

    Raises CheckFailedError where a parity or an accuracy does not hold, EngineError where an engine cannot be built,
    SourceError for images that do not fit the network, and BundleError as `update_bundle` does.
    """
    check_build(job)
    bundle = Bundle.open(path)
    reference = Reference.load(bundle.file(REFERENCE))
    if not job.rebuild and _is_up_to_date(bundle, job, reference):
        return False
    data = judges_of_bundle(bundle.manifest, reference, job.eval_data)
    with update_bundle(path) as draft:
        steps = Steps(reference, data, draft.manifest.parities)
        if data is not None:
            steps.count_base(onnx_run(draft.file(MODEL), draft.manifest.inputs))
        held = draft.manifest.chain
        failed = [error for name in job.precisions if (error := add_precision(draft, job, name, steps))]
        if failed and draft.manifest.chain == held:
            raise type(failed[0])(f"{failed[0]}; nothing was written") from failed[0]
        steps.raise_failed()
    return True


def add_precision(
    draft: Draft, job: BuildJob, name: str, steps: Steps, *, must_build: bool = True
) -> PlainconvError | None:
    """Add the graph and the engine of one precision to a draft that has its ONNX model, linked, and its reference.

    A lower precision that cannot be is left out, and so noted in the draft, and so is an engine in fp32 that cannot be
    built, unless it `must_build`; returns why, else None.
    """
    try:
        with undone_on_error(draft) if name == "fp32" and not must_build else contextlib.nullcontext():
            if name != "fp32":
                _add_most_accurate(draft, job, name, steps)
            elif job.engine != "none":
                add_engines(draft, job, name, steps)
    except (CheckFailedError, EngineError, ExportError) as error:
        if name == "fp32" and (must_build or not isinstance(error, EngineError)):
            raise
        _note_left_out(draft, name, str(error))
        return error
    _note_left_out(draft, name, None)
    return None


def _add_most_accurate(draft: Draft, job: BuildJob, name: str, steps: Steps) -> None:
    """By the method that errs least; where that loses accuracy alone, and none was asked for, by the other quick one.

    Raises as `_add_lower` does by the first.
    """
    methods, raised = [job.method], None
    while methods:
        own, job = replace(steps, failed=[], lost=[]), replace(job, method=methods.pop(0))
        try:
            with undone_on_error(draft):
                try:
                    return _add_lower(draft, job, name, own)
                finally:
                    records = (graph.calibration for graph in draft.manifest.graphs if graph.precision == name)
                    chosen = (next(records, None) or {}).get("chosen")
        except CheckFailedError as error:
            if job.method == "auto" and own.failed == own.lost and chosen:
                methods = [method for method in QUICK if method != chosen]
            raised = raised or error
    assert raised is not None
    raise raised


def _note_left_out(draft: Draft, name: str, reason: str | None) -> None:
    extra = draft.manifest.extra
    others = [each for each in extra.pop(LEFT_OUT, []) if each.get("precision") != name]
    noted = [*others, {"precision": name, "reason": reason}] if reason else others
    if noted:
        extra[LEFT_OUT] = noted


def _add_lower(draft: Draft, job: BuildJob, name: str, steps: Steps) -> None:
    wanted = _wanted(job, name, steps.reference)
    graph, eval_images = graph_in(draft.manifest, wanted), _eval_images(job, steps)
    if is_new := graph is None or (job.rebuild and can_be_remade(graph, wanted)):
        graph = add_graph(draft, wanted, eval_images, steps)
        for same in [record for record in draft.manifest.engines if record.onnx_sha256 == graph.sha256]:
            check_engine(draft, same, steps)
    if (is_new and on_cpus(wanted.precision)) or _lacks_cpu_graph(draft.manifest, graph, wanted):
        images = eval_images if wanted.images is None else wanted.images
        _note_left_out(draft, _on_cpus(name), add_cpu_graph(draft, graph, images, steps))
    if job.engine != "none" and not steps.failed:
        add_engines(draft, job, name, steps)
        _warn_of_size(draft, name)
    if steps.failed:
        raise CheckFailedError(steps.failed[0])


def _on_cpus(name: str) -> str:
    return f"{name} for CPUs"


def _lacks_cpu_graph(manifest: Manifest, graph: GraphRecord, wanted: Wanted) -> bool:
    """Whether the bundle lacks a graph for CPUs that it could have, as far as is known."""
    tried = (each.get("precision") for each in manifest.extra.get(LEFT_OUT, ()))
    return lacks_cpu_graph(manifest, graph, wanted) and _on_cpus(graph.precision) not in tried


def _warn_of_size(draft: Draft, name: str) -> None:
    """Say it where an engine is no smaller than that of fp32 for the same GPUs, which is mostly weights."""
    engines = draft.manifest.engines
    weights = draft.manifest.counts.get("onnx", {}).get("bytes", 0)
    for engine in (each for each in engines if each.precision == name):
        same = (engine.backend, engine.targets, engine.device)
        wide = [e.size for e in engines if e.precision == "fp32" and (e.backend, e.targets, e.device) == same]
        if wide and engine.size >= min(wide) <= 2 * weights:
            wider = next((graph.kept for graph in draft.manifest.graphs if graph.precision == name), ())
            sizes = f"its engine has {engine.size / 1e6:.1f} MB, that of fp32 {min(wide) / 1e6:.1f} MB"
            if wider:
                remedy = "see which layers stay wider, and give real images by --calibration, or another --precision"
                warn(draft, f"{name} in name: {sizes}; {remedy}")
            else:
                gain = f"all layers are in {name}, and so small a network gains nothing in size"
                warn(draft, f"{name}: {sizes}: {gain}; compare their latencies before you serve it")


def add_engines(draft: Draft, job: BuildJob, name: str, steps: Steps) -> None:
    """Add the engine of a graph, and those of the parts of its split, where the draft lacks them."""
    of_parts, new = [], set()
    for asked in _asked(draft, job, name):
        record = None if job.rebuild else building.built(draft.manifest, **asked)
        if record is None:
            record = building.build_into(draft, **asked)
            new.add(record.file)
        if "part" in asked:
            of_parts.append(record)
        elif record.file in new:
            check_engine(draft, record, steps, job.builder.device)
    split = _split_of(draft.manifest, name)
    if split is not None and new & {record.file for record in of_parts}:
        check_part_engines(draft, split, of_parts, steps)


def check_engine(draft: Draft, record: EngineRecord, steps: Steps, device: int = 0) -> None:
    """The engine against the reference of its graph where that GPU can run it; else say why not."""
    step = f"{record.backend} {record.precision}"
    _check_engines(
        draft, step, record.onnx_sha256, [record], partial(loading.run_record, draft, record, device), steps, device
    )


def check_part_engines(draft: Draft, split: SplitRecord, records: Sequence[EngineRecord], steps: Steps) -> None:
    """The engines of all parts, which run together, as `check_engine` does one."""
    step = f"{records[0].backend} {split.precision} parts"
    runner = partial(split_loading.run_split, draft, split, records)
    _check_engines(draft, step, split.onnx_sha256, records, runner, steps)


def _check_engines(
    draft: Draft,
    step: str,
    onnx_sha256: str,
    records: Sequence[EngineRecord],
    runner: Callable[[], Any],
    steps: Steps,
    device: int = 0,
) -> None:
    file = records[0].file
    graph = next((graph for graph in draft.manifest.graphs if graph.sha256 == onnx_sha256), None)
    steps = steps if graph is None else steps.against(judge_of(draft, graph))
    reason = next((reason for record in records if (reason := choice.why_not_run(record, device))), None)
    if reason is not None:
        steps.forget(file)
        for name in steps.reference.names:
            steps.add(not_executed(step, name, reason), file=file)
        return
    with runner() as running:
        tolerance = graph.tolerance if graph else tf32_tolerance(records)
        steps.check(step, run_of_runner(running), file=file, tolerance=tolerance)


def tf32_tolerance(records: Sequence[EngineRecord]) -> float | None:
    """What an fp32 engine whose factors may be rounded to 10 bits, as fp16's, is held to."""
    return TOLERANCES["fp16"] if any(record.tf32 for record in records) else None


def _asked(bundle: Bundle | Draft, job: BuildJob, name: str) -> Iterator[dict[str, Any]]:
    """What `building.build_into` is asked for: the engine of the whole graph, then those of the parts of its split."""
    options = job.options(bundle.manifest)
    asked = {"engine": job.engine, "precision": name, "options": options}
    yield asked
    split = _split_of(bundle.manifest, name)
    if split is not None:
        for part, own in part_options(bundle, split, options):
            yield {**asked, "options": own, "part": part}


def _split_of(manifest: Manifest, precision: str) -> SplitRecord | None:
    return next((split for split in manifest.splits if split.precision == precision), None)


def _is_up_to_date(bundle: Bundle, job: BuildJob, reference: Reference) -> bool:
    """Whether the bundle holds every graph and engine of `job` as they would be made now."""
    for name in job.precisions:
        if name != "fp32":
            wanted = _wanted(job, name, reference)
            graph = graph_in(bundle.manifest, wanted)
            if graph is None or _lacks_cpu_graph(bundle.manifest, graph, wanted):
                return False
        asked = () if job.engine == "none" else _asked(bundle, job, name)
        if any(building.built(bundle.manifest, **each) is None for each in asked):
            return False
    return True


def _wanted(job: BuildJob, name: str, reference: Reference) -> Wanted:
    precision = precision_of_name(name)
    images = None
    if job.calibration is not None:
        rows = {name: x for name, x in reference.inputs.items() if name not in reference.whole}
        images = read_images(job.calibration, rows)
        count = min(len(x) for x in images.values())
        images |= {name: np.repeat(reference.inputs[name][:1], count, axis=0) for name in reference.whole}
        images = {name: images[name] for name in reference.inputs}
    return Wanted(precision, images, job.method, job.tolerance, images_at_hand=job.eval_data is not None)


def _eval_images(job: BuildJob, steps: Steps) -> dict[str, np.ndarray] | None:
    """What lower precisions are held to, and calibrated on, where nothing else is given."""
    if steps.data is None or job.eval_data is None:
        return None
    return steps.data.of_inputs(steps.reference.inputs)
