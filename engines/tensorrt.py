"""ONNX → engine, by TensorRT or TensorRT-RTX: one API, one code. The only file that imports either, and late.

Polygraphy's loaders were the other base. They pick the runtime once per process, by an environment variable; print what
parser and builder say instead of handing it out; and on Ctrl-C terminate the process, which leaves a half-written
folder. All they would save is the dozen lines that create a network, a parser and a config.
"""

import importlib
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from exporter.bundle import ShapeRange
from exporter.errors import EngineError
from exporter.progress import track

from .backend import Backend
from .builder_log import LogLine, first_error, log_of, one_line, text_of, warnings_of
from .builder_progress import Phases, interruptible, monitor_of
from .gpu import find_gpu

_NARROWEST_FIRST = {"FP4": "fp4", "INT4": "int4", "FP8": "fp8", "INT8": "int8", "HALF": "fp16", "BF16": "bf16"}
_TURING = "sm75"
_ONE_BUILD = threading.Lock()  # at a time: they share a logger, and what `_forget_failure` clears


@dataclass(frozen=True)
class Compiled:
    """An engine in memory, a buffer of bytes, and the facts of its build. `EngineRecord` says what they mean."""

    data: Any
    version: str
    precision: str
    tf32: bool
    targets: tuple[str, ...]
    device: str | None
    profiles: tuple[Mapping[str, ShapeRange], ...]
    seconds: float
    warnings: tuple[str, ...]
    log: str


def compile_onnx(
    onnx: Path,
    backend: Backend,
    *,
    targets: tuple[str, ...] = (),
    dynamic_batch: tuple[int, int, int] | None = None,
    tf32: bool = False,
) -> Compiled:
    """Compile the ONNX file at `onnx` (its external data beside it) into an engine of exactly the graph's precisions.

    `targets` are compute capabilities such as "sm86"; none stands for `default_targets`. `dynamic_batch` is the
    smallest, the usual and the largest batch, for a graph whose first axes are free. `tf32` lets fp32 convs round their
    inputs to 10 bits of mantissa, which is faster, and no longer fp32.

    Shows a progress bar; Ctrl-C ends the build at its next step. Raises EngineError where the backend cannot be
    imported, parse the file or build the engine, and where targets or batch do not suit it.
    """
    trt = import_runtime(backend)
    targets = checked_targets(trt, backend, targets)
    if not onnx.is_file():
        raise EngineError(f"{onnx}: no such file, wanted an ONNX model; see to its path")
    with track(f"building the {backend.name} engine", total=100, unit="%") as bar:
        phases = Phases(bar)
        monitor = monitor_of(trt, phases)
        compiled = interruptible(
            lambda: _compiled(trt, onnx, backend, targets, dynamic_batch, tf32, monitor), stop=monitor.end_build
        )
        phases.complete()
    return compiled


def _compiled(
    trt: ModuleType,
    onnx: Path,
    backend: Backend,
    targets: tuple[str, ...],
    dynamic_batch: tuple[int, int, int] | None,
    tf32: bool,
    monitor: Any,
) -> Compiled:
    started = time.perf_counter()
    with _ONE_BUILD, log_of(trt).recording() as lines:
        builder = trt.Builder(log_of(trt))
        network = _parse(trt, builder, onnx, lines)
        precision = _precision(network)
        config = builder.create_builder_config()
        config.progress_monitor = monitor
        _set_targets(trt, backend, config, targets)
        if not tf32:
            config.clear_flag(trt.BuilderFlag.TF32)
        profile = _profile_ranges(network, dynamic_batch, onnx.name)
        _add_profile(builder, config, profile)
        data = builder.build_serialized_network(network, config)
        if data is None and backend.takes_targets:
            _forget_failure(trt)
    if data is None:
        raise EngineError(
            f"{onnx.name}: {backend.name} cannot build it for {', '.join(targets)}: {first_error(lines)}; "
            "give other --targets, or --engine none"
        )
    warnings = warnings_of(lines)
    if _TURING in targets and len(targets) > 1:
        warnings += (f"{_TURING} makes an engine slower on every other target; build it alone",)
    return Compiled(
        data=data,
        version=str(trt.__version__),
        precision=precision,
        tf32=tf32,
        targets=targets,
        device=None if backend.builds_without_gpu else find_gpu().name,
        profiles=(profile,) if profile else (),
        seconds=time.perf_counter() - started,
        warnings=warnings,
        log=text_of(lines).replace(f"{onnx.parent}/", ""),
    )


def deserialize(data: bytes, backend: Backend) -> tuple[Any, Any]:
    """The ICudaEngine of these bytes, after the runtime that must outlive it.

    Raises EngineError on a machine without a driver or GPU, and where the runtime refuses the bytes.
    """
    find_gpu()
    trt = import_runtime(backend)
    with log_of(trt).recording() as lines:
        runtime = interruptible(lambda: trt.Runtime(log_of(trt)))
        engine = interruptible(lambda: runtime.deserialize_cuda_engine(data))
    if engine is None:
        raise EngineError(
            f"{backend.name} {trt.__version__} cannot load the engine: {first_error(lines)}; "
            "build it again with `exporter build`"
        )
    return runtime, engine


def import_runtime(backend: Backend) -> ModuleType:
    """TensorRT's Python module. Raises EngineError where it cannot be imported, with what to install."""
    try:
        return importlib.import_module(backend.name)
    except (ImportError, OSError) as error:
        raise EngineError(f"{backend.name} cannot be imported ({one_line(str(error))}); {backend.remedy}") from None


def known_targets(trt: ModuleType) -> tuple[str, ...]:
    """The compute capabilities that this version of TensorRT-RTX compiles for, in its order."""
    return tuple(name.lower() for name in trt.ComputeCapability.__members__ if name.startswith("SM"))


