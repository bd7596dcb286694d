"""The main job: SOURCE → plain network → ONNX → engine, with parity after every step, written as one bundle.

An ONNX file as SOURCE goes to surgery as it is, which reparameterizes it too. What a step no longer needs is dropped
before the next one starts: the eager network once the plain one exists, the plain one once its ONNX file is written.
The float64 reference of the eager network stays, and goes into the bundle.
"""

import gc
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import onnx_graphsurgeon as gs
import torch

from plainconv.engines import split_loading

from ..bundle import Bundle, Draft, Preprocessing, check_target, update_bundle, write_bundle
from ..bundle.manifest import MODEL
from ..bundle.presets import preprocessing_given
from ..count import Cost, count_module
from ..errors import ExportError, PlainconvWarning, SourceError
from ..onnx_file.file import check, write
from ..parity import Reference, run_module
from ..progress import track
from ..reparam import reparameterize
from ..source.folded import fold_preprocessing
from ..source.network import Network, Request
from ..source.resolve import is_onnx, load_network, weights_sha256
from ..source.shapes import Batches, Sizes
from ..source.suppressed import suppress
from ..surgery import run_passes
from ..surgery.count import count_onnx
from ..to_onnx import MAX_OPSET, MIN_OPSET
from . import images
from .build import (
    BuildJob,
    add_engines,
    add_precision,
    check_build,
    check_engine,
    check_part_engines,
)
from .eval_data import judges_of, judges_of_bundle
from .lower_graphs import REFERENCE, check_cpu_graph, check_graph
from .open_axes import (
    at_usual_size,
    check_corners,
    corners,
    gaps,
    refuse_batch,
    refuse_batch_guards,
    refuse_guards,
    refuse_sizes,
    within,
)
from .records import cost_json, report_json, spec, versions
from .references import at_batch, reference_of, said_of
from .split import SplitJob, add_splits, check_split, check_split_job
from .steps import EAGER, ONNX, PLAIN, Clock, Judges, Steps, onnx_run


@dataclass(frozen=True)
class Job:
    """One export: what, from which weights, to where and how. `load` gives a network that is at hand, not `source`.

    `preprocessing`, `postprocess`, `nms`, `classes` and `fold` are as the options of the command line have them.
    """

    source: str
    request: Request
    target: Path
    force: bool = False
    dynamic_batch: Batches | None = None
    dynamic_size: Sizes | None = None
    opset: int | None = None
    eval_data: Path | None = None
    end_to_end: bool = True
    preprocessing: str | Path | Mapping[str, Any] | Preprocessing | None = None
    postprocess: str | None = None
    classes: str | Path | Sequence[str] | None = None
    fold: bool = False
    nms: str | None = None
    build: BuildJob | None = None
    split: SplitJob | None = None
    load: Callable[[Request], Network] | None = None


@dataclass(frozen=True)
class Traced:
    """What surgery starts from, once `graph` is called, and what is on record of the way to it.

    `counts` are of the forms of the network so far, `links` (step, sha256) those of the hash chain.
    """

    graph: Callable[[], gs.Graph]
    counts: Mapping[str, Any]
    links: Sequence[tuple[str, str]]
    extra: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)


def export_bundle(job: Job) -> Path:
    """Do the whole job; returns the bundle's folder.

    Raises PlainconvError for what the user can mend, before anything is written where that is possible, and
    CheckFailedError where a parity or an accuracy does not hold; no bundle is written then. Parities that could not be
    certified stand in the bundle as such.
    """
    target = check_target(job.target, job.force)
    images.check_given(job.preprocessing, job.postprocess, job.classes, job.fold and job.dynamic_size is not None)
    _check_opset(job)
    if job.build is not None:
        check_build(job.build)
    if job.split is not None:
        check_split_job(job.split)
    precisions = job.build.precisions if job.build is not None else ()
    clock = Clock(5 - is_onnx(job.source) + len(precisions) + 2 * (job.split is not None))
    with clock.running(f"exporting {job.source}"):
        with clock.step("load"):
            network = _load(job)
            data = judges_of(network, job.eval_data, _postprocess(job, network), job.classes)
        for warning in network.warnings:
            warnings.warn(warning, PlainconvWarning, stacklevel=2)
        with write_bundle(target, job.force) as draft:
            steps = _write_graph(draft, job, network, data, clock)
            for precision in precisions:
                assert job.build is not None
                with clock.step("engine" if precision == "fp32" else precision):
                    add_precision(draft, job.build, precision, steps, must_build=job.split is not None)
            if job.split is not None:
                _split(draft, job, steps, clock)
            said = draft.manifest.extra.get("warnings", [])
            draft.manifest.extra["warnings"] = list(dict.fromkeys((*network.warnings, *said)))
            draft.manifest.extra["seconds"] = {name: round(s, 3) for name, s in clock.seconds.items()}
            steps.raise_failed()
    return target


