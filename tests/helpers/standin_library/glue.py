"""What the stand-in library's objects do: each call of the real bindings goes to the objects of `standin_tensorrt`.

Numbers of calls are positions in the virtual tables of TensorRT's classes. A breach of TensorRT's rules ends the
process, with its name.
"""

import ctypes
import itertools
import os
import sys
import traceback
import types
import weakref

import numpy as np
import standin_tensorrt

RUNTIME, ENGINE, CONFIG, CACHE, MEMORY, CONTEXT = range(1, 7)
DESTROYED = -1
INT = ctypes.c_int64
CALLBACK = ctypes.CFUNCTYPE(INT, *[INT] * 6)
DIMS = np.dtype([("count", "<i4"), ("", "<i4"), ("sizes", "<i8", 8)])


class Library:
    """What answers the bindings. `OBJECTS` are those behind theirs; one that is gone is one that they destroyed."""

    def __init__(self, device, validity, diagnostics):
        import tensorrt_rtx
        from tensorrt_rtx_libs import LIBRARY

        self.trt, self.library, self.device = tensorrt_rtx, LIBRARY, device
        self.validity = tensorrt_rtx.EngineValidity.__members__[validity].value
        names = ("VERSION_MISMATCH", "UNSUPPORTED_CC", "OLD_CUDA_DRIVER")
        flags = tensorrt_rtx.EngineInvalidityDiagnostics.__members__
        self.diagnostics = sum(int(flags[name]) for at, name in enumerate(names) if diagnostics & (1 << at))
        self.loaded, self.refuses, self.__version__ = [], (), tensorrt_rtx.__version__
        self.kept = []
        LIBRARY.standin_new.restype, LIBRARY.standin_new.argtypes = ctypes.c_void_p, [INT, INT]
        LIBRARY.standin_number.restype, LIBRARY.standin_number.argtypes = INT, [ctypes.c_void_p]
        LIBRARY.standin_structure.argtypes = [INT, INT]
        self.callback = CALLBACK(self.call)
        LIBRARIES.append(self)  # the bindings may call as long as the process lives: the last one answers them
        LIBRARY.standin_begin(self.callback)
        LIBRARY.standin_structure(CONTEXT, 21)
        self.calls = {
            (RUNTIME, 3): self.deserialize,
            (RUNTIME, 24): self.get_validity,
            (ENGINE, 5): lambda engine, *_: self.context(engine, None),
            (ENGINE, 26): lambda engine, *_: engine.num_io_tensors,
            (ENGINE, 27): lambda engine, index, *_: self.text(engine.get_tensor_name(index)),
            (ENGINE, 29): lambda *_: 0,
            (ENGINE, 44): lambda engine, *_: engine.device_memory_size_v2,
            (ENGINE, 47): lambda engine, config, *_: self.context(engine, self.of(config)),
            (ENGINE, 48): lambda engine, *_: self.new(CONFIG, engine.create_runtime_config()),
            (CONFIG, 5): lambda config, *_: self.new(CACHE, config.create_runtime_cache()),
            (CONFIG, 6): lambda config, cache, *_: config.set_runtime_cache(self.of(cache)),
            (CONFIG, 8): self.set_kernels,
            (CONFIG, 10): self.set_graphs,
            (CACHE, 2): lambda cache, *_: self.new(MEMORY, types.SimpleNamespace(data=cache.serialize())),
            (CACHE, 3): lambda cache, at, size, _: cache.deserialize(ctypes.string_at(at, size)),
            (MEMORY, 2): lambda memory, *_: self.bytes(memory.data),
            (MEMORY, 3): lambda memory, *_: len(memory.data),
            (MEMORY, 4): lambda *_: tensorrt_rtx.uint8.value,
            (CONTEXT, 16): lambda context, profile, stream, _: context.set_optimization_profile_async(profile, stream),
            (CONTEXT, 20): lambda context, name, dims, _: context.set_input_shape(name_at(name), shape_at(dims)),
            (CONTEXT, 21): self.get_shape,
            (CONTEXT, 23): lambda context, name, at, _: context.set_tensor_address(name_at(name), at),
            (CONTEXT, 36): lambda context, stream, *_: context.execute_async_v3(stream),
            (CONTEXT, 48): lambda context, at, size, _: context.set_device_memory(at, size),
            (CONTEXT, 52): lambda context, stream, *_: context.is_stream_capturable(stream),
        }

    def call(self, kind, number, slot, a, b, c):
        """One virtual call; ends the process for a breach."""
        try:
            if kind == 0:
                return 0 if "runtime" in self.refuses else self.new(RUNTIME, Runtime())
            if slot == DESTROYED:
                del OBJECTS[number]
                assert self.device.astray == [], self.device.astray
                return 0
            assert (kind, slot) in self.calls, f"the stand-in library has no call {slot} of kind {kind}"
            return int(self.calls[kind, slot](OBJECTS[number], a, b, c) or 0)
        except RuntimeError:  # what TensorRT refuses, it answers with nothing
            return 0
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(70)

    def new(self, kind, thing):
        """A C++ object for a thing, which lives as long as that."""
        number = next(NUMBERS)
        OBJECTS[number] = thing
        return self.library.standin_new(kind, number)

    def of(self, address):
        """The thing of a C++ object."""
        return OBJECTS[self.library.standin_number(address)]

    def text(self, words):
        return self.bytes(words.encode() + b"\0")

    def bytes(self, data):
        self.kept.append(ctypes.create_string_buffer(data, len(data)))
        return ctypes.addressof(self.kept[-1])

    def deserialize(self, runtime, at, size, _):
        data = ctypes.string_at(at, size)
        engine = standin_tensorrt.engine_of(self.device, data)
        engine.runtime = weakref.ref(runtime)
        self.loaded.append(engine)
        return self.new(ENGINE, engine)

    def context(self, engine, config):
        made = engine.create_execution_context(config)
        return 0 if made is None else self.new(CONTEXT, made)

    def get_validity(self, runtime, at, size, diagnostics):
        self.device.note("validity", self.device.current)
        ctypes.c_uint64.from_address(diagnostics).value = self.diagnostics
        return self.validity

    def set_graphs(self, config, value, *_):
        config.cuda_graph_strategy = standin_tensorrt.GraphStrategy(value)
        return 1

    def set_kernels(self, config, value, *_):
        config.dynamic_shapes_kernel_specialization_strategy = standin_tensorrt.Kernels(value)
        return 1

    def get_shape(self, context, result, name, _):
        shape = context.get_tensor_shape(name_at(name))
        dims = np.frombuffer((ctypes.c_char * DIMS.itemsize).from_address(result), DIMS)
        dims["count"][0], dims["sizes"][0, : len(shape)] = len(shape), shape


class Runtime:
    """An IRuntime: what engines need to live."""


LIBRARIES, OBJECTS, NUMBERS = [], {}, itertools.count(1)


def name_at(address):
    """A C string."""
    return ctypes.string_at(address).decode()


def shape_at(address):
    """TensorRT's `Dims`: how many, and eight sizes."""
    dims = np.frombuffer(ctypes.string_at(address, DIMS.itemsize), DIMS)[0]
    return tuple(int(size) for size in dims["sizes"][: dims["count"]])
