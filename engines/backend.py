"""Which runtimes this machine has, and what each can do. Asking imports none of them."""

import importlib.metadata
import importlib.util
from dataclasses import dataclass

from plainconv.exporter.errors import EngineError
from plainconv.exporter.wheels import INSTALL

from .cuda.gpu import find_gpu


@dataclass(frozen=True)
class Backend:
    """One runtime: its name (also of its Python module), its version ("" where it is not installed), its abilities."""

    name: str
    version: str
    builds_engines: bool
    builds_without_gpu: bool
    takes_targets: bool
    remedy: str

    @property
    def installed(self) -> bool:
        """Whether it can be imported."""
        return bool(self.version)


def backends() -> tuple[Backend, ...]:
    """Every runtime this program knows, the fastest first, installed or not."""
    return (
        Backend(
            "tensorrt",
            _version("tensorrt", "tensorrt_cu13", "tensorrt_cu12"),
            builds_engines=True,
            builds_without_gpu=False,
            takes_targets=False,
            remedy="pip install 'plainconv[tensorrt]'",
        ),
        Backend(
            "tensorrt_rtx",
            _version("tensorrt_rtx", "tensorrt_rtx_cu13", "tensorrt_rtx_cu12"),
            builds_engines=True,
            builds_without_gpu=True,
            takes_targets=True,
            remedy="pip install tensorrt-rtx",
        ),
        Backend(
            "onnxruntime",
            _version("onnxruntime", "onnxruntime-gpu"),
            builds_engines=False,
            builds_without_gpu=False,
            takes_targets=False,
            remedy=INSTALL,
        ),
    )


def available() -> tuple[Backend, ...]:
    """The runtimes that are installed, the fastest first."""
    return tuple(backend for backend in backends() if backend.installed)


def choose(engine: str = "auto", device: int = 0) -> Backend | None:
    """The backend that builds `engine`: "tensorrt", "tensorrt_rtx", "auto" or "none", for which the answer is None.

    "auto" is TensorRT where it is installed and GPU `device` is there to build for, else TensorRT-RTX.

    Raises EngineError for another name, or where the backend asked for cannot build here, with what to install.
    """
    builders = {backend.name: backend for backend in backends() if backend.builds_engines}
    if engine == "none":
        return None
    if engine == "auto":
        usable = [backend for backend in builders.values() if why_not_build(backend, device) is None]
        if not usable:
            remedy = builders["tensorrt_rtx"].remedy
            raise EngineError(f"no engine can be built here (no TensorRT-RTX); {remedy}, or give --engine none")
        return usable[0]
    if engine not in builders:
        raise EngineError(f"unknown engine {engine!r}; wanted one of auto, {', '.join(builders)}, none")
    reason = why_not_build(builders[engine], device)
    if reason:
        raise EngineError(f"{engine} cannot build an engine here: {reason}")
    return builders[engine]


def why_not_build(backend: Backend, device: int = 0) -> str | None:
    """Why `backend` cannot build engines on this machine, with the remedy; None where it can."""
    if not backend.installed:
        return f"it is not installed; {backend.remedy}"
    if not backend.builds_without_gpu:
        try:
            find_gpu(device)
        except EngineError as error:
            return str(error)
    return None


def _version(module: str, *distributions: str) -> str:
    if importlib.util.find_spec(module) is None:
        return ""
    for distribution in (module, *distributions):
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "unknown"
