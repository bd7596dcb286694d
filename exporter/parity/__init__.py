"""Parity that means something: every step against the eager training-time network in float64."""

from .accuracy import Accuracy, EvalData, accuracy, correctness, read_eval_data
from .batches import Run, in_batches
from .evaluate import reference_from_module, run_module
from .inputs import Scale
from .onnx_run import run_onnx
from .record import Parity, not_executed
from .reference import Reference
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
