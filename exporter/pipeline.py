"""The main job: SOURCE → plain network → ONNX → engine, with parity after every step, written as one bundle.

What a step no longer needs is dropped before the next one starts: the eager network once the plain one exists, the
plain one once its ONNX file is written. The float64 reference of the eager network stays, and goes into the bundle.
"""

import gc
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from torch import fx

from .bundle import Bundle, Draft, TensorSpec, check_target, update_bundle, write_bundle
from .bundle.manifest import MODEL
from .count import Cost, count_module, count_onnx
from .errors import CheckFailedError, ExportError, PlainconvWarning
from .parity import (
    EvalData,
    Parity,
    Reference,
    Run,
    accuracy,
    correctness,
    not_executed,
    read_eval_data,
    reference_from_module,
    run_module,
    run_onnx,
)
from .progress import track
from .reparam import Report, reparameterize
from .rooms import room
from .source import Network, Request, load_network, weights_sha256
from .surgery import run_passes
from .surgery.onnx_file import check, write
from .to_onnx import MAX_OPSET, MIN_OPSET, graph_from_module, producer_version

REFERENCE = "reference.npz"
TOOLS = ("torch", "onnx", "onnxscript", "onnxruntime", "onnx-graphsurgeon", "polygraphy", "numpy", "tensorrt-rtx")
EAGER, PLAIN, ONNX = "eager float32", "plain network", "ONNX (ONNX Runtime)"


@dataclass(frozen=True)
class Job:
    """One export: what, from which weights, to where and how."""

    source: str
    request: Request
    target: Path
    force: bool = False
    dynamic_batch: tuple[int, int, int] | None = None
    opset: int = MIN_OPSET
    eval_data: Path | None = None
    end_to_end: bool = True


