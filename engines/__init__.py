"""Bundle → engines → runners. Nothing here imports torch; TensorRT and ONNX Runtime are imported when they are used.

`build` adds an engine to a bundle, `load` runs the best one that this machine can run, or the parts that the bundle is
split into; `pipelined` keeps several requests under way.
"""

from .backend import Backend, available
from .building import build
from .cuda.gpu import Gpu, find_gpu
from .loading import load
from .options import BuildOptions, profile_of
from .pipelined import pipelined
from .runner import Runner

__all__ = [
    "Backend",
    "BuildOptions",
    "Gpu",
    "Runner",
    "available",
    "build",
    "find_gpu",
    "load",
    "pipelined",
    "profile_of",
]


def __dir__() -> list[str]:
    return __all__
