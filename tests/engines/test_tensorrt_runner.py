"""The TensorRT runner's calls, against a double of engine and CUDA with a memory of its own."""

import numpy as np
import pytest

from engines.tensorrt_runner import TensorRTRunner
from exporter.bundle import ShapeRange, TensorSpec
from exporter.errors import EngineError

STREAM = 77


class Device:
    """CUDA: memory by address, and every call in order. Copies and the engine run when the stream is synchronized."""

    def __init__(self, memory=10**6):
        self.left, self.calls, self.buffers, self.queue = memory, [], {}, []
        self.next_address, self.streams = 4096, set()

    def allocate(self, size):
        if size > self.left:
            raise EngineError("out of GPU memory")
        self.left -= size
        self.next_address += 2**20
        self.buffers[self.next_address] = bytearray(size)
        self.calls.append(("allocate", self.next_address, size))
        return self.next_address

    def free(self, address):
        self.left += len(self.buffers.pop(address))
        self.calls.append(("free", address))

    def create_stream(self):
        self.streams.add(STREAM)
        return STREAM

    def destroy_stream(self, stream):
        self.streams.remove(stream)
        self.calls.append(("destroy_stream", stream))

    def copy_to_device(self, address, array, stream):
        assert stream in self.streams and array.flags.c_contiguous
        self.calls.append(("to device", address, array.nbytes))
        self.queue.append(lambda: self.put(address, array))

    def copy_to_host(self, array, address, stream):
        assert stream in self.streams and array.flags.c_contiguous
        self.calls.append(("to host", address, array.nbytes))
        self.queue.append(lambda: array.__setitem__(..., self.get(address, array.shape, array.dtype)))

    def synchronize(self, stream):
        assert stream in self.streams
        self.calls.append(("synchronize", stream))
        while self.queue:
            self.queue.pop(0)()

    def put(self, address, array):
        assert array.nbytes <= len(self.buffers[address])
        self.buffers[address][: array.nbytes] = array.tobytes()

    def get(self, address, shape, dtype):
        count = int(np.prod(shape))
        return np.frombuffer(bytes(self.buffers[address]), dtype, count).reshape(shape)


class Context:
    """An execution context of y_NK = sum over pixels of x_NCHW[:, k], for K = 3 channels, and its double."""

    def __init__(self, device, max_batch, fails=()):
        self.device, self.max_batch, self.fails = device, max_batch, fails
        self.shapes, self.addresses = {}, {}

    def set_input_shape(self, name, shape):
        self.device.calls.append(("shape", name, tuple(shape)))
        self.shapes[name] = tuple(shape)
        return shape[0] <= self.max_batch

    def get_tensor_shape(self, name):
        if "data dependent" in self.fails:
            return (-1, 3)
        return {"x": self.shapes["x"], "y": (self.shapes["x"][0], 3), "twice": (self.shapes["x"][0], 3)}[name]

    def set_tensor_address(self, name, address):
        assert address in self.device.buffers
        self.addresses[name] = address
        return "address" not in self.fails

    def execute_async_v3(self, stream):
        assert stream in self.device.streams and set(self.addresses) == {"x", "y", "twice"}
        self.device.calls.append(("execute", stream))
        self.device.queue.append(self.compute)
        return "execute" not in self.fails

    def compute(self):
        x_NCHW = self.device.get(self.addresses["x"], self.shapes["x"], np.float32)
        y_NC = x_NCHW.sum((2, 3), dtype=np.float32)
        self.device.put(self.addresses["y"], y_NC)
        self.device.put(self.addresses["twice"], (2 * y_NC).astype(np.float16))


class Engine:
    def __init__(self, context, names=("x", "y", "twice")):
        self.context, self.names = context, names
        self.num_io_tensors = len(names)

    def get_tensor_name(self, i):
        return self.names[i]

    def create_execution_context(self):
        return self.context


def a_runner(device, batch="batch", max_batch=4, fails=(), **engine):
    context = None if "context" in fails else Context(device, max_batch, fails)
    covered = {"x": ShapeRange((1, 3, 2, 2), (2, 3, 2, 2), (4, 3, 2, 2))} if batch == "batch" else {}
    return TensorRTRunner(
        Engine(context, **engine),
        device,
        backend="tensorrt",
        inputs=(TensorSpec("x", "float32", (batch, 3, 2, 2)),),
        outputs=(TensorSpec("y", "float32", (batch, 3)), TensorSpec("twice", "float16", (batch, 3))),
        ranges=covered,
    )


def images(batch, seed=0):
    return np.random.default_rng(seed).normal(size=(batch, 3, 2, 2)).astype(np.float32)


