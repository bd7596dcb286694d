"""Execution contexts of TensorRT and TensorRT-RTX: making ones that run fast, and telling them only what is new.

Imports neither runtime: the module is handed in.
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from plainconv.exporter.errors import EngineError

from .bindings import RAISED, asked, refused
from .kernel_cache import KernelCache

Shape = tuple[int, ...]
_NO_CONTEXT = "the engine gives no execution context, likely for want of GPU memory; free some"


@dataclass(frozen=True)
class Contexts:
    """Where execution contexts of one engine come from.

    `create` gives a new one, None where it cannot. `captures` says whether its work may become a CUDA graph; where not,
    `create_repeating` gives one that makes a graph of its own of a call that comes again and again, if there is such.
    `scratch` is how many bytes of device memory each must be given, from outside, to work in: those that never run at
    the same time may share them. With 0 each has its own. `cache` is held until the last of them has gone.
    """

    create: Callable[[], Any]
    captures: bool
    scratch: int
    create_repeating: Callable[[], Any] | None = None
    cache: KernelCache | None = None

    def new(self, *, repeats: bool = False) -> "Context":
        """A new context, for a call that `repeats` or for any. Raises EngineError where there is none."""
        create = self.create_repeating if repeats and self.create_repeating else self.create
        return Context(asked(_NO_CONTEXT, create), self.cache)


def contexts_of(
    trt: ModuleType, engine: Any, *, fixed: bool, cache: KernelCache | None = None, eager: bool = False
) -> Contexts:
    """The contexts of an ICudaEngine of `trt`, the module of either runtime; `fixed`: every shape of it is.

    TensorRT has graphs captured for it. TensorRT-RTX can make its own, of the last call that each context ran: a new
    address or shape is a new capture. So engines of fixed shapes have graphs captured as TensorRT's do. Those of
    dynamic shapes, of which only the runtime knows when a kernel compiled for a new shape replaces the one that runs
    meanwhile, make their own, with a context for each call that comes again. `eager`: kernels for a new shape are
    compiled before it runs, and not beside it. Contexts of RTX share what they compile, by `cache`.

    Raises EngineError where the runtime refuses.
    """
    strategies = getattr(trt, "CudaGraphStrategy", None)
    if strategies is None:
        scratch = engine.device_memory_size_v2
        where = trt.ExecutionContextAllocationStrategy
        strategy = where.USER_MANAGED if scratch else where.STATIC
        return Contexts(lambda: engine.create_execution_context(strategy), captures=True, scratch=scratch)

    def configured(strategy: Any) -> Any:
        config = engine.create_runtime_config()
        config.cuda_graph_strategy = strategy
        if eager:
            config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
        if cache is not None:
            cache.give_to(config)
        return config

    refusal = "the engine takes no runtime configuration; build it again"
    plain = asked(refusal, configured, strategies.DISABLED)
    own = None if fixed else asked(refusal, configured, strategies.WHOLE_GRAPH_CAPTURE)
    return Contexts(
        lambda: engine.create_execution_context(plain),
        captures=fixed,
        scratch=0,
        create_repeating=None if own is None else lambda: engine.create_execution_context(own),
        cache=cache,
    )


class Context:
    """One execution context. Raises EngineError, in one line, where it refuses."""

    def __init__(self, context: Any, outlives: object = None) -> None:
        """`context` is an IExecutionContext, or None where the engine gave none; it goes before `outlives` does."""
        if context is None:
            raise EngineError(_NO_CONTEXT)
        self._context, self._outlives = context, outlives
        self._shapes: dict[str, Shape] = {}
        self._addresses: dict[str, int] = {}

    def use_profile(self, profile: int, stream: int) -> None:
        """Choose an optimization profile, which enqueues work on `stream`."""
        refusal = f"the engine has no optimization profile {profile}; build it again"
        if not asked(refusal, self._context.set_optimization_profile_async, profile, stream):
            raise EngineError(refusal)

    def use_scratch(self, address: int, size: int) -> None:
        """Give device memory to work in."""
        refusal = f"the engine does not take {size} bytes to work in; build it again"
        asked(refusal, self._context.set_device_memory, address, size)

    def set_shape(self, name: str, shape: Shape) -> None:
        """Set an input's shape."""
        if self._shapes.get(name) != shape:
            self._shapes.pop(name, None)
            refusal = f"the engine does not take {name} of shape {list(shape)}; build it for that shape"
            if not asked(refusal, self._context.set_input_shape, name, shape):
                raise EngineError(refusal)
            self._shapes[name] = shape

    def set_address(self, name: str, address: int) -> None:
        """Set where a tensor is."""
        if self._addresses.get(name) != address:
            self._addresses.pop(name, None)
            refusal = f"the engine takes no buffer for {name}; build it again"
            if not asked(refusal, self._context.set_tensor_address, name, address):
                raise EngineError(refusal)
            self._addresses[name] = address

    def shape_of(self, name: str) -> Shape:
        """The shape of an output, from those of the inputs."""
        refusal = f"the engine does not tell the shape of {name}; build it again"
        shape = tuple(asked(refusal, self._context.get_tensor_shape, name))
        if any(size < 0 for size in shape):
            raise EngineError(f"the shape of {name} depends on the data ({list(shape)}), which this runner cannot run")
        return shape

    def check_capturable(self, stream: int) -> None:
        """Raise EngineError where the runtime says that a capture of `stream` would fail now."""
        capturable = getattr(self._context, "is_stream_capturable", None)  # which RTX has
        if capturable is not None and not asked("the engine cannot be captured", capturable, stream):
            raise EngineError("the engine cannot be captured as a CUDA graph, says the runtime")

    def let_go(self) -> None:
        """Give it back now, whoever still holds this object. It cannot be used any more."""
        self._context = None
        self._outlives = None

    def enqueue(self, stream: int) -> None:
        """Start the engine."""
        refusal = "the engine did not run; build it again on this machine"
        try:
            started = self._context.execute_async_v3(stream)
        except RAISED as error:
            raise refused(refusal, error) from error
        if not started:
            raise EngineError("the engine did not run (execute_async_v3 failed); build it again on this machine")
