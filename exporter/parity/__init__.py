"""Parity that means something: every step against the eager training-time network in float64."""

from .accuracy import Accuracy, EvalData, accuracy, correctness, read_eval_data
from .batches import Run, in_batches
from .divergence import Divergence, first_divergence, origins_of, values_of_module
from .evaluate import reference_from_module, run_module
from .inputs import Scale
from .onnx_run import run_onnx, values_of_onnx
from .record import Parity, not_executed
from .reference import Reference
from .widen import float64_outputs

__all__ = [
    "Accuracy",
    "Divergence",
    "EvalData",
    "Parity",
    "Reference",
    "Run",
    "Scale",
    "accuracy",
    "correctness",
    "first_divergence",
    "float64_outputs",
    "in_batches",
    "not_executed",
    "origins_of",
    "read_eval_data",
    "reference_from_module",
    "run_module",
    "run_onnx",
    "values_of_module",
    "values_of_onnx",
]
