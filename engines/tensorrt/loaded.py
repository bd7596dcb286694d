"""An engine file, loaded on one GPU: what the runtime thinks of it, the engine, and its execution contexts."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from plainconv.exporter.bundle import Bundle, Draft, EngineRecord
from plainconv.exporter.errors import EngineError

from ..backend import backends
from ..cuda.gpu import find_gpu
from ..cuda.runtime import CudaRuntime
from .bindings import asked, import_runtime
from .builder_log import first_error, log_of, why_not_loaded
from .builder_progress import interruptible
from .contexts import contexts_of
from .kernel_cache import KernelCache, cache_file
from .parts import PartEngine

_OLD_DRIVER = "OLD_CUDA_DRIVER"
_NO_RUNTIME = "{name} {version} does not start; see whether nvidia-smi runs and the driver is recent"


def loaded(
    bundle: Bundle | Draft,
    record: EngineRecord,
    device: int,
    cuda: CudaRuntime,
    *,
    part: str = "",
    eager: bool = False,
) -> PartEngine:
    """An engine of a bundle, of the whole network or of a part, on a GPU. `eager`: see `contexts_of`.

    Raises EngineError where the runtime does not take it.
    """
    backend = next(backend for backend in backends() if backend.name == record.backend)
    data, gpu = bundle.read(record.file), find_gpu(device)
    trt = import_runtime(backend)
    version = str(trt.__version__)
    kernels: Path | None = None
    if hasattr(trt, "IRuntimeCache"):
        kernels = cache_file(hashlib.sha256(data).hexdigest(), f"{gpu.name} {gpu.target}", version)

    def load() -> PartEngine:
        cuda.use_device(device)
        runtime, engine, notes = deserialize(trt, data, backend.name)
        cache = None if kernels is None else KernelCache(kernels)
        contexts = contexts_of(trt, engine, fixed=not record.profiles, cache=cache, eager=eager)
        said = tuple(f"{record.file}: {note}" for note in notes)
        return PartEngine(part, engine, contexts, device, record.profiles, outlives=runtime, notes=said)

    try:
        return interruptible(load)
    except EngineError as error:
        raise EngineError(f"{record.file} cannot run here: {error}") from error


def deserialize(trt: ModuleType, data: Any, name: str) -> tuple[Any, Any, tuple[str, ...]]:
    """The ICudaEngine of these bytes after the runtime that it needs, and what could be better about it.

    On the GPU that this thread uses, in a thread that no Ctrl-C is raised in (`interruptible`). Raises EngineError on a
    machine without a driver or GPU, and where the runtime refuses the bytes.
    """
    with log_of(trt).recording() as lines:
        runtime = _runtime(trt, name)
        notes = _checked(trt, runtime, data, name, lambda: first_error(lines))
        refusal = f"{name} {trt.__version__} cannot load the engine; build it again with `exporter build`"
        engine = asked(refusal, runtime.deserialize_cuda_engine, data)
    if engine is None:
        raise EngineError(f"{name} {trt.__version__} cannot load the engine: {why_not_loaded(lines)}")
    return runtime, engine, notes


def _runtime(trt: ModuleType, name: str) -> Any:
    return asked(_NO_RUNTIME.format(name=name, version=trt.__version__), trt.Runtime, log_of(trt))


def _checked(trt: ModuleType, runtime: Any, data: Any, name: str, error: Callable[[], str]) -> tuple[str, ...]:
    if not hasattr(runtime, "get_engine_validity"):
        return ()
    refusal = f"{name} {trt.__version__} does not take the engine; build it again with `exporter build`"
    verdict, diagnostics = asked(refusal, runtime.get_engine_validity, data)
    if verdict.name == "VALID":
        return ()
    flags = trt.EngineInvalidityDiagnostics.__members__
    causes = [cause for cause, flag in flags.items() if diagnostics & int(flag)]
    words = ", ".join(cause.lower().replace("_", " ") for cause in causes) or error()
    remedy = "update the NVIDIA driver" if _OLD_DRIVER in causes else "build it again with `exporter build`"
    if verdict.name == "INVALID":
        raise EngineError(f"{name} {trt.__version__} finds it invalid ({words}); {remedy}")
    return (f"{name} {trt.__version__} finds it {verdict.name.lower()} ({words}), it runs slower; {remedy}",)