def _split(draft: Draft, job: Job, steps: Steps, clock: Clock) -> None:
    """The parts of each graph that the draft has, and the engines of these."""
    assert job.split is not None
    with clock.step("split"):
        add_splits(draft, job.split, steps)
    with clock.step("part engines"):
        if job.build is not None and job.build.engine != "none":
            for precision in job.build.precisions:
                add_engines(draft, job.build, precision, steps)


def _check_opset(job: Job) -> None:
    if job.opset is not None and is_onnx(job.source):
        raise SourceError(f"{job.source} is an ONNX file, which has its opset: --opset given; leave it out")
    if job.opset is not None and not MIN_OPSET <= job.opset <= MAX_OPSET:
        raise ExportError(f"opset {job.opset} is out of range; wanted {MIN_OPSET} to {MAX_OPSET}: --opset N")


def _load(job: Job) -> Network:
    request = at_usual_size(job.request, job.dynamic_size)
    network = load_network(job.source, request) if job.load is None else job.load(request)
    if network.given is not None:
        from ..source.onnx_source import settle_batch

        settle_batch(network, dynamic=job.dynamic_batch is not None)
    if job.preprocessing is not None:
        network.preprocessing = preprocessing_given(job.preprocessing)
    if job.fold:
        fold_preprocessing(network)
    if job.nms is not None:
        suppress(network, job.postprocess, job.nms)
    if job.dynamic_batch is not None:
        refuse_batch(network)
    if job.dynamic_size is not None:
        refuse_sizes(network, job.dynamic_size)
        network.warnings += gaps(network, job.dynamic_size)
    return network


def _write_graph(draft: Draft, job: Job, network: Network, data: Judges | None, clock: Clock) -> Steps:
    """Everything up to the verified ONNX file, into the draft."""
    cost = count_module(network.module, network.examples)
    with clock.step("reference"):
        reference = reference_of(network, cost, data=None if data is None else data.of_inputs(network.inputs))
        reference = at_batch(network, cost, reference, within(reference.batch, job.dynamic_batch))
        for line in said_of(reference, open_batch=job.dynamic_batch is not None):
            warnings.warn(line, PlainconvWarning, stacklevel=2)
            network.warnings += (line,)
        at_corners = corners(network, reference, cost, job.dynamic_batch, job.dynamic_size)
        steps = Steps(reference, data, draft.manifest.parities)
        if data is not None:
            steps.check(EAGER, run_module(network.module, _types(network)), judged=False)
    if network.given is None:
        traced = _plain_network(job, network, cost, steps, clock)
    else:
        traced = _given_graph(job, network, cost)
    _fill(draft, network, traced, job)
    with clock.step("onnx"):
        draft.manifest.counts |= _write_onnx(draft, job, network, traced)
        network.warnings += images.fill(draft.manifest, network, _postprocess(job, network), job.classes)
        del traced
        gc.collect()
    with clock.step("parity"):
        run = onnx_run(draft.file(MODEL), draft.manifest.inputs)
        steps.check(ONNX, run)
        steps.raise_failed()
        check_corners(steps, at_corners, ONNX, run)
        steps.raise_failed()
        reference.save(draft.path(REFERENCE))
    draft.link_onnx()
    return steps


def _plain_network(job: Job, network: Network, cost: Cost, steps: Steps, clock: Clock) -> Traced:
    """Reparameterize the network, which is dropped, and check the plain one."""
    from ..to_onnx.export import graph_from_module

    with clock.step("reparameterize"):
        plain, report = reparameterize(
            network.module, network.examples, check=job.end_to_end, open_sizes=job.dynamic_size is not None
        )
        if job.dynamic_batch is not None and report.guards:
            refuse_batch_guards(network, plain, cost, job.dynamic_batch)
        del network.module  # and its weights with it
        gc.collect()
        steps.check(PLAIN, run_module(plain, _types(network)))
        steps.raise_failed()
        if job.dynamic_size is not None:
            refuse_guards(network.name, plain, network.inputs, job.dynamic_size)
    counts = {
        "training": {**cost_json(cost, report.counts_before), "ops": dict(sorted(report.ops_before.items()))},
        "plain": cost_json(count_module(plain, network.examples), report.counts_after),
    }
    first = "checkpoint" if "checkpoint" in network.provenance else "initialization"
    return Traced(
        partial(
            graph_from_module,
            plain,
            network.examples,
            input_names=tuple(network.inputs),
            dynamic_batch=job.dynamic_batch is not None,
            dynamic_size=job.dynamic_size is not None,
            opset=job.opset or MIN_OPSET,
            output_names=network.output_names,
        ),
        counts,
        ((first, network.weights_sha256), ("plain", weights_sha256(plain))),
        {"reparameterization": report_json(report)},
    )


