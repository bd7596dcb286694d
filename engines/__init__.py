"""Bundle → engines → runners. Nothing here imports torch; TensorRT and ONNX Runtime are imported when they are used.

`build` adds an engine to a bundle, `load` runs the best one that this machine can run, or the parts that the bundle is
split into; `pipelined` keeps several requests under way.
"""

from .backend import Backend, available, choose
from .building import build, build_engine, build_into, built, check_request
from .gpu import Gpu, find_gpu
from .loading import load, run_record, why_not_run
from .options import BuildOptions, profile_of
from .pipelined import pipelined
from .runner import Runner
from .split_loading import run_split, sets_of_engines

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
    "pipelined",
    "profile_of",
    "run_record",
    "run_split",
    "sets_of_engines",
    "why_not_run",
]
