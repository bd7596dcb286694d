"""Execution contexts: what each runtime is asked for, and that a context is told nothing twice."""

import types
import weakref

import pytest
import tensorrt_rtx

from plainconv.engines.tensorrt.contexts import Context, contexts_of
from plainconv.exporter.errors import EngineError


class Engine:
    device_memory_size_v2 = 4096

    def __init__(self):
        self.asked, self.configs = [], []

    def create_execution_context(self, *arguments):
        self.asked.append(arguments)
        return "context"

    def create_runtime_config(self):
        self.configs.append(types.SimpleNamespace(create_runtime_cache=lambda: "cache"))
        self.configs[-1].set_runtime_cache = lambda cache: setattr(self.configs[-1], "cache", cache)
        return self.configs[-1]


def test_contexts_of_tensorrt():
    """Given TensorRT, which has no graphs of its own -> captured, and scratch memory from outside."""
    strategies = types.SimpleNamespace(USER_MANAGED="outside", STATIC="inside")
    trt, engine = types.SimpleNamespace(ExecutionContextAllocationStrategy=strategies), Engine()
    contexts = contexts_of(trt, engine)
    assert (contexts.captures, contexts.scratch) == (True, 4096)
    assert contexts.create() == "context" and engine.asked == [("outside",)]
    engine.device_memory_size_v2 = 0
    contexts = contexts_of(trt, engine)
    assert (contexts.captures, contexts.scratch) == (True, 0)
    assert contexts.create() == "context" and engine.asked[1:] == [("inside",)]


def test_contexts_of_tensorrt_rtx():
    """Given TensorRT-RTX -> its own graphs, one cache of compiled kernels for all contexts, memory of their own."""
    engine = Engine()
    contexts = contexts_of(tensorrt_rtx, engine)
    assert (contexts.captures, contexts.scratch) == (False, 0)
    contexts.create(), contexts.create()
    (config,) = engine.configs
    assert config.cuda_graph_strategy == tensorrt_rtx.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE and config.cache == "cache"
    assert engine.asked == [(config,), (config,)]


def test_the_real_runtime_has_what_is_called():
    """Given TensorRT-RTX as it is installed -> every method and property that is used of it."""
    for kind, names in (
        ("ICudaEngine", "create_execution_context create_runtime_config device_memory_size_v2 num_io_tensors"),
        ("IRuntimeConfig", "cuda_graph_strategy create_runtime_cache set_runtime_cache"),
        (
            "IExecutionContext",
            "set_optimization_profile_async set_device_memory set_input_shape set_tensor_address get_tensor_shape "
            "execute_async_v3",
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
