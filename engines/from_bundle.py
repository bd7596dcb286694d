"""A bundle's engines: building them into it, and running the best one that this machine can run."""

import warnings
from pathlib import Path

from exporter.bundle import (
    Bundle,
    Draft,
    EngineRecord,
    FileRecord,
    sha256_of_file,
    sha256_of_files,
    update_bundle,
)
from exporter.errors import EngineError, PlainconvWarning

from .backend import Backend, backends, choose
from .cuda import CudaRuntime
from .gpu import find_gpu
from .onnxruntime import OnnxRuntimeRunner
from .runner import Runner
from .tensorrt import Compiled, checked_targets, compile_onnx, deserialize, import_runtime
from .tensorrt_runner import TensorRTRunner

DynamicBatch = tuple[int, int, int]


def build(
    bundle: Path | str,
    *,
    engine: str = "auto",
    targets: tuple[str, ...] = (),
    dynamic_batch: DynamicBatch | None = None,
    tf32: bool = False,
) -> EngineRecord:
    """Build an engine from a bundle's ONNX model, and add it to the bundle, in the place of one built the same way.

    See `compile_onnx` for the options, `choose` for `engine`. Raises EngineError where the engine cannot be built, and
    BundleError where the bundle cannot be opened or written; either way it stays as it was.
    """
    _builder(engine)
    with update_bundle(bundle) as draft:
        return build_into(draft, engine=engine, targets=targets, dynamic_batch=dynamic_batch, tf32=tf32)


def build_into(
    draft: Draft,
    *,
    engine: str = "auto",
    targets: tuple[str, ...] = (),
    dynamic_batch: DynamicBatch | None = None,
    tf32: bool = False,
) -> EngineRecord:
    """As `build`, into a bundle that is still being written and has its ONNX model, linked."""
    backend = _builder(engine)
    graph = next((link for link in draft.manifest.chain if link.step == "onnx"), None)
    if graph is None:
        raise EngineError("the draft has no ONNX model linked; link_onnx before building an engine")
    compiled = compile_onnx(
        draft.file(graph.files[0]), backend, targets=targets, dynamic_batch=dynamic_batch, tf32=tf32
    )
    for warning in compiled.warnings:
        warnings.warn(f"{backend.name}: {warning}", PlainconvWarning, stacklevel=2)
    name = _name(backend, compiled, dynamic_batch)
    _write(compiled, draft.path(f"{name}.engine"))
    draft.path(f"{name}.log").write_text(compiled.log, encoding="utf-8")
    record = _record(compiled, backend, f"{name}.engine", draft.record(f"{name}.engine"), graph.sha256, f"{name}.log")
    draft.add_engine(record)
    return record


def check_request(engine: str = "auto", targets: tuple[str, ...] = ()) -> None:
    """Raise EngineError where `build` could not build such an engine here: before the work that leads up to it."""
    backend = _builder(engine)
    checked_targets(import_runtime(backend), backend, targets)


def build_engine(
    onnx: Path,
    out: Path,
    *,
    engine: str = "auto",
    targets: tuple[str, ...] = (),
    dynamic_batch: DynamicBatch | None = None,
    tf32: bool = False,
) -> EngineRecord:
    """Build an engine from any ONNX file into the file `out`, without a bundle. Options and errors are `build`'s."""
    backend = _builder(engine)
    compiled = compile_onnx(onnx, backend, targets=targets, dynamic_batch=dynamic_batch, tf32=tf32)
    _write(compiled, out)
    sources = [path for path in (onnx, onnx.with_name(f"{onnx.name}.data")) if path.exists()]
    graph = sha256_of_files({path.name: _file_record(path) for path in sources})
    return _record(compiled, backend, out.name, _file_record(out), graph, None)


def load(bundle: Bundle | Path | str, engine: str = "auto", *, threads: int = 0) -> Runner:
    """A runner for a bundle: its best engine that this machine can run, or ONNX Runtime on its ONNX model.

    `engine` is "auto", or one of "tensorrt", "tensorrt_rtx" and "onnxruntime" to have that and nothing else. `threads`
    is for ONNX Runtime (0: one per core).

    Raises BundleError where the bundle does not open, EngineError where what was asked for cannot run here.
    """
    names = [backend.name for backend in backends()]
    if engine not in ("auto", *names):
        raise EngineError(f"unknown engine {engine!r}; wanted one of auto, {', '.join(names)}")
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    records = [record for record in opened.engines if engine in ("auto", record.backend)]
    reasons = []
    for record in sorted(records, key=lambda record: names.index(record.backend)):
        reason = why_not_run(record)
        if reason is None:
            return run_record(opened, record)
        reasons.append(f"{record.file} cannot run here: {reason}")
    if engine in ("auto", "onnxruntime"):
        return OnnxRuntimeRunner(opened.onnx, threads=threads)
    missing = f"{opened.folder} holds no {engine} engine; build one with `exporter build --engine {engine}`"
    raise EngineError(reasons[0] if reasons else missing)


def why_not_run(record: EngineRecord) -> str | None:
    """Why this machine cannot run an engine, with the remedy; None where it can. Nothing heavy is imported to know."""
    backend = next((backend for backend in backends() if backend.name == record.backend), None)
    if backend is None:
        return f"{record.backend} is not a runtime this program knows; install the plainconv that built it"
    try:
        gpu = find_gpu()
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


def _builder(engine: str) -> Backend:
    backend = choose(engine)
    if backend is None:
        raise EngineError("engine 'none' builds nothing; wanted one of auto, tensorrt, tensorrt_rtx")
    return backend


def run_record(bundle: Bundle | Draft, record: EngineRecord) -> Runner:
    """A runner for one engine of a bundle, which `why_not_run` must have no objection to."""
    backend = next(backend for backend in backends() if backend.name == record.backend)
    cuda = CudaRuntime()
    runtime, engine = deserialize(bundle.read(record.file), backend)
    ranges = record.profiles[0] if record.profiles else {}
    return TensorRTRunner(
        engine,
        cuda,
        backend=backend.name,
        inputs=bundle.manifest.inputs,
        outputs=bundle.manifest.outputs,
        ranges=ranges,
        outlives=runtime,
    )


def _name(backend: Backend, compiled: Compiled, batch: DynamicBatch | None) -> str:
    """The same options give the same name, so that a rebuild replaces what it rebuilds."""
    parts = [backend.name, compiled.precision + ("-tf32" if compiled.tf32 else ""), "_".join(compiled.targets)]
    return "engines/" + "-".join(parts) + (f"-b{'_'.join(map(str, batch))}" if batch else "")


def _write(compiled: Compiled, path: Path) -> None:
    with path.open("wb") as file:
        file.write(compiled.data)


def _file_record(path: Path) -> FileRecord:
    return FileRecord(path.stat().st_size, sha256_of_file(path))


def _record(
    compiled: Compiled, backend: Backend, name: str, file: FileRecord, onnx_sha256: str, log: str | None
) -> EngineRecord:
    return EngineRecord(
        file=name,
        backend=backend.name,
        backend_version=compiled.version,
        precision=compiled.precision,
        tf32=compiled.tf32,
        targets=compiled.targets,
        device=compiled.device,
        profiles=compiled.profiles,
        seconds=compiled.seconds,
        size=file.size,
        sha256=file.sha256,
        onnx_sha256=onnx_sha256,
        log=log,
        warnings=compiled.warnings,
    )
