"""Execution contexts: what each runtime is asked for, and that a context is told nothing twice."""

import gc
import types
import weakref

import pytest
import tensorrt_rtx

from plainconv.engines.tensorrt.contexts import Context, contexts_of
from plainconv.engines.tensorrt.kernel_cache import KernelCache
from plainconv.exporter.errors import EngineError


class Engine:
    device_memory_size_v2 = 4096

    def __init__(self):
        self.asked = []

    def create_execution_context(self, *arguments):
        self.asked.append(arguments)
        return "context"


def test_contexts_of_tensorrt():
    """Given TensorRT, which has no graphs of its own -> captured, and scratch memory from outside."""
    strategies = types.SimpleNamespace(USER_MANAGED="outside", STATIC="inside")
    trt, engine = types.SimpleNamespace(ExecutionContextAllocationStrategy=strategies), Engine()
    contexts = contexts_of(trt, engine, fixed=False)
    assert (contexts.captures, contexts.scratch) == (True, 4096)
    contexts.new(), contexts.new(repeats=True)
    assert engine.asked == [("outside",), ("outside",)]
    engine.device_memory_size_v2 = 0
    contexts = contexts_of(trt, engine, fixed=True)
    assert (contexts.captures, contexts.scratch) == (True, 0)
    contexts.new()
    assert engine.asked[2:] == [("inside",)]


@pytest.fixture
def rtx_engine(standin_tensorrt, device, double_model):
    """An engine of TensorRT-RTX, as its bindings behave, and the module."""
    return standin_tensorrt.module(device), standin_tensorrt.Engine(device, double_model)


@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("fixed", [False, True])
def test_contexts_of_tensorrt_rtx(rtx_engine, standin_tensorrt, fixed, eager):
    """Given engines of fixed shapes -> captured, not by RTX; of dynamic ones, by RTX, for repeating calls."""
    trt, engine = rtx_engine
    contexts = contexts_of(trt, engine, fixed=fixed, eager=eager)
    assert (contexts.captures, contexts.scratch) == (fixed, 0)
    contexts.new(), contexts.new(repeats=True)
    asked = [config.cuda_graph_strategy for config in engine.made]
    off, own = standin_tensorrt.GraphStrategy.DISABLED, standin_tensorrt.GraphStrategy.WHOLE_GRAPH_CAPTURE
    assert asked == [off, off if fixed else own]
    kernels = {config.dynamic_shapes_kernel_specialization_strategy for config in engine.made}
    assert kernels == {standin_tensorrt.Kernels.EAGER if eager else standin_tensorrt.Kernels.LAZY}


def test_runtime_cache_lives_as_long_as_any_context(rtx_engine, device):
    """Given contexts that share a cache, which the bindings do not keep -> it goes after the last of them, not before.

    The stand-in fails where a context is made, runs or ends without it.
    """
    trt, engine = rtx_engine
    contexts = contexts_of(trt, engine, fixed=False, cache=KernelCache())
    first, second = contexts.new(), contexts.new(repeats=True)
    cache = weakref.ref(engine.made[0].cache())
    assert engine.made[1].cache() is cache()
    engine.made.clear()
    del contexts
    first.let_go()
    gc.collect()
    assert cache() is not None
    second.let_go()
    gc.collect()
    assert cache() is None and device.astray == []


def test_the_real_runtime_has_what_is_called():
    """Given TensorRT-RTX as it is installed -> every method and property that is used of it."""
    for kind, names in (
        ("ICudaEngine", "create_execution_context create_runtime_config device_memory_size_v2 num_io_tensors"),
        (
            "IRuntimeConfig",
            "cuda_graph_strategy create_runtime_cache set_runtime_cache dynamic_shapes_kernel_specialization_strategy",
        ),
        ("IRuntimeCache", "serialize deserialize"),
        ("Runtime", "deserialize_cuda_engine get_engine_validity"),
        (
            "IExecutionContext",
            "set_optimization_profile_async set_device_memory set_input_shape set_tensor_address get_tensor_shape "
            "execute_async_v3 is_stream_capturable",
        ),
    ):
        missing = [name for name in names.split() if not hasattr(getattr(tensorrt_rtx, kind), name)]
        assert not missing, kind
    assert tensorrt_rtx.ExecutionContextAllocationStrategy.USER_MANAGED is not None


class Recorder:
    """An execution context that writes down what it is told, and answers what it is told to answer."""

    def __init__(self, answer=True):
        self.told, self.answer = [], answer

    def __getattr__(self, name):
        def call(*arguments):
            self.told.append((name, *arguments))
            return self.answer

        return call


def test_a_context_is_told_what_is_new():
    recorder = Recorder()
    context = Context(recorder)
    for shape in ((1, 3), (1, 3), (2, 3), (1, 3)):
        context.set_shape("x", shape)
    for address in (256, 256, 512):
        context.set_address("x", address)
    assert [call[0] for call in recorder.told] == ["set_input_shape"] * 3 + ["set_tensor_address"] * 2
    context.enqueue(7)
    assert recorder.told[-1] == ("execute_async_v3", 7)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda context: context.use_profile(2, 7), "the engine has no optimization profile 2"),
        (lambda context: context.set_shape("x", (1, 3)), r"the engine does not take x of shape \[1, 3\]"),
        (lambda context: context.set_address("x", 256), "the engine takes no buffer for x"),
        (lambda context: context.enqueue(7), "the engine did not run"),
    ],
)
def test_a_context_that_refuses(ask, message):
    """Given a context that refuses -> one line; and it is told again the next time."""
    recorder = Recorder(answer=False)
    context = Context(recorder)
    for _ in range(2):
        with pytest.raises(EngineError, match=message):
            ask(context)
    assert len(recorder.told) == 2


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda context: context.use_profile(2, 7), r"the engine has no optimization profile 2 \(Error in it\); build"),
        (lambda context: context.use_scratch(256, 9), r"does not take 9 bytes to work in \(Error in it\); build it"),
        (lambda context: context.set_shape("x", (1, 3)), r"does not take x of shape \[1, 3\] \(Error in it\); build"),
        (lambda context: context.set_address("x", 256), r"the engine takes no buffer for x \(Error in it\); build it"),
        (lambda context: context.shape_of("x"), r"does not tell the shape of x \(Error in it\); build it"),
        (lambda context: context.check_capturable(7), r"the engine cannot be captured \(Error in it\)"),
        (lambda context: context.enqueue(7), r"the engine did not run \(Error in it\); build it again"),
    ],
)
def test_bindings_that_raise_instead_of_answering(ask, message):
    """Given what the bindings raise where TensorRT refuses -> one line of ours with their words."""

    class Raises:
        def __getattr__(self, name):
            def call(*arguments):
                raise RuntimeError("Error in it")

            return call

    with pytest.raises(EngineError, match=message) as raised:
        ask(Context(Raises()))
    assert "\n" not in str(raised.value)


def test_engine_whose_context_raises(rtx_engine):
    trt, engine = rtx_engine
    engine.refuses = ("context", "raise")
    with pytest.raises(EngineError, match=r"gives no execution context, likely .* \(Error in context\); free some"):
        contexts_of(trt, engine, fixed=True).new()


def test_engine_without_a_context():
    with pytest.raises(EngineError, match="gives no execution context"):
        Context(None)


def test_context_that_is_let_go():
    """Given a context that others still refer to -> what it holds goes at once."""

    class Held:
        pass

    held = Held()
    gone = weakref.ref(held)
    context = Context(held)
    del held
    context.let_go()
    assert gone() is None
