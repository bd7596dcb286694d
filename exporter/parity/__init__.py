"""Parity that means something: every step against the eager training-time network in float64.

What needs torch is loaded on first use, so that two files are compared without it where they give the same bits.
"""

import importlib
from typing import TYPE_CHECKING, Any

from .accuracy import Accuracy, EvalData, accuracy, correctness, read_eval_data
from .batches import Run, in_batches
from .inputs import Scale
from .onnx_run import run_onnx
from .record import Parity, not_executed
from .reference import Reference

if TYPE_CHECKING:
    from .evaluate import reference_from_module, run_module
    from .watch import values_of_module
    from .widen import float64_outputs

__all__ = [
    "Accuracy",
    "EvalData",
    "Parity",
    "Reference",
    "Run",
    "Scale",
    "accuracy",
    "correctness",
    "float64_outputs",
    "in_batches",
    "not_executed",
    "read_eval_data",
    "reference_from_module",
    "run_module",
    "run_onnx",
    "values_of_module",
]

_WITH_TORCH = {
    "reference_from_module": "evaluate",
    "run_module": "evaluate",
    "values_of_module": "watch",
    "float64_outputs": "widen",
}


def __getattr__(name: str) -> Any:
    if name in _WITH_TORCH:
        return getattr(importlib.import_module(f".{_WITH_TORCH[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