def default_targets(trt: ModuleType) -> tuple[str, ...]:
    """Every architecture from Ampere on that this version knows.

    TensorRT-RTX's own default, to name none, makes an engine of the same size that promises less: not the A100 (sm80),
    and a type that a GPU lacks fails where it is run instead of where it is built. Turing (sm75) is left out: it has no
    fp32 GEMM, and slows the engine down on all others.
    """
    return tuple(target for target in known_targets(trt) if target != _TURING)


def checked_targets(trt: ModuleType, backend: Backend, targets: tuple[str, ...]) -> tuple[str, ...]:
    """The targets to build for, each once and in one order, so that the same set gives the same bytes."""
    wanted = {target.lower() for target in targets}
    valid = known_targets(trt) if backend.takes_targets else (find_gpu().target,)
    unknown = sorted(wanted - set(valid))
    if unknown:
        takes = "takes" if backend.takes_targets else "builds for the GPU at hand only, which is"
        raise EngineError(f"unknown target {unknown[0]!r}; {backend.name} {trt.__version__} {takes} {', '.join(valid)}")
    if not wanted:
        return default_targets(trt) if backend.takes_targets else valid
    return tuple(target for target in valid if target in wanted)


def _set_targets(trt: ModuleType, backend: Backend, config: Any, targets: tuple[str, ...]) -> None:
    if backend.takes_targets:
        config.num_compute_capabilities = len(targets)
        for i, target in enumerate(targets):
            config.set_compute_capability(trt.ComputeCapability.__members__[target.upper()], i)


def _parse(trt: ModuleType, builder: Any, onnx: Path, lines: list[LogLine]) -> Any:
    """The network in the file, strongly typed: every tensor has the precision that the graph gives it."""
    network = _empty_network(trt, builder)
    parser = trt.OnnxParser(network, log_of(trt))
    parsed = parser.parse_from_file(str(onnx))
    errors = [_parser_error(parser.get_error(i)) for i in range(parser.num_errors)]
    if not errors and (not parsed or network.num_outputs == 0):
        errors = ["it holds no graph"]
    if errors:
        weights = [one_line(line.text) for line in lines if line.text.startswith("WeightsContext")]
        of_node = errors[0].startswith("node ")
        cause = re.sub(r"^\S+: ", "", weights[0]) if weights else errors[0]
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        remedy = "give --engine none to go without an engine" if of_node else "export it again"
        raise EngineError(f"{onnx.name}: {trt.__name__} cannot parse it: {cause}{more}; {remedy}")
    return network


def _parser_error(error: Any) -> str:
    """One error of the ONNX parser: node, operator, and its words without the C++ of the assertion."""
    words = str(error.desc())
    quoted = re.search(r'"([^"]+)"', words)
    if quoted:
        words = quoted[1]
    elif words == "false":
        words = "this operator is not supported"
    else:
        words = re.sub(r"^Assertion failed: .*: ", "", words).rstrip(".")
    operator = error.node_operator()
    return one_line(f"node {error.node_name()} ({operator}): {words}" if operator else words)


def _forget_failure(trt: ModuleType) -> None:
    """Build one ReLU and drop it.

    TensorRT-RTX 1.7 keeps something of a build that failed for Turing, and makes the next engine of the process, for
    whatever target, as it would for Turing. One build takes that with it.
    """
    builder = trt.Builder(log_of(trt))
    network = _empty_network(trt, builder)
    relu = network.add_activation(network.add_input("x", trt.float32, (1,)), trt.ActivationType.RELU)
    network.mark_output(relu.get_output(0))
    builder.build_serialized_network(network, builder.create_builder_config())


def _empty_network(trt: ModuleType, builder: Any) -> Any:
    return builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))


def _precision(network: Any) -> str:
    """The narrowest type that any layer gives out; "fp32" where no floating or quantized type is narrower."""
    layers = (network.get_layer(i) for i in range(network.num_layers))
    types = {layer.get_output(k).dtype.name for layer in layers for k in range(layer.num_outputs)}
    return next((name for dtype, name in _NARROWEST_FIRST.items() if dtype in types), "fp32")


def _profile_ranges(network: Any, batch: tuple[int, int, int] | None, file: str) -> dict[str, ShapeRange]:
    """What the optimization profile covers, for each input; empty where every shape is fixed."""
    inputs = (network.get_input(i) for i in range(network.num_inputs))
    shapes = {tensor.name: tuple(tensor.shape) for tensor in inputs}
    free = [(axis, name) for name, shape in shapes.items() for axis, size in enumerate(shape) if size < 0]
    if free and max(free)[0] > 0:
        axis, name = max(free)
        raise EngineError(
            f"{file}: axis {axis} of {name} is free, only axis 0, the batch, may be; export at a fixed size"
        )
    if batch is None:
        if free:
            raise EngineError(f"{file} has a free batch and no sizes for it; give --dynamic-batch MIN:OPT:MAX")
        return {}
    if not free:
        raise EngineError(f"{file} has a fixed batch; build without --dynamic-batch, or export it again with it")
    if not 1 <= batch[0] <= batch[1] <= batch[2]:
        raise EngineError(f"dynamic batch is {':'.join(map(str, batch))}, wanted 1 <= MIN <= OPT <= MAX, as in 1:8:32")
    return {
        name: ShapeRange(*((size, *shape[1:]) if shape[:1] == (-1,) else shape for size in batch))
        for name, shape in shapes.items()
    }


def _add_profile(builder: Any, config: Any, ranges: Mapping[str, ShapeRange]) -> None:
    if ranges:
        profile = builder.create_optimization_profile()
        for name, covered in ranges.items():
            profile.set_shape(name, covered.min, covered.opt, covered.max)
        config.add_optimization_profile(profile)
