"""Running a bundle: its best engine that this machine can run, or ONNX Runtime on its ONNX graph."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from exporter.bundle import Bundle, Draft, EngineRecord, GraphRecord, Manifest
from exporter.errors import EngineError

from .backend import backends
from .contexts import Contexts, contexts_of
from .cuda import CudaRuntime
from .gpu import find_gpu
from .onnxruntime import OnnxRuntimeRunner
from .runner import Runner
from .tensorrt import deserialize, import_runtime, validity
from .tensorrt_runner import TensorRTRunner

FASTEST_FIRST = ("fp8+fp16", "fp8+bf16", "fp8", "int8+fp16", "int8+bf16", "int8", "fp16", "bf16", "fp32")
"""The order in which `load` takes engines of one backend."""


def load(
    bundle: Bundle | Path | str,
    engine: str = "auto",
    *,
    precision: str = "auto",
    threads: int = 0,
    providers: str = "auto",
    devices: Sequence[int] | None = None,
    timeout: float = 60.0,
) -> Runner:
    """A runner for a bundle: its best engine that this machine can run, or ONNX Runtime on its ONNX graph.

    With `devices` a runner for the parts that the bundle is split into: their engines on these GPUs, or ONNX Runtime on
    as many groups of this machine's cores. Devices beyond those that the split uses are left alone, and one may stand
    for several: [0, 0, 0] runs parts for three devices on three streams of one.

    Args:
        bundle: the folder, or a `Bundle` that is open.
        engine: "auto", or one of "tensorrt", "tensorrt_rtx" and "onnxruntime" to have that and nothing else.
        precision: "auto", or one that the bundle holds. Of the engines that run here "auto" takes the fastest,
            `FASTEST_FIRST`; ONNX Runtime then takes the fp32 graph, as few of its kernels on a CPU are faster in
            another.
        threads: of ONNX Runtime; 0 is one per core. Parts have them each, on its own cores.
        providers: of ONNX Runtime: "auto", "cpu", "cuda" or "tensorrt"; parts run on the CPU.
        devices: the GPU, or group of cores, for each device that the network is split for.
        timeout: seconds that a call of parts may take.

    Raises BundleError where the bundle does not open, EngineError where what was asked for cannot run here.
    """
    names = [backend.name for backend in backends()]
    if engine not in ("auto", *names):
        raise EngineError(f"unknown engine {engine!r}; wanted one of auto, {', '.join(names)}")
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    if devices is not None:
        from .split_loading import load_split

        return load_split(opened, engine, precision, devices, threads=threads, providers=providers, timeout=timeout)
    reasons = []
    for record in _by_speed(opened, engine, precision):
        reason = why_not_run(record)
        if reason is None:
            return run_record(opened, record)
        reasons.append(f"{record.file} cannot run here: {reason}")
    if engine in ("auto", "onnxruntime"):
        precision = "fp32" if precision == "auto" else precision
        graph, _ = graph_of(opened.manifest, precision)
        try:
            return OnnxRuntimeRunner(opened.file(graph), providers=providers, threads=threads, precision=precision)
        except EngineError as error:
            if precision == "fp32":
                raise
            raise EngineError(f"ONNX Runtime may lack {precision} here: {error}, or load another precision") from error
    of, options = (engine, "") if precision == "auto" else (f"{engine} {precision}", f" --precision {precision}")
    missing = f"{opened.folder} holds no {of} engine; build one with `exporter build --engine {engine}{options}`"
    raise EngineError(reasons[0] if reasons else missing)


def why_not_run(record: EngineRecord, number: int = 0) -> str | None:
    """Why the GPU of that number cannot run an engine, with the remedy; None where it can. Imports nothing heavy."""
    backend = next((backend for backend in backends() if backend.name == record.backend), None)
    if backend is None:
        return f"{record.backend} is not a runtime this program knows; install the plainconv that built it"
    try:
        gpu = find_gpu(number)
    except EngineError as error:
        return str(error)
    if not backend.installed:
        return f"{backend.name} is not installed; {backend.remedy}"
    if backend.version != record.backend_version:
        return (
            f"it was built by {backend.name} {record.backend_version}, here is {backend.version}; "
            "build it again with `exporter build`"
        )
    if gpu.target not in record.targets:
        return f"it is for {', '.join(record.targets)}, the {gpu.name} here is {gpu.target}; build it for that"
    if record.device not in (None, gpu.name):
        return f"it is for an {record.device}, here is an {gpu.name}; build it again with `exporter build`"
    return None


def run_record(bundle: Bundle | Draft, record: EngineRecord) -> Runner:
    """A runner for one engine of a bundle, which `why_not_run` must have no objection to.

    Raises EngineError where the runtime has one, or the GPU's memory does not suffice.
    """
    cuda = CudaRuntime()
    runtime, engine, contexts = loaded(bundle, record)
    return TensorRTRunner(
        engine,
        cuda,
        backend=record.backend,
        precision=record.precision,
        inputs=bundle.manifest.inputs,
        outputs=bundle.manifest.outputs,
        profiles=record.profiles,
        contexts=contexts,
        outlives=runtime,
    )


def loaded(bundle: Bundle | Draft, record: EngineRecord) -> tuple[Any, Any, Contexts]:
    """The runtime, the engine that it must outlive, and its contexts, on the GPU that this thread uses.

    Raises EngineError where the runtime does not take it.
    """
    backend = next(backend for backend in backends() if backend.name == record.backend)
    data = bundle.read(record.file)
    reason = validity(data, backend)
    if reason is not None:
        raise EngineError(f"{record.file} cannot run here: {reason}; build it again with `exporter build`")
    runtime, engine = deserialize(data, backend)
    return runtime, engine, contexts_of(import_runtime(backend), engine)


def graph_of(manifest: Manifest, precision: str, part: str = "") -> tuple[str, str]:
    """The ONNX file of that precision, or of a part of its split, and its hash.

    Raises EngineError where the bundle has none.
    """
    if part:
        parts = [p for split in manifest.splits if split.precision == precision for p in split.parts]
        found = next((p for p in parts if p.name == part), None)
        if found is None:
            raise EngineError(f"there is no part {part} of a {precision} split in the bundle; see `exporter split`")
        return found.file, found.sha256
    graphs: dict[str, GraphRecord] = {graph.precision: graph for graph in manifest.graphs}
    link = next((link for link in manifest.chain if link.step == "onnx"), None)
    if link is None:
        raise EngineError("the draft has no ONNX model linked; link_onnx before building an engine")
    if precision == "fp32":
        return link.files[0], link.sha256
    if precision not in graphs:
        has = ", ".join(["fp32", *graphs])
        raise EngineError(
            f"there is no {precision} graph in the bundle, which has {has}; see `exporter build --precision`"
        )
    return graphs[precision].file, graphs[precision].sha256


def _by_speed(bundle: Bundle, engine: str, precision: str) -> list[EngineRecord]:
    """The engines that were asked for, the fastest first."""
    wanted = [r for r in bundle.engines if engine in ("auto", r.backend) and precision in ("auto", r.precision)]
    return sorted(wanted, key=speed)


def speed(record: EngineRecord) -> tuple[int, int]:
    """The rank of an engine, the fastest first: its backend's, then its precision's."""
    rank = {backend.name: i for i, backend in enumerate(backends())}
    of_precision = {name: i for i, name in enumerate(FASTEST_FIRST)}
    return rank.get(record.backend, len(rank)), of_precision.get(record.precision, len(of_precision))
