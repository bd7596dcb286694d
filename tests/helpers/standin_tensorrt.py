"""A stand-in for TensorRT, or TensorRT-RTX, on the stand-in for CUDA: ONNX Runtime computes when the stream gets there.

What TensorRT leaves undefined (a context on two streams, one captured before it has run, a graph launched whose context
has changed, scratch memory used by two streams, a device that is not the engine's, a runtime cache or a runtime that is
gone before what it is used by) is an AssertionError, which nothing catches.
"""

import enum
import importlib.machinery
import json
import types
import weakref

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from standin_cuda import TOLD, RefusedError

from plainconv.engines.schedule import whole
from plainconv.engines.tensorrt.contexts import Contexts
from plainconv.engines.tensorrt.parts import PartEngine
from plainconv.engines.tensorrt.runner import TensorRTRunner
from plainconv.exporter.bundle import ShapeRange, TensorSpec

ENGINE_MS = 10.0
NUMPY = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64}


def make_model(path, batch="batch"):
    """logits = Relu(Conv 3×3 (x · scale)) of 3 → 4 channels, 8×8 pixels; pooled = its mean over the pixels, in fp16."""
    random = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(random.normal(size=(4, 3, 3, 3)).astype(np.float32), "w"),
        numpy_helper.from_array(random.normal(size=4).astype(np.float32), "b"),
    ]
    nodes = [
        helper.make_node("Mul", ["x", "scale"], ["scaled"]),
        helper.make_node("Conv", ["scaled", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["logits"]),
        helper.make_node("GlobalAveragePool", ["logits"], ["mean"]),
        helper.make_node("Cast", ["mean"], ["pooled"], to=TensorProto.FLOAT16),
    ]
    tensors = [
        helper.make_tensor_value_info(*of)
        for of in (
            ("x", TensorProto.FLOAT, [batch, 3, 8, 8]),
            ("scale", TensorProto.FLOAT, [batch, 1, 1, 1]),
            ("logits", TensorProto.FLOAT, [batch, 4, 8, 8]),
            ("pooled", TensorProto.FLOAT16, [batch, 4, 1, 1]),
        )
    ]
    graph = helper.make_graph(nodes, "double", tensors[:2], tensors[2:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    model.ir_version = 10
    onnx.save(model, path)
    return path


def inputs_of(batch, seed=0):
    """Inputs of the model, by name."""
    random = np.random.default_rng(seed)
    return {
        "x": random.normal(size=(batch, 3, 8, 8)).astype(np.float32),
        "scale": random.uniform(0.5, 2, size=(batch, 1, 1, 1)).astype(np.float32),
    }


def profile(low, high):
    """An optimization profile of the model, for these batches."""
    return {
        "x": ShapeRange((low, 3, 8, 8), (low, 3, 8, 8), (high, 3, 8, 8)),
        "scale": ShapeRange((low, 1, 1, 1), (low, 1, 1, 1), (high, 1, 1, 1)),
    }


class GraphStrategy(enum.Enum):
    DISABLED = 0
    WHOLE_GRAPH_CAPTURE = 1


class Kernels(enum.Enum):
    LAZY = 0
    EAGER = 1


class Cache:
    """An IRuntimeCache: what it "compiled" is the names of shapes."""

    def __init__(self):
        self.kernels = []

    def serialize(self):
        return json.dumps(self.kernels).encode()

    def deserialize(self, data):
        if not data.startswith(b"["):
            return False
        self.kernels = json.loads(data)
        return True


class Config:
    """An IRuntimeConfig. As the bindings', it does not keep the cache that it is given."""

    cuda_graph_strategy = GraphStrategy.WHOLE_GRAPH_CAPTURE
    dynamic_shapes_kernel_specialization_strategy = Kernels.LAZY
    cache = None

    def create_runtime_cache(self):
        return Cache()

    def set_runtime_cache(self, cache):
        self.cache = weakref.ref(cache)
        return True


def module(device, rtx=True, validity="VALID", diagnostics=0):
    """The module of either runtime. An engine is the bytes of `engine_bytes`; `loaded` has those loaded, in order."""

    class Runtime:
        def __init__(self, log):
            if "runtime" in trt.refuses:
                raise TypeError("pybind11::init(): factory function returned nullptr")
            self.log, self.device = log, device.current

        def deserialize_cuda_engine(self, data):
            engine = engine_of(device, data)
            engine.runtime = weakref.ref(self)
            trt.loaded.append(engine)
            return engine

    class Logger:
        pass

    class Verdict(enum.Enum):
        VALID, SUBOPTIMAL, INVALID = range(3)

    class Diagnostics(enum.IntFlag):
        VERSION_MISMATCH, UNSUPPORTED_CC, OLD_CUDA_DRIVER = 1, 2, 4

    trt = types.ModuleType("tensorrt_rtx" if rtx else "tensorrt")
    trt.__spec__ = importlib.machinery.ModuleSpec(trt.__name__, None)
    trt.__version__, trt.loaded, trt.refuses, trt.ILogger, trt.Runtime = "1.0", [], (), Logger, Runtime
    trt.ExecutionContextAllocationStrategy = enum.Enum("Where", "STATIC USER_MANAGED")
    if rtx:
        trt.CudaGraphStrategy, trt.DynamicShapesKernelSpecializationStrategy = GraphStrategy, Kernels
        trt.IRuntimeCache, trt.EngineInvalidityDiagnostics = Cache, Diagnostics

        def get_engine_validity(self, data):
            device.note("validity", device.current)
            return Verdict[validity], int(diagnostics)

        Runtime.get_engine_validity = get_engine_validity
    return trt


def engine_bytes(model, profiles=(), **told):
    """What `module` deserializes: an engine of an ONNX file, with these profiles; `refuses` as `Engine` has it."""
    ranges = [{n: [list(r.min), list(r.opt), list(r.max)] for n, r in profile.items()} for profile in profiles]
    return json.dumps({"model": str(model), "profiles": ranges, **told}).encode()


def engine_of(device, data):
    """The engine of `engine_bytes`."""
    device.note("deserialize", device.current)
    told = json.loads(data)
    profiles = tuple({n: ShapeRange(*map(tuple, r)) for n, r in p.items()} for p in told["profiles"])
    engine = Engine(device, told["model"], profiles, told.get("scratch", 0))
    engine.refuses = tuple(told.get("refuses", ()))
    return engine


class Engine:
    """An ICudaEngine of an ONNX model, on the device that this thread uses. `contexts` are those that live.

    `refuses` is what it does not do; "end" and "crash": it runs, and never ends, or takes its device down with it.
    With "raise" it raises instead of answering, as some calls of the bindings do.
    """

    runtime = None

    def __init__(self, device, model, profiles=(), scratch=0):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.number = device.current
        self.session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        self.device, self.profiles, self.device_memory_size_v2 = device, profiles, scratch
        self.ins = {value.name: (value.shape, value.type) for value in self.session.get_inputs()}
        self.outs = {value.name: (value.shape, value.type) for value in self.session.get_outputs()}
        self.names, self.num_io_tensors = [*self.ins, *self.outs], len(self.ins) + len(self.outs)
        self.dtypes = {name: NUMPY[kind] for name, (_, kind) in (self.ins | self.outs).items()}
        self.contexts, self.created, self.refuses, self.made = weakref.WeakSet(), 0, (), []

    def get_tensor_name(self, i):
        return self.names[i]

    def create_runtime_config(self):
        return Config()

    def told(self, name, *arguments):
        """Note a call, which raises as the bindings do where it is told to fail."""
        try:
            self.device.note(name, *arguments)
        except RefusedError:
            raise RuntimeError(self.device.words[TOLD]) from None

    def refusal(self, what):
        """What the bindings do where TensorRT refuses."""
        if what in self.refuses and "raise" in self.refuses:
            raise RuntimeError(f"Error in {what}")
        return what in self.refuses

    def create_execution_context(self, config=None):
        self.told("create context")
        assert self.runtime is None or self.runtime() is not None, "the runtime is gone before its engine"
        config = config if isinstance(config, Config) else None
        assert config is None or config.cache is None or config.cache() is not None, "the runtime cache is gone"
        assert self.device.current == self.number, "a context is made while another device is in use"
        self.created += 1
        if self.refusal("context"):
            return None
        context = Context(self, config)
        if config is not None:
            self.made.append(config)
        weakref.finalize(context, self._gone, config).atexit = False
        self.contexts.add(context)
        return context

    def _gone(self, config):
        if config is not None and config.cache is not None and config.cache() is None:
            self.device.astray.append("the runtime cache was gone before a context")
        if self.device.current != self.number and self.number not in self.device.dead:
            self.device.astray.append("a context went while another device was in use")


class Context:
    """An IExecutionContext: wants everything set before it runs, one stream, and one run before it is captured."""

    def __init__(self, engine, config=None):
        self.engine, self.device, self.config = engine, engine.device, config
        self.shapes, self.addresses, self.profile, self.scratch = {}, {}, None, None
        self.state, self.ran, self.stream, self.graph = 0, False, None, None

    def set_optimization_profile_async(self, profile, stream):
        self.engine.told("profile", profile)
        if self.engine.refusal("profile"):
            return False
        assert self.device.current == self.device.streams[stream].device == self.engine.number
        self.device.enqueue(stream)
        self._changed()
        self.profile = profile
        return profile < len(self.engine.profiles)

    def set_device_memory(self, address, size):
        self._changed()
        self.device.inside(address, size)
        self.scratch = (address, size)

    def set_input_shape(self, name, shape):
        self.engine.told("shape", name, tuple(shape))
        self._changed()
        self.shapes[name] = tuple(shape)
        wanted = self.engine.ins[name][0]
        if self.engine.profiles:
            assert self.profile is not None, "a shape is set before a profile is chosen"
            covered = self.engine.profiles[self.profile][name]
            fits = all(a <= n <= b for a, n, b in zip(covered.min, shape, covered.max, strict=True))
        else:
            fits = list(shape) == wanted
        return fits and not self.engine.refusal("shape")

    def get_tensor_shape(self, name):
        if "data dependent" in self.engine.refuses:
            return (-1, 4)
        if name in self.shapes:
            return self.shapes[name]
        sizes = {}
        for known, (axes, _) in self.engine.ins.items():
            sizes.update(zip(axes, self.shapes[known], strict=True))
        return tuple(size if isinstance(size, int) else sizes[size] for size in self.engine.outs[name][0])

    def set_tensor_address(self, name, address):
        self.engine.told("address", name)
        assert address % 256 == 0
        self._changed()
        self.addresses[name] = address
        return not self.engine.refusal("address")

    def is_stream_capturable(self, stream):
        self.device.note("capturable", stream)
        return "capturable" not in self.engine.refuses

    def execute_async_v3(self, stream):
        self.engine.told("execute", stream)
        if self.engine.refusal("execute"):
            return False
        assert set(self.shapes) == set(self.engine.ins) and set(self.addresses) == set(self.engine.names)
        assert self.engine.device_memory_size_v2 == 0 or self.scratch[1] >= self.engine.device_memory_size_v2
        assert self.device.current == self.device.streams[stream].device == self.engine.number, "on another device"
        captured = self.device.streams[stream].captured is not None
        assert self.ran or not captured, "a context is captured before it has run"
        if captured and self.engine.refusal("capture"):
            return False
        if self.config is not None:
            assert self.config.cache is None or self.config.cache() is not None, "the runtime cache is gone"
            own = self.config.cuda_graph_strategy is GraphStrategy.WHOLE_GRAPH_CAPTURE
            assert not (own and captured), "RTX captures within a capture"
            now = (tuple(self.addresses.items()), tuple(self.shapes.items()))
            if own and now != self.graph:
                self.device.note("own capture")
                self.graph = now
            if self.config.cache is not None:
                kernel = str(sorted(self.shapes.items()))
                cache = self.config.cache()
                cache.kernels += [kernel] if kernel not in cache.kernels else []
        assert self.stream in (None, stream), "one context on two streams"
        assert self.scratch is None or self.device.scratch_of.setdefault(self.scratch, stream) == stream
        self.stream, self.ran = stream, True
        state, addresses, engine, alive = self.state, dict(self.addresses), self.engine, weakref.ref(self)
        dtypes = engine.dtypes
        shapes = {name: self.get_tensor_shape(name) for name in addresses}
        spans = {n: (at, int(np.prod(shapes[n])) * np.dtype(dtypes[n]).itemsize) for n, at in addresses.items()}
        assert all(self.device.inside(*span) == self.engine.number for span in spans.values()), "on another device"

        def run():
            device, context = engine.device, alive()
            assert context is not None, "a context is gone before it has run"
            assert context.state == state or not captured, "a graph is launched whose context has changed"
            if "crash" in engine.refuses:
                device.dead.add(engine.number)
                return
            device.clock += ENGINE_MS
            feeds = {name: device.read(addresses[name], shapes[name], dtypes[name]) for name in engine.ins}
            results = engine.session.run(list(engine.outs), feeds)
            for name, array in zip(engine.outs, results, strict=True):
                assert array.dtype == dtypes[name] and array.shape == shapes[name]
                device.write(addresses[name], array)

        reads = tuple(spans[name] for name in engine.ins)
        writes = tuple(spans[name] for name in engine.outs) + ((self.scratch,) if self.scratch else ())
        stuck = "end" in engine.refuses
        self.device.enqueue(stream, run, reads=reads, writes=writes, stuck=stuck)
        return True

    def _changed(self):
        self.state += 1
        self.ran = False


UP_TO_4 = (profile(1, 4),)


def make_runner(device, model, *, profiles=UP_TO_4, batch="batch", captures=True, scratch=0, refuses=(), **other):
    """A runner of the model on the double, and its engine as `runner.double`."""
    engine = Engine(device, model, profiles, scratch)
    engine.refuses = refuses
    specs = (
        TensorSpec("x", "float32", (batch, 3, 8, 8)),
        TensorSpec("scale", "float32", (batch, 1, 1, 1)),
        TensorSpec("logits", "float32", (batch, 4, 8, 8)),
        TensorSpec("pooled", "float16", (batch, 4, 1, 1)),
    )
    contexts = Contexts(engine.create_execution_context, captures, scratch)
    options = {"backend": "tensorrt", "precision": "fp32", "inputs": specs[:2], "outputs": specs[2:]} | other
    ins, outs = options["inputs"], options["outputs"]
    outlives = options.pop("outlives", None)
    part = PartEngine("", engine, contexts, device.current, profiles, outlives)
    devices = (device.current,)
    runner = TensorRTRunner(whole(ins, outs), [part], device.cuda, devices=devices, profiles=profiles, **options)
    runner.double = engine
    return runner