def test_outputs_at_every_batch():
    """Given one runner and batches of several sizes -> each result is its own, in arrays of its own."""
    device = Device()
    with a_runner(device) as runner:
        inputs = {batch: images(batch, batch) for batch in (4, 1, 3, 4)}
        results = {batch: runner({"x": x}) for batch, x in inputs.items()}
    for batch, x in inputs.items():
        np.testing.assert_array_equal(results[batch]["y"], x.sum((2, 3), dtype=np.float32))
        assert results[batch]["twice"].dtype == np.float16 and results[batch]["twice"].shape == (batch, 3)


def test_buffers_fit_the_largest_shapes_and_are_allocated_once():
    """Given a profile up to batch 4 -> three buffers of those sizes, none more at any call."""
    device = Device()
    with a_runner(device) as runner:
        sizes = [call[2] for call in device.calls if call[0] == "allocate"]
        for batch in (1, 4, 2):
            runner({"x": images(batch)})
        assert [call[2] for call in device.calls if call[0] == "allocate"] == sizes == [4 * 48, 4 * 12, 4 * 6]


def test_order_of_a_call():
    """Given a call -> shape, copies in, engine, copies out of the outputs' size now, and only then one wait."""
    device = Device()
    with a_runner(device) as runner:
        x, y, twice = (address for name, address, *_ in device.calls if name == "allocate")
        device.calls.clear()
        runner({"x": images(2)})
    assert device.calls[:6] == [
        ("shape", "x", (2, 3, 2, 2)),
        ("to device", x, 2 * 48),
        ("execute", STREAM),
        ("to host", y, 2 * 12),
        ("to host", twice, 2 * 6),
        ("synchronize", STREAM),
    ]


def test_close_gives_everything_back():
    """Given a runner that is closed, twice -> all memory is back, then the stream; a call after it is one line."""
    device = Device(memory=1000)
    runner = a_runner(device)
    runner.close()
    runner.close()
    assert device.left == 1000 and device.streams == set()
    assert device.calls[-1] == ("destroy_stream", STREAM)
    with pytest.raises(EngineError, match="the runner is closed"):
        runner({"x": images(1)})


def test_fixed_shapes():
    device = Device()
    with a_runner(device, batch=2) as runner:
        x = images(2)
        np.testing.assert_array_equal(runner({"x": x})["y"], x.sum((2, 3), dtype=np.float32))
        with pytest.raises(EngineError, match=r"input x has shape \[1, 3, 2, 2\], wanted \[2, 3, 2, 2\]"):
            runner({"x": images(1)})


def test_request_outside_the_profile_touches_nothing():
    device = Device()
    with a_runner(device) as runner:
        before = list(device.calls)
        with pytest.raises(EngineError, match="optimization profile covers"):
            runner({"x": images(5)})
        assert device.calls == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fails": ("context",)}, "gives no execution context"),
        ({"fails": ("address",)}, "takes no buffer for x"),
        ({"fails": ("data dependent",)}, r"the shape of y depends on the data \(\[-1, 3\]\)"),
        ({"max_batch": 3}, r"does not take x of shape \[4, 3, 2, 2\]"),
        ({"names": ("x", "z")}, r"the engine has tensors \['x', 'z'\], its bundle says \['twice', 'x', 'y'\]"),
    ],
)
def test_engine_that_does_not_suit(options, message):
    """Given an engine that refuses -> one line, and nothing stays allocated."""
    device = Device(memory=1000)
    with pytest.raises(EngineError, match=message):
        a_runner(device, **options)
    assert device.left == 1000 and device.streams == set()


def test_out_of_memory_keeps_nothing():
    device = Device(memory=4 * 48 + 10)
    with pytest.raises(EngineError, match="out of GPU memory"):
        a_runner(device)
    assert device.left == 4 * 48 + 10 and device.streams == set()


def test_engine_that_fails_is_waited_for():
    """Given an engine that does not start -> one line, after the copies that were under way have ended."""
    device = Device()
    with a_runner(device, fails=("execute",)) as runner:
        with pytest.raises(EngineError, match="the engine did not run"):
            runner({"x": images(1)})
        assert device.calls[-1] == ("synchronize", STREAM)


def test_free_axis_without_a_profile():
    device = Device()
    with pytest.raises(EngineError, match="has a free axis and the engine no optimization profile"):
        TensorRTRunner(
            Engine(Context(device, 4), ("x", "y")),
            device,
            backend="tensorrt",
            inputs=(TensorSpec("x", "float32", ("batch", 3)),),
            outputs=(TensorSpec("y", "float32", ("batch", 3)),),
            ranges={},
        )
