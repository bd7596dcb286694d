"""Execution contexts of TensorRT and TensorRT-RTX: making ones that run fast, and telling them only what is new.

Imports neither runtime: the module is handed in.
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from plainconv.exporter.errors import EngineError

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Contexts:
    """Where execution contexts of one engine come from.

    `create` gives a new one, None where it cannot; `captures` says whether its work may become a CUDA graph; `scratch`
    is how many bytes of device memory each must be given, from outside, to work in: those that never run at the same
    time may share them. With 0 each has its own.
    """

    create: Callable[[], Any]
    captures: bool
    scratch: int


def contexts_of(trt: ModuleType, engine: Any) -> Contexts:
    """The contexts of an ICudaEngine of `trt`, the module of either runtime.

    TensorRT has graphs captured for it. TensorRT-RTX makes its own: only it knows when a kernel that it compiles for a
    new shape replaces the one that runs meanwhile. Its contexts share what they have compiled.
    """
    strategies = getattr(trt, "CudaGraphStrategy", None)
    if strategies is None:
        scratch = engine.device_memory_size_v2
        where = trt.ExecutionContextAllocationStrategy
        strategy = where.USER_MANAGED if scratch else where.STATIC
        return Contexts(lambda: engine.create_execution_context(strategy), captures=True, scratch=scratch)
    config = engine.create_runtime_config()
    config.cuda_graph_strategy = strategies.WHOLE_GRAPH_CAPTURE
    config.set_runtime_cache(config.create_runtime_cache())
    return Contexts(lambda: engine.create_execution_context(config), captures=False, scratch=0)


class Context:
    """One execution context. Raises EngineError, in one line, where it refuses."""

    def __init__(self, context: Any) -> None:
        """`context` is an IExecutionContext, or None where the engine gave none."""
        if context is None:
            raise EngineError("the engine gives no execution context, likely for want of GPU memory; free some")
        self._context = context
        self._shapes: dict[str, Shape] = {}
        self._addresses: dict[str, int] = {}

    def use_profile(self, profile: int, stream: int) -> None:
        """Choose an optimization profile, which enqueues work on `stream`."""
        if not self._context.set_optimization_profile_async(profile, stream):
            raise EngineError(f"the engine has no optimization profile {profile}; build it again")

    def use_scratch(self, address: int, size: int) -> None:
        """Give device memory to work in."""
        self._context.set_device_memory(address, size)

    def set_shape(self, name: str, shape: Shape) -> None:
        """Set an input's shape."""
        if self._shapes.get(name) != shape:
            self._shapes.pop(name, None)
            if not self._context.set_input_shape(name, shape):
                raise EngineError(f"the engine does not take {name} of shape {list(shape)}; build it for that shape")
            self._shapes[name] = shape

    def set_address(self, name: str, address: int) -> None:
        """Set where a tensor is."""
        if self._addresses.get(name) != address:
            self._addresses.pop(name, None)
            if not self._context.set_tensor_address(name, address):
                raise EngineError(f"the engine takes no buffer for {name}; build it again")
            self._addresses[name] = address

    def shape_of(self, name: str) -> Shape:
        """The shape of an output, from those of the inputs."""
        shape = tuple(self._context.get_tensor_shape(name))
        if any(size < 0 for size in shape):
            raise EngineError(f"the shape of {name} depends on the data ({list(shape)}), which this runner cannot run")
        return shape

    def let_go(self) -> None:
        """Give it back now, whoever still holds this object. It cannot be used any more."""
        self._context = None

    def enqueue(self, stream: int) -> None:
        """Start the engine."""
        if not self._context.execute_async_v3(stream):
            raise EngineError("the engine did not run (execute_async_v3 failed); build it again on this machine")
