"""Bundle → engines → runners. Nothing here imports torch; TensorRT and ONNX Runtime are imported when they are used.

`build` adds an engine to a bundle, `load` runs the best one that this machine can run.
"""

from .backend import Backend, available, choose
from .building import build, build_engine, build_into, built, check_request
from .gpu import Gpu, find_gpu
from .loading import load, run_record, why_not_run
from .options import BuildOptions, profile_of
from .runner import Runner

__all__ = [
    "Backend",
    "BuildOptions",
    "Gpu",
    "Runner",
    "available",
    "build",
    "build_engine",
    "build_into",
    "built",
    "check_request",
    "choose",
    "find_gpu",
    "load",
    "profile_of",
    "run_record",
    "why_not_run",
]
