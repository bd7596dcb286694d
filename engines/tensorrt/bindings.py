"""TensorRT's Python bindings: the only file that imports either runtime, and late; and where they raise, not answer."""

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import TypeVar

from plainconv.exporter.errors import EngineError, one_line

from ..backend import Backend

T = TypeVar("T")

RAISED = (RuntimeError, TypeError, ValueError, MemoryError)
"""What the bindings raise where TensorRT refuses: some calls answer False or None, and others one of these."""


def asked(refusal: str, call: Callable[..., T], *arguments: object) -> T:
    """`call(*arguments)`. Where the bindings raise, EngineError: `refusal`, found and remedy with a "; " between."""
    try:
        return call(*arguments)
    except EngineError:
        raise
    except RAISED as error:
        raise refused(refusal, error) from error


def refused(refusal: str, error: Exception) -> EngineError:
    """`refusal` with the bindings' words behind what was found."""
    found, semicolon, remedy = refusal.partition("; ")
    return EngineError(f"{found} ({one_line(error)}){semicolon}{remedy}")


def import_runtime(backend: Backend) -> ModuleType:
    """TensorRT's Python module, of either runtime. Raises EngineError where it cannot be imported: what to install."""
    try:
        return importlib.import_module(backend.name)
    except (ImportError, OSError) as error:
        raise EngineError(f"{backend.name} cannot be imported ({one_line(error)}); {backend.remedy}") from None