def _postprocess(job: Job, network: Network) -> str | None:
    return (network.postprocess if job.nms is not None else job.postprocess) or network.postprocess


def _types(network: Network) -> list[torch.dtype]:
    return [x.dtype for x in network.examples]


def _given_graph(job: Job, network: Network, cost: Cost) -> Traced:
    """The graph of an ONNX file as it is."""
    from ..source.onnx_source import graph_at

    assert network.given is not None
    sizes = None if job.dynamic_size is None else (job.dynamic_size[0], job.dynamic_size[2])
    graph = graph_at(network, dynamic_batch=job.dynamic_batch is not None, sizes=sizes)
    del network.module
    ops = dict(sorted(Counter(node.op for node in graph.nodes).items()))
    layers = {
        "conv": sum(ops.get(op, 0) for op in ("Conv", "ConvTranspose")),
        "linear": sum(ops.get(op, 0) for op in ("Gemm", "MatMul")),
        "norm": sum(count for op, count in ops.items() if op.endswith("Normalization")),
    }
    return Traced(
        lambda: graph,
        {"training": {**cost_json(cost, layers), "nodes": sum(ops.values()), "ops": ops}},
        (("source", network.weights_sha256),),
        metadata=network.given.metadata,
    )


def _write_onnx(draft: Draft, job: Job, network: Network, traced: Traced) -> dict[str, Any]:
    """Surgery, the file and what the manifest says of it; returns the counts."""
    graph = traced.graph()
    surgery = run_passes(graph, fixed_size=job.dynamic_size is None)
    cost = count_onnx(graph, {name: tuple(x.shape) for name, x in network.inputs.items()})
    provenance = {"source": job.source, "weights_sha256": network.weights_sha256, "producer": "plainconv"}
    write(graph, draft.path(MODEL), {**traced.metadata, **provenance})
    check(draft.file(MODEL))
    draft.manifest.inputs = tuple(spec(t) for t in graph.inputs)
    draft.manifest.outputs = tuple(spec(t) for t in graph.outputs)
    size = sum(p.stat().st_size for p in draft.folder.glob(f"{MODEL}*"))
    nodes = {"nodes": sum(cost.nodes.values()), "ops": dict(cost.nodes)}
    macs = {} if cost.macs is None else {"macs": cost.macs}
    counts = {"onnx": {"parameters": cost.parameters, **macs, **nodes, "bytes": size}}
    if network.given is None:
        counts["onnx, as traced"] = {"nodes": sum(surgery.before.values()), "ops": dict(surgery.before)}
    return counts


def _fill(draft: Draft, network: Network, traced: Traced, job: Job) -> None:
    manifest = draft.manifest
    manifest.name = network.name
    manifest.source = dict(network.provenance)
    shapes = {"dynamic_batch": job.dynamic_batch, "dynamic_size": job.dynamic_size}
    manifest.source |= {name: list(shape) for name, shape in shapes.items() if shape is not None}
    manifest.counts = dict(traced.counts)
    manifest.tools = versions()
    manifest.extra |= traced.extra
    for step, sha256 in traced.links:
        draft.link(step, sha256=sha256)


def validate_bundle(path: Path, *, eval_data: Path | None) -> list[str]:
    """Open the bundle, which verifies it, and measure its graphs and engines again against their float64 references.

    The measured parities replace those in the manifest. Returns what of all that could be executed did not hold.
    """
    bundle = Bundle.open(path)
    reference = Reference.load(bundle.file(REFERENCE))
    data = judges_of_bundle(bundle.manifest, reference, eval_data)
    total = 1 + len(bundle.manifest.graphs) + len(bundle.manifest.cpu_graphs) + len(bundle.engines) + len(bundle.splits)
    with (
        track(f"validating {bundle.manifest.name}", total=total, unit="steps") as bar,
        update_bundle(path) as draft,
    ):
        manifest = draft.manifest
        manifest.parities[:] = [p for p in manifest.parities if p["step"] != ONNX]
        steps = Steps(reference, data, manifest.parities)
        steps.check(ONNX, onnx_run(bundle.onnx, bundle.inputs))
        bar.advance(1)
        for graph in manifest.graphs:
            check_graph(draft, graph, steps)
            bar.advance(1)
        for graph in manifest.cpu_graphs:
            check_cpu_graph(draft, graph, steps)
            bar.advance(1)
        for record in manifest.engines:
            check_engine(draft, record, steps)
            bar.advance(1)
        for split in manifest.splits:
            check_split(draft, split, steps)
            for records in split_loading.sets_of_engines(split):
                check_part_engines(draft, split, records, steps)
            bar.advance(1)
    return steps.failed
