"""Running a bundle: its best engine that this machine can run, or ONNX Runtime on its ONNX graph."""

from collections.abc import Sequence
from pathlib import Path

from plainconv.exporter.bundle import Bundle, Draft, EngineRecord
from plainconv.exporter.errors import EngineError

from .backend import backends
from .choice import graph_of, speed, why_not_run
from .cuda.runtime import CudaRuntime
from .onnxruntime.runner import OnnxRuntimeRunner
from .runner import Runner
from .split_loading import load_split
from .tensorrt.loaded import loaded
from .tensorrt.runner import TensorRTRunner


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


def _by_speed(bundle: Bundle, engine: str, precision: str) -> list[EngineRecord]:
    """The engines that were asked for, the fastest first."""
    wanted = [r for r in bundle.engines if engine in ("auto", r.backend) and precision in ("auto", r.precision)]
    return sorted(wanted, key=speed)
