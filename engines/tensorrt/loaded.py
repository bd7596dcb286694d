"""An engine file of a bundle, loaded."""

from typing import Any

from plainconv.exporter.bundle import Bundle, Draft, EngineRecord
from plainconv.exporter.errors import EngineError

from ..backend import backends
from .build import deserialize, import_runtime, validity
from .contexts import Contexts, contexts_of


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
