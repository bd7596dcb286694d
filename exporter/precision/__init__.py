"""Precision in the graph: a float32 ONNX graph in fp16, bf16, int8 or fp8, as a strongly typed engine builder reads it.

`typed_model` makes one and measures it; layers whose values or errors are too large for the type stay in float32.
"""

from .calibrate import METHODS, QUICK, Calibration, read_images
from .cpu import CPU
from .edit import load
from .emulate import emulated
from .formats import NAMES, TOLERANCES, Precision, precision_of_name
from .keep import Kept
from .typed import Typed, judged_by, typed_again, typed_model, typed_run

__all__ = [
    "CPU",
    "METHODS",
    "NAMES",
    "QUICK",
    "TOLERANCES",
    "Calibration",
    "Kept",
    "Precision",
    "Typed",
    "emulated",
    "judged_by",
    "load",
    "precision_of_name",
    "read_images",
    "typed_again",
    "typed_model",
    "typed_run",
]