@dataclass
class Steps:
    """Parities, accuracies and seconds, as the steps are taken."""

    reference: Reference
    data: EvalData | None
    parities: list[dict[str, Any]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    right: np.ndarray | None = None

    def check(self, step: str, run: Run, *, judged: bool = True) -> None:
        """Compare one step with the reference and, where there are labels, count what it gets right."""
        counted = None
        if self.data is not None:
            right = correctness(run, self.data, self.reference.batch)
            self.right = right if self.right is None else self.right
            counted = accuracy(step, right, self.right)
        if not judged:
            assert counted is not None
            self.parities.append({"step": step, "status": "the reference", "accuracy": _accuracy_json(counted)})
            return
        for parity in self.reference.judge(step, run):
            self.add(parity, _accuracy_json(counted) if counted else None)
        if counted is not None and not counted:
            self.failed.append(str(counted))

    def add(self, parity: Parity, counted: Mapping[str, Any] | None = None) -> None:
        """Keep the record of one step."""
        self.parities.append(parity.as_json() | ({"accuracy": counted} if counted else {}))
        if parity.failed:
            self.failed.append(str(parity))


def _accuracy_json(counted: Any) -> dict[str, Any]:
    return {"correct": counted.correct, "images": counted.images, "changed": counted.changed}


class Clock:
    """Seconds of each step."""

    def __init__(self, total: int) -> None:
        self.seconds: dict[str, float] = {}
        self.total = total
        self._show: Callable[[int, str], None] = lambda steps, note: None

    @contextmanager
    def running(self, what: str) -> Iterator[None]:
        """Show how many of the steps are done."""
        with track(what, total=self.total, unit="steps") as bar:
            self._show = bar.advance
            yield

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time one step."""
        self._show(0, name)
        started = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started
        self._show(1, "")


def export_bundle(job: Job, *, engine: str, targets: tuple[str, ...]) -> Path:
    """Do the whole job; returns the bundle's folder.

    Raises PlainconvError for what the user can mend, before anything is written where that is possible, and
    CheckFailedError where a parity or an accuracy does not hold; no bundle is written then. Parities that could not be
    certified stand in the bundle as such.
    """
    target = check_target(job.target, job.force)
    if not MIN_OPSET <= job.opset <= MAX_OPSET:
        raise ExportError(f"opset {job.opset} is out of range; wanted {MIN_OPSET} to {MAX_OPSET}: --opset N")
    engines = room("engines") if engine != "none" else None
    if engines is not None:
        engines.check_request(engine, targets)
    clock = Clock(5 if engines is None else 6)
    with clock.running(f"exporting {job.source}"):
        with clock.step("load"):
            network = load_network(job.source, job.request)
            data = read_eval_data(job.eval_data, tuple(network.example.shape[1:])) if job.eval_data else None
        for warning in network.warnings:
            warnings.warn(warning, PlainconvWarning, stacklevel=2)
        with write_bundle(target, job.force) as draft:
            steps = _write_graph(draft, job, network, data, clock)
            if engines is not None:
                with clock.step("engine"):
                    record = engines.build_into(draft, engine=engine, targets=targets, dynamic_batch=job.dynamic_batch)
                    _check_engine(steps, engines, draft, record)
            draft.manifest.parities = steps.parities
            draft.manifest.extra["warnings"] = list(network.warnings)
            draft.manifest.extra["seconds"] = {name: round(s, 3) for name, s in clock.seconds.items()}
            _raise_failed(steps)
    return target


def _write_graph(draft: Draft, job: Job, network: Network, data: EvalData | None, clock: Clock) -> Steps:
    """Everything up to the verified ONNX file, into the draft."""
    cost = count_module(network.module, network.example)
    with clock.step("reference"):
        reference = reference_from_module(network.module, network.example, macs=cost.macs, longest_sum=cost.longest_sum)
        steps = Steps(reference, data)
        if data is not None:
            steps.check(EAGER, run_module(network.module), judged=False)
    with clock.step("reparameterize"):
        plain, report = reparameterize(network.module, network.example, check=job.end_to_end)
        del network.module  # and its weights with it
        gc.collect()
        steps.check(PLAIN, run_module(plain))
        _raise_failed(steps)
    counts = {
        "training": _cost_json(cost, report.counts_before),
        "plain": _cost_json(count_module(plain, network.example), report.counts_after),
    }
    links = (network.weights_sha256, weights_sha256(plain))
    with clock.step("onnx"):
        counts |= _write_onnx(draft, job, network, plain)
        del plain
        gc.collect()
    with clock.step("parity"):
        steps.check(ONNX, run_onnx(draft.file(MODEL)))
        _raise_failed(steps)
        reference.save(draft.path(REFERENCE))
    _fill(draft, network, counts, report, links)
    return steps


def _write_onnx(draft: Draft, job: Job, network: Network, plain: fx.GraphModule) -> dict[str, Any]:
    graph = graph_from_module(plain, network.example, dynamic_batch=job.dynamic_batch is not None, opset=job.opset)
    surgery = run_passes(graph, fixed_size=True)  # a bundle has one spatial size
    cost = count_onnx(graph)
    provenance = {"source": job.source, "weights_sha256": network.weights_sha256, "producer": "plainconv"}
    write(graph, draft.path(MODEL), provenance)
    check(draft.file(MODEL))
    shape = list(network.example.shape)
    axes: tuple[int | str, ...] = ("batch", *shape[1:]) if job.dynamic_batch else tuple(shape)
    draft.manifest.inputs = (TensorSpec("input", "float32", axes),)
    draft.manifest.outputs = tuple(
        TensorSpec(t.name, str(np.dtype(t.dtype)), tuple(a if isinstance(a, int) else str(a) for a in t.shape))
        for t in graph.outputs
    )
    size = sum(p.stat().st_size for p in draft.folder.glob(f"{MODEL}*"))
    nodes = {"nodes": sum(cost.nodes.values()), "ops": dict(cost.nodes)}
    return {
        "onnx, as traced": {"nodes": sum(surgery.before.values()), "ops": dict(surgery.before)},
        "onnx": {"parameters": cost.parameters, "macs": cost.macs, **nodes, "bytes": size},
    }


def _cost_json(cost: Cost, ops: Mapping[str, int]) -> dict[str, Any]:
    layers = {"convs": ops["conv"], "linears": ops["linear"], "norms": ops["norm"]}
    return {"parameters": cost.parameters, "macs": cost.macs, **layers}


def _fill(draft: Draft, network: Network, counts: Mapping[str, Any], report: Report, links: tuple[str, str]) -> None:
    manifest = draft.manifest
    manifest.name = network.name
    manifest.source = dict(network.provenance)
    manifest.preprocessing = dict(network.preprocessing) or None
    manifest.counts = dict(counts)
    manifest.tools = {"plainconv": producer_version(), "python": sys.version.split()[0], **_versions()}
    manifest.extra["reparameterization"] = {
        "regions": len(report.regions),
        "worst_region_error": max((r.error for r in report.regions), default=0.0),
        "largest_growth": max((r.growth for r in report.regions if r.growth == r.growth), default=1.0),
        "tracer": report.tracer,
        "end_to_end": _end_to_end_json(report),
        "left_alone": sorted({f"{r.code}: {r.found}" for r in report.refusals}),
    }
    weights, plain = links
    draft.link("checkpoint" if "checkpoint" in manifest.source else "initialization", sha256=weights)
    draft.link("plain", sha256=plain)
    draft.link_onnx()


def _end_to_end_json(report: Report) -> dict[str, Any] | str:
    found = report.end_to_end
    if found is None:
        return "skipped"
    return {"shapes": [list(shape) for shape in found.shapes], "error": found.error, "tolerance": found.tolerance}


def _versions() -> dict[str, str]:
    found = {}
    for name in TOOLS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _check_engine(steps: Steps, engines: Any, draft: Draft, record: Any) -> None:
    """The engine against the reference where this machine can run it; else say why not."""
    step = f"engine ({record.backend})"
    reason = engines.why_not_run(record)
    if reason is not None:
        for name in steps.reference.names:
            steps.add(not_executed(step, name, reason))
        return
    with engines.run_record(draft, record) as runner:
        steps.check(step, _run_of(runner))


def _run_of(runner: Any) -> Run:
    def run(*arrays: np.ndarray) -> list[np.ndarray]:
        feeds = dict(zip((spec.name for spec in runner.inputs), arrays, strict=True))
        outputs = runner(feeds)
        return [outputs[spec.name] for spec in runner.outputs]

    return run


def _raise_failed(steps: Steps) -> None:
    if steps.failed:
        raise CheckFailedError(f"{steps.failed[0]}; no bundle was written")


def validate_bundle(path: Path, *, eval_data: Path | None) -> list[str]:
    """Open the bundle, which verifies it, and measure ONNX and engine again against its float64 reference.

    The measured parities replace those in the manifest. Returns what of all that could be executed did not hold.
    """
    bundle = Bundle.open(path)
    engines = room("engines")
    reference = Reference.load(bundle.file(REFERENCE))
    shape = bundle.inputs[0].shape[1:]
    data = read_eval_data(eval_data, tuple(int(a) for a in shape)) if eval_data else None
    steps = Steps(reference, data)
    with track(f"validating {bundle.manifest.name}", total=1 + len(bundle.engines), unit="steps") as bar:
        steps.check(ONNX, run_onnx(bundle.onnx))
        bar.advance(1)
        with update_bundle(path) as draft:
            for record in bundle.engines:
                _check_engine(steps, engines, draft, record)
                bar.advance(1)
            kept = [p for p in draft.manifest.parities if p["step"] in (EAGER, PLAIN)]
            draft.manifest.parities = kept + steps.parities
    return steps.failed
