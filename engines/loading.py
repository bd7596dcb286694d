"""Running a bundle: its best engine that this machine can run, or ONNX Runtime on its ONNX graph."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from plainconv.exporter.bundle import Bundle, Draft, EngineRecord, Manifest
from plainconv.exporter.errors import EngineError

from .backend import backends
from .choice import by_speed, graph_of, merged, say_why, speed, why_not_run, why_words
from .cuda.runtime import CudaRuntime
from .onnxruntime.runner import OnnxRuntimeRunner
from .onnxruntime.session import SessionOptions, provider_of
from .runner import Runner
from .schedule import whole
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
    device: int = 0,
    devices: Sequence[int] | None = None,
    timeout: float = 60.0,
    eager_kernels: bool = False,
) -> Runner:
    """A runner for a bundle: its best engine that this machine can run, or ONNX Runtime on its ONNX graph.

    With `devices` a runner for the parts that the bundle is split into: their engines on these GPUs, or ONNX Runtime on
    as many groups of this machine's cores. Devices beyond those that the split uses are left alone, and one may stand
    for several: [0, 0, 0] runs parts for three devices on three streams of one. Of a bundle that is not split,
    `devices` may be one number, as `device` is.

    With "auto", an engine that cannot run here makes room for the next, and that for ONNX Runtime: a PlainconvWarning
    says why, unless the next is as fast and this one for another GPU.

    Args:
        bundle: the folder, or a `Bundle` that is open.
        engine: "auto", or one of "tensorrt", "tensorrt_rtx" and "onnxruntime" to have that and nothing else.
        precision: "auto", or one that the bundle holds. Of the engines that run here "auto" takes the fastest,
            `FASTEST_FIRST`; ONNX Runtime then takes the fp32 graph, as few of its kernels on a CPU are faster in
            another.
        threads: of ONNX Runtime; 0 is one per core. Parts have them each, on its own cores.
        providers: of ONNX Runtime: "auto", "cpu", "cuda", "tensorrt" or "tensorrt_rtx"; parts run on the CPU.
        device: the GPU that runs it whole, by its number in the order of CUDA_VISIBLE_DEVICES.
        devices: the GPU, or group of cores, for each device that the network is split for.
        timeout: seconds that a call of engines may take, or one of parts.
        eager_kernels: TensorRT-RTX compiles its kernels for a new shape before the first call of it ends, and not
            beside the calls that follow: slow once, then even. To measure by, or where no call may be slower.

    Raises BundleError where the bundle does not open, EngineError where what was asked for cannot run here.
    """
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    runner = _loaded(opened, engine, precision, threads, providers, device, devices, timeout, eager_kernels)
    runner.predictor = partial(_predict, opened.manifest)
    return runner


def _predict(manifest: Manifest, runner: Runner, image: Any) -> Any:
    """What a bundle's network says of an image. Pillow is imported when it is used."""
    from .predict.predictor import predictor_of

    return predictor_of(manifest)(runner, image)


def _loaded(
    opened: Bundle,
    engine: str,
    precision: str,
    threads: int,
    providers: str,
    device: int,
    devices: Sequence[int] | None,
    timeout: float,
    eager_kernels: bool,
) -> Runner:
    names = [backend.name for backend in backends()]
    if engine not in ("auto", *names):
        raise EngineError(f"unknown engine {engine!r}; wanted one of auto, {', '.join(names)}")
    if devices is not None and len(devices) == 1 and not opened.splits:
        device, devices = devices[0], None
    if device < 0:
        raise EngineError(f"device is {device}; wanted the number of a GPU, 0 or more")
    if devices is not None:
        return load_split(
            opened,
            engine,
            precision,
            devices,
            threads=threads,
            providers=providers,
            timeout=timeout,
            eager_kernels=eager_kernels,
        )
    reasons: dict[str, list[str]] = {}
    alike: dict[str, list[str]] = {}  # for other GPUs, no faster than what comes after them
    rank = None
    for record in by_speed(opened.engines, engine, precision):
        if speed(record) != rank:
            rank, reasons, alike = speed(record), merged(reasons, alike), {}
        reason = why_not_run(record, device)
        if reason is not None:
            alike.setdefault(reason, []).append(record.file)
            continue
        try:
            runner = run_record(opened, record, device, timeout=timeout, eager_kernels=eager_kernels)
        except EngineError as error:
            reason = str(error).removeprefix(f"{record.file} cannot run here: ")
            reasons.setdefault(reason, []).append(record.file)
            continue
        say_why(reasons, record.file)
        return runner
    reasons = merged(reasons, alike)
    if engine in ("auto", "onnxruntime"):
        say_why(reasons, "ONNX Runtime")
        precision = "fp32" if precision == "auto" else precision
        on_cpu = provider_of(SessionOptions(providers, device=device)) == "cpu"
        graph, _ = graph_of(opened.manifest, precision, on_cpu=on_cpu)
        try:
            return OnnxRuntimeRunner(
                opened.file(graph),
                providers=providers,
                threads=threads,
                precision=precision,
                device=device,
                read=opened.graph,
            )
        except EngineError as error:
            if precision == "fp32":
                raise
            raise EngineError(f"ONNX Runtime may lack {precision} here: {error}, or load another precision") from error
    of, options = (engine, "") if precision == "auto" else (f"{engine} {precision}", f" --precision {precision}")
    missing = f"{opened.folder} holds no {of} engine; build one with `exporter build --engine {engine}{options}`"
    raise EngineError(next(iter(why_words(reasons)), missing))


def run_record(
    bundle: Bundle | Draft,
    record: EngineRecord,
    device: int = 0,
    *,
    timeout: float = 60.0,
    eager_kernels: bool = True,
) -> Runner:
    """A runner for one engine of a bundle, which `why_not_run` must have no objection to, on that GPU.

    Raises EngineError where the runtime has one, or the GPU's memory does not suffice.
    """
    cuda = CudaRuntime()
    inputs, outputs = bundle.manifest.inputs, bundle.manifest.outputs
    return TensorRTRunner(
        whole(inputs, outputs),
        [loaded(bundle, record, device, cuda, eager=eager_kernels)],
        cuda,
        devices=(device,),
        backend=record.backend,
        precision=record.precision,
        inputs=inputs,
        outputs=outputs,
        profiles=record.profiles,
        timeout=timeout,
    )
