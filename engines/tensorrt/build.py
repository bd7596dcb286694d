"""ONNX → engine, by TensorRT or TensorRT-RTX: one API, one code.

Polygraphy's loaders were the other base. They pick the runtime once per process, by an environment variable; print what
parser and builder say instead of handing it out; and on Ctrl-C terminate the process, which leaves a half-written
folder. All they would save is the dozen lines that create a network, a parser and a config.
"""

import contextlib
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from plainconv.exporter.errors import EngineError
from plainconv.exporter.progress import track

from ..backend import Backend
from ..cuda.gpu import find_gpu
from ..cuda.runtime import CudaRuntime
from ..options import BuildOptions, Profile, option_problems
from .bindings import RAISED, asked, import_runtime
from .builder_log import log_of, text_of, warnings_of, why_not_built
from .builder_progress import Phases, interruptible, monitor_of
from .inspector import check_inspected
from .network import add_profiles, empty_network, parse, precisions_of, types_of_layers
from .targets import TURING, checked_targets, targets_for
from .timing_cache import read_cache, refuse_cache, write_cache

_NO_BUILDER = "{} {} does not start to build; see whether nvidia-smi runs and the driver is recent"
_ONE_BUILD = threading.Lock()  # at a time: they share a logger, and what `_forget_failure` clears


@dataclass(frozen=True)
class Compiled:
    """An engine in memory, a buffer of bytes, and the facts of its build. `EngineRecord` says what they mean.

    `layers` gives, for each convolution and matrix product by the name of its ONNX node, the type that it computes in.
    """

    data: Any
    version: str
    precision: str
    tf32: bool
    targets: tuple[str, ...]
    device: str | None
    profiles: tuple[Profile, ...]
    layers: Mapping[str, str]
    seconds: float
    warnings: tuple[str, ...]
    log: str


def compile_onnx(onnx: Path, backend: Backend, options: BuildOptions = BuildOptions()) -> Compiled:
    """Compile the ONNX file at `onnx` (its external data beside it) into an engine of exactly the graph's precisions.

    Shows a progress bar; Ctrl-C ends the build at its next step. Raises EngineError where the backend cannot be
    imported, parse the file or build the engine, and where the options do not suit the backend or the graph.
    """
    check_options(backend, options)
    trt = import_runtime(backend)
    targets = checked_targets(trt, backend, options.targets, options.device)
    if not onnx.is_file():
        raise EngineError(f"{onnx}: no such file, wanted an ONNX model; see to its path")
    with track(f"building the {backend.name} engine", total=100, unit="%") as bar:
        phases = Phases(bar)
        monitor = monitor_of(trt, phases)
        compiled = interruptible(
            lambda: _compiled(trt, onnx, backend, targets, options, monitor), stop=monitor.end_build
        )
        phases.complete()
    return compiled


def check_options(backend: Backend, options: BuildOptions) -> None:
    """Raise EngineError for options that this backend does not take, whatever the graph and the targets."""
    problems = option_problems(options)
    if problems:
        raise EngineError(problems[0])
    if options.timing_cache is not None:
        refuse_cache(backend, options.timing_cache)


def _compiled(
    trt: ModuleType, onnx: Path, backend: Backend, targets: tuple[str, ...], options: BuildOptions, monitor: Any
) -> Compiled:
    started = time.perf_counter()
    if options.device:  # a new thread is on GPU 0
        CudaRuntime().use_device(options.device)
    with _ONE_BUILD, log_of(trt).recording() as lines:
        builder = asked(_NO_BUILDER.format(backend.name, trt.__version__), trt.Builder, log_of(trt))
        network = parse(trt, builder, onnx, lines)
        precisions, layers = precisions_of(network), types_of_layers(network)
        targets = targets_for(backend, targets, precisions, chosen=bool(options.targets))
        config = builder.create_builder_config()
        config.progress_monitor = monitor
        _configure(trt, config, backend, targets, options)
        add_profiles(builder, config, network, options.profiles, onnx.name)
        if options.timing_cache is not None:
            read_cache(config, options.timing_cache)
        refusal = f"{onnx.name}: {backend.name} cannot build it; give --engine none to go without"
        data = asked(refusal, builder.build_serialized_network, network, config)
        seconds = time.perf_counter() - started
        if data is None and backend.takes_targets:
            _forget_failure(trt)
        if data is not None and options.timing_cache is not None:
            write_cache(config, options.timing_cache)
        if data is not None and _runs_here(targets, options.device):
            check_inspected(layers, _inspected(trt, data))
    if data is None:
        raise EngineError(
            f"{onnx.name}: {backend.name} cannot build it for {', '.join(targets)}: {why_not_built(lines)}"
        )
    warnings = warnings_of(lines)
    if TURING in targets and len(targets) > 1:
        warnings += (f"{TURING} makes an engine slower on every other target; build it alone",)
    return Compiled(
        data=data,
        version=str(trt.__version__),
        precision=precisions[0],
        tf32=options.tf32,
        targets=targets,
        device=None if backend.builds_without_gpu else find_gpu(options.device).name,
        profiles=options.profiles,
        layers=layers,
        seconds=seconds,
        warnings=warnings,
        log=text_of(lines).replace(f"{onnx.parent}/", ""),
    )


def _configure(trt: ModuleType, config: Any, backend: Backend, targets: tuple[str, ...], options: BuildOptions) -> None:
    if backend.takes_targets:
        config.num_compute_capabilities = len(targets)
        for i, target in enumerate(targets):
            config.set_compute_capability(trt.ComputeCapability.__members__[target.upper()], i)
    if not options.tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    if options.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.max_aux_streams is not None:
        config.max_aux_streams = options.max_aux_streams
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # what `_inspected` reads


def _runs_here(targets: tuple[str, ...], device: int) -> bool:
    """Whether an engine for these targets can be loaded on this machine."""
    with contextlib.suppress(EngineError):
        return find_gpu(device).target in targets
    return False


def _inspected(trt: ModuleType, data: Any) -> str:
    """What the engine says of its layers, as JSON; empty where it cannot be loaded, which is for its runner to say."""
    try:
        runtime = trt.Runtime(log_of(trt))
        engine = runtime.deserialize_cuda_engine(data)
    except RAISED:
        return ""
    if engine is None:
        return ""
    return str(engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON))


def _forget_failure(trt: ModuleType) -> None:
    """Build one ReLU and drop it.

    TensorRT-RTX 1.7 keeps something of a build that failed for Turing, and makes the next engine of the process, for
    whatever target, as it would for Turing. One build takes that with it.
    """
    builder = trt.Builder(log_of(trt))
    network = empty_network(trt, builder)
    relu = network.add_activation(network.add_input("x", trt.float32, (1,)), trt.ActivationType.RELU)
    network.mark_output(relu.get_output(0))
    builder.build_serialized_network(network, builder.create_builder_config())
