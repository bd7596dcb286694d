"""A network of a bundle as parts for several devices or streams: planned, written, and held to the whole."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx_ir as ir

from plainconv.engines import choice
from plainconv.engines.onnxruntime.split import OnnxRuntimeSplitRunner

from ..bundle import (
    Bundle,
    Draft,
    JsonObject,
    Manifest,
    PartRecord,
    SplitRecord,
    TensorSpec,
    plain_json,
    update_bundle,
)
from ..errors import PlanError
from ..onnx_file.ir_graph import save
from ..parity import Reference
from ..partition import (
    HOME,
    LINKS,
    Link,
    Network,
    Part,
    Plan,
    Proposal,
    Spec,
    Wiring,
    check_recomposed,
    file_of_part,
    judged,
    measured_profile,
    network_of_model,
    prediction_of_json,
    profile_of_wiring,
    propose,
    read_model,
    read_plan,
    read_profile,
    recomposed,
    wiring_of,
    write_parts,
)
from ..partition.devices import sheet_of_name
from ..precision.emulate import emulated
from ..progress import track
from .lower_graphs import REFERENCE, judge_of
from .steps import Steps, run_of_runner

MEASURE = "measure"
"""A profile that is measured here, not read."""
MOST_STREAMS = 4
"""Of one device, tried before several devices are."""


@dataclass(frozen=True)
class SplitJob:
    """What to split a bundle's graphs for.

    `devices` may be used, or `streams` of one; with `devices`, streams of one are tried first, which need no copies.
    `link` lies between any two devices; `placement` is one of `partition.PLACEMENTS`. `plan` is the file of a plan to
    take as it is. `profile` is a file of seconds by node, or "measure": ONNX Runtime's on one core of this machine.
    `batch` is what it is planned for where that is open, `gpu` one of `partition.devices`, whose times are planned by.
    `force` takes a plan that does not pay. `precisions` are the graphs to split: by default every one of the bundle, or
    the fp32 one where a plan or a profile is given, which is of one graph.
    """

    devices: int | None = None
    streams: int | None = None
    link: Link = LINKS["pcie"]
    placement: str = "auto"
    plan: Path | None = None
    profile: str | None = None
    batch: int = 1
    gpu: str = "a100"
    force: bool = False
    precisions: Sequence[str] = ()

    def names(self, manifest: Manifest) -> Sequence[str]:
        """The precisions of the graphs to split."""
        one = self.plan is not None or self.profile is not None
        return self.precisions or ("fp32", *(() if one else (graph.precision for graph in manifest.graphs)))


def check_split_job(job: SplitJob) -> None:
    """Raise PlanError where `job` could not be done with any bundle: before the work that leads up to it."""
    given = [job.devices, job.streams, job.plan]
    count = sum(value is not None for value in given)
    if count != 1:
        raise PlanError(f"{count} of --devices, --streams and --plan given; wanted one of them")
    if job.plan is not None:
        read_plan(job.plan)
    sheet_of_name(job.gpu)
    if job.profile not in (None, MEASURE):
        read_profile(Path(str(job.profile)))


def split_bundle(path: Path, job: SplitJob) -> None:
    """Add to the bundle at `path` the parts of each graph asked for, in the place of those that it has.

    Raises PlanError where a plan does not fit or does not pay, EngineError where the bundle lacks a graph,
    CheckFailedError where the parts are not the whole; the bundle stays as it was.
    """
    check_split_job(job)
    reference = Reference.load(Bundle.open(path).file(REFERENCE))
    with update_bundle(path) as draft:
        steps = Steps(reference, None, draft.manifest.parities)
        add_splits(draft, job, steps)
        steps.raise_failed()


def add_splits(draft: Draft, job: SplitJob, steps: Steps) -> None:
    """As `split_bundle`, into a draft that has its graphs."""
    precisions = job.names(draft.manifest)
    with track(f"splitting {draft.manifest.name}", total=2 * len(precisions), unit="steps") as bar:
        for precision in precisions:
            bar.advance(0, f"{precision}: planning")
            split = _add_split(draft, job, precision)
            bar.advance(1, f"{precision}: checking {len(split.parts)} parts")
            check_split(draft, split, steps)
            bar.advance(1)


def check_split(draft: Draft, split: SplitRecord, steps: Steps) -> None:
    """Hold the parts to the whole, bit by bit with nothing optimized, and what a user would run to the reference.

    In fp32 that is ONNX Runtime's runner of parts; in a lower precision every rounding that an engine makes.
    Raises CheckFailedError where the parts are not the whole.
    """
    file, _ = choice.graph_of(draft.manifest, split.precision)
    plan, manifest = plan_of_split(split), draft.manifest
    paths = [draft.file(part.file) for part in split.parts]
    graph = next((graph for graph in manifest.graphs if graph.precision == split.precision), None)
    with ExitStack() as held:
        whole = draft.file(file)
        if graph is not None:
            folder = Path(held.enter_context(TemporaryDirectory()))
            whole, *paths = (_emulated(path, folder / f"{n}.onnx") for n, path in enumerate((whole, *paths)))
        for arrays in _batches(steps.reference, manifest.inputs):
            check_recomposed(whole, paths, plan, arrays)
        if graph is not None:
            run = recomposed(paths, plan, _names(manifest.inputs), _names(manifest.outputs))
            steps.forget(split.parts[0].file)
            judge = steps.against(judge_of(draft, graph))
            judge.check(f"parts {split.precision}", run, file=split.parts[0].file, tolerance=graph.tolerance)
            return
        files = {part.name: path for part, path in zip(split.parts, paths, strict=True)}
        runner = held.enter_context(OnnxRuntimeSplitRunner(split, files, manifest.inputs, manifest.outputs))
        steps.check("parts fp32 (ONNX Runtime)", run_of_runner(runner), file=split.parts[0].file)


def plan_of_split(split: SplitRecord) -> Plan:
    """The plan that a split was made by."""
    parts = [
        Part(part.name, part.device, part.stream, _names(part.inputs), _names(part.outputs)) for part in split.parts
    ]
    return Plan(tuple(parts), split.devices, split.streams)


def proposal_of_split(split: SplitRecord) -> tuple[Proposal, Link]:
    """What a split was expected to take when it was planned, and over which link.

    Raises PlanError where its `plan`, a section that another program may have left out, does not say.
    """
    try:
        link = Link(**split.plan["link"])
        link = replace(link, bandwidth=float(link.bandwidth), latency=float(link.latency))
        return Proposal(plan_of_split(split), prediction_of_json(split.plan["prediction"]), split.plan["refusal"]), link
    except (AttributeError, KeyError, TypeError, ValueError):
        raise PlanError(
            f"the {split.precision} split says nothing of how long it takes; `exporter split` again"
        ) from None


def _add_split(draft: Draft, job: SplitJob, precision: str) -> SplitRecord:
    file, sha256 = choice.graph_of(draft.manifest, precision)
    model = read_model(draft.file(file))
    axes = _axes(draft.manifest, job.batch)
    profile = _profile(job, draft.file(file), model, axes)
    network = network_of_model(
        model, link=job.link, device=sheet_of_name(job.gpu).reached(), profile=profile, axes=axes
    )
    proposal, tried = _planned(network, job)
    plan = proposal.accepted(force=job.force)
    sources = [{v: plan.writer(v, at) for v in part.reads} for at, part in enumerate(plan.parts)]
    results = {v: plan.source(v, HOME) for v in network.wiring.outputs}
    draft.remove_split(precision)
    folder = f"parts/{precision.replace('+', '_')}"
    for name in (f"{folder}/{file_of_part(part)}" for part in plan.parts):
        draft.path(name), draft.path(f"{name}.data")  # files of their own, not those of the version before
    write_parts(model, plan, draft.folder / folder)

    def name_at(at: int | None) -> str | None:
        return None if at is None else plan.parts[at].name

    parts = [
        PartRecord(
            name=part.name,
            file=f"{folder}/{file_of_part(part)}",
            sha256="",
            device=part.device,
            stream=part.stream,
            inputs=_tensors(part.reads, network.wiring),
            outputs=_tensors(part.writes, network.wiring),
            sources={value: name_at(at) for value, at in taken.items()},
        )
        for part, taken in zip(plan.parts, sources, strict=True)
    ]
    return draft.add_split(
        SplitRecord(
            precision=precision,
            onnx_sha256=sha256,
            devices=plan.devices,
            streams=plan.streams,
            parts=tuple(parts),
            results={value: name_at(at) for value, at in results.items()},
            plan={
                "batch": job.batch,
                **({} if job.gpu == "a100" else {"gpu": job.gpu}),
                "link": plain_json(job.link),
                "asked": job.devices,
                **({"forced": True} if job.force else {}),
                "placement": job.placement,
                "prediction": plain_json(proposal.prediction),
                "profile": job.profile,
                "refusal": proposal.refusal,
                "tried": tried,
            },
        )
    )


def _planned(network: Network, job: SplitJob) -> tuple[Proposal, list[JsonObject]]:
    """The plan that ends soonest of those that pay, the first of equals; and what each way was found to take."""
    if job.plan is not None:
        proposals = [judged(read_plan(job.plan), network)]
    elif job.streams is not None:
        proposals = [propose(network, streams=job.streams)]
    else:
        devices = job.devices or 1
        proposals = []
        if devices == 1 or not job.force:
            proposals.append(propose(network, streams=min(MOST_STREAMS, max(2, devices))))
        if devices > 1:
            proposals.append(propose(network, devices=devices, placement=job.placement, every=job.force))
    paying = [each for each in proposals if each.refusal is None] or proposals[-1:]
    best = min(paying, key=lambda each: each.prediction.seconds if each.prediction else 0.0)
    return best, [_tried(each) for each in proposals]


def _tried(proposal: Proposal) -> JsonObject:
    plan, prediction = proposal.plan, proposal.prediction
    return {
        "devices": plan.devices if plan else None,
        "streams": plan.streams if plan else None,
        "seconds": prediction.seconds if prediction else None,
        "refusal": proposal.refusal,
    }


def _profile(job: SplitJob, file: Path, model: ir.Model, axes: Mapping[str, int]) -> dict[str, float] | None:
    if job.profile is None:
        return None
    if job.profile != MEASURE:
        return read_profile(Path(job.profile))
    return profile_of_wiring(measured_profile(file, axes=axes), wiring_of(model))


def _axes(manifest: Manifest, batch: int) -> dict[str, int]:
    """The size of the open batch axis, by the names that it has."""
    return {spec.shape[0]: batch for spec in manifest.inputs if isinstance(spec.shape[0], str)}


def _tensors(values: Sequence[str], wiring: Wiring) -> tuple[TensorSpec, ...]:
    return tuple(_tensor(value, wiring.specs[value]) for value in values)


def _tensor(value: str, spec: Spec) -> TensorSpec:
    """What crosses from part to part. Raises PlanError where a runtime could not be told how large it is."""
    if spec.dtype is None or spec.shape is None:
        raise PlanError(f"{value} is a tensor of unknown type or rank, which no part can be given; cut elsewhere")
    shape = tuple(f"{value}.{axis}" if n is None else n for axis, n in enumerate(spec.shape))
    return TensorSpec(value, ir.DataType[spec.dtype].numpy().name, shape)


def _batches(reference: Reference, inputs: Sequence[TensorSpec]) -> list[tuple[np.ndarray, ...]]:
    """What the parts are tried on: the first images, and where the batch is open one and three of them too."""
    sizes = [reference.batch]
    if all(isinstance(spec.shape[0], str) for spec in inputs):
        sizes = sorted({1, reference.batch, min(3, len(reference.kinds))})
    return [
        tuple(
            (x[0] if name in reference.whole else x[:size]).astype(spec.dtype)
            for (name, x), spec in zip(reference.inputs.items(), inputs, strict=True)
        )
        for size in sizes
    ]


def _emulated(source: Path, target: Path) -> Path:
    """A typed graph as one in float32 that any machine runs, each result rounded as its type would be."""
    save(emulated(read_model(source)), target)
    return target


def _names(specs: Sequence[TensorSpec]) -> tuple[str, ...]:
    return tuple(spec.name for spec in specs)
