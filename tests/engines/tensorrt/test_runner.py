"""The TensorRT runner: arrays of the host and of the GPU, threads, closing. Against doubles."""

import gc
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from examples import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plainconv.engines.cuda.device_array import DeviceArray
from plainconv.engines.tensorrt.waits import LostError
from plainconv.exporter.errors import EngineError, PlainconvWarning


@pytest.fixture
def on_gpu(standin_cuda, device):
    """Inputs as a caller's tensors in GPU memory."""
    return lambda inputs, **said: {name: standin_cuda.Tensor(device, a, **said) for name, a in inputs.items()}


def test_inputs_in_gpu_memory_are_not_copied(make_runner, standin_tensorrt, reference, device, on_gpu):
    """Given tensors in GPU memory -> the engine reads them where they are, and writes arrays in GPU memory."""
    inputs = standin_tensorrt.inputs_of(3)
    with make_runner() as runner:
        tensors = on_gpu(inputs)
        results = runner(tensors)
        assert not {"to device", "to host"} & set(device.names())
        for name, array in reference(inputs).items():
            result = results[name]
            assert isinstance(result, DeviceArray) and (result.shape, result.dtype) == (array.shape, array.dtype)
            assert result.__dlpack_device__() == (2, 0)
            np.testing.assert_array_equal(device.contents(result), array)


def test_some_inputs_in_gpu_memory(make_runner, standin_tensorrt, reference, device, on_gpu):
    """Given one tensor of the GPU and one array of the host -> only the latter is copied."""
    inputs = standin_tensorrt.inputs_of(2)
    with make_runner() as runner:
        device.calls.clear()
        results = runner(inputs | on_gpu({"x": inputs["x"]}))
        assert [call[2] for call in device.calls if call[0] in ("to device", "to host")] == [2 * 4]
        np.testing.assert_array_equal(device.contents(results["logits"]), reference(inputs)["logits"])


def test_tensor_that_is_still_being_written(make_runner, standin_tensorrt, reference, device, on_gpu):
    """Given tensors whose producer is not done -> the runner's own stream waits for them, also when replaying."""
    with make_runner() as runner:
        for seed in range(5):
            inputs = standin_tensorrt.inputs_of(2, seed)
            tensors = on_gpu(inputs, late=True)
            np.testing.assert_array_equal(device.contents(runner(tensors)["logits"]), reference(inputs)["logits"])


def test_results_in_gpu_memory_are_kept_while_they_are_held(make_runner, standin_tensorrt, reference, device, on_gpu):
    """Given results that are held over later calls and over closing -> none is overwritten; all memory comes back."""
    calls = [standin_tensorrt.inputs_of(2, seed) for seed in range(6)]
    with make_runner() as runner:
        results = [runner(on_gpu(inputs)) for inputs in calls]
    for inputs, result in zip(calls, results, strict=True):
        for name, array in reference(inputs).items():
            np.testing.assert_array_equal(device.contents(result[name]), array)
    del result, results
    gc.collect()
    assert set(device.buffers) == device.callers


def test_memory_of_a_dropped_result_is_used_again(make_runner, standin_tensorrt, device, on_gpu):
    """Given results that are dropped -> their memory is used again, after a wait for whatever may still read it."""
    tensors = on_gpu(standin_tensorrt.inputs_of(2))
    with make_runner() as runner:
        addresses = {runner(tensors)["logits"].address for _ in range(6)}
        names = device.names()
        assert len(addresses) == 1 and "free" not in names
        assert "launch" in names  # the same addresses again: the call is replayed


def test_results_in_turn_are_replayed(make_runner, standin_tensorrt, reference, device, on_gpu):
    """Given a result that is held until the next one is there -> two blocks in turn, a graph for each."""
    inputs = standin_tensorrt.inputs_of(2)
    tensors = on_gpu(inputs)
    with make_runner() as runner:
        for _ in range(8):
            result = runner(tensors)
        device.calls.clear()
        result = runner(tensors)
        assert [name for name in device.names() if name in ("launch", "execute")] == ["launch"]
        np.testing.assert_array_equal(device.contents(result["logits"]), reference(inputs)["logits"])
        assert len(device.graphs) == 2


def test_outputs_of_the_caller(make_runner, standin_tensorrt, standin_cuda, reference, device, on_gpu):
    """Given arrays and tensors to write into -> they hold the results and are what is given back; the rest is new."""
    inputs = standin_tensorrt.inputs_of(2)
    wanted = reference(inputs)
    with make_runner() as runner:
        for call in (inputs, on_gpu(inputs)):
            for _ in range(4):
                logits = np.zeros((2, 4, 8, 8), np.float32)
                pooled = standin_cuda.Tensor(device, np.zeros((2, 4, 1, 1), np.float16))
                results = runner(call, {"logits": logits, "pooled": pooled})
                assert results["logits"] is logits and results["pooled"] is pooled
                np.testing.assert_array_equal(logits, wanted["logits"])
                np.testing.assert_array_equal(device.contents(pooled), wanted["pooled"])
        results = runner(inputs, {"logits": logits})
        assert results["logits"] is logits
        np.testing.assert_array_equal(results["pooled"], wanted["pooled"])


def test_result_as_the_next_input(make_runner, standin_tensorrt, device, on_gpu):
    """Given a runner's own array -> it is an input like any other, without a copy."""
    inputs = on_gpu(standin_tensorrt.inputs_of(2))
    with make_runner() as runner:
        result = runner(inputs)["logits"]
        device.calls.clear()
        with pytest.raises(EngineError, match=r"input x has shape \[2, 4, 8, 8\], wanted \[batch, 3, 8, 8\]"):
            runner(inputs | {"x": result})


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"device": 1}, "input x is on GPU 1, the engine on GPU 0; copy it there first"),
        ({"offset": 4}, "input x begins at an address that is no multiple of 256, as the engine wants; give a clone"),
        ({"c_contiguous": False}, "input x is not contiguous in memory"),
    ],
)
def test_tensors_that_do_not_fit(make_runner, standin_tensorrt, device, on_gpu, said, message):
    inputs = standin_tensorrt.inputs_of(2)
    with make_runner() as runner:
        with pytest.raises(EngineError, match=message) as raised:
            runner(inputs | on_gpu({"x": inputs["x"]}, **said))
        assert "\n" not in str(raised.value) and "execute" not in device.names()


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        (
            "logits",
            np.zeros((1, 4, 8, 8), np.float32),
            r"output logits has shape \[1, 4, 8, 8\], wanted \[2, 4, 8, 8\]",
        ),
        ("logits", np.zeros((2, 4, 8, 8)), "output logits is dtype.'float64'., wanted float32"),
        ("logit", np.zeros((2, 4, 8, 8), np.float32), "outputs are logit, wanted some of logits, pooled"),
    ],
)
def test_outputs_that_do_not_fit(make_runner, standin_tensorrt, device, name, array, message):
    with make_runner() as runner:
        with pytest.raises(EngineError, match=message):
            runner(standin_tensorrt.inputs_of(2), {name: array})
        assert "execute" not in device.names()


def test_read_only_tensor_as_output(make_runner, standin_tensorrt, on_gpu):
    outputs = on_gpu({"logits": np.zeros((2, 4, 8, 8), np.float32)}, writeable=False)
    with make_runner() as runner, pytest.raises(EngineError, match="output logits is read-only"):
        runner(standin_tensorrt.inputs_of(2), outputs)


def test_tensors_that_overlap(make_runner, standin_tensorrt, device, on_gpu):
    """Given one tensor for two outputs, or an input's for an output -> one line that names both, and nothing runs."""
    inputs = on_gpu(standin_tensorrt.inputs_of(2))
    with make_runner() as runner:
        for outputs, other in (
            ({"logits": inputs["x"]}, "input x"),
            (on_gpu({"logits": np.zeros(8)}), "output logits"),
        ):
            with pytest.raises(
                EngineError, match=f"output .* lies in the memory of {other}; give it an array of its own"
            ):
                runner(inputs, outputs | {"pooled": outputs["logits"]})
        assert "execute" not in device.names()


def test_threads(make_runner, standin_tensorrt, reference, device):
    """Given 4 threads that call at the same time -> each gets its own results, on at most 4 lanes; all come back."""
    calls = [standin_tensorrt.inputs_of(1 + seed % 4, seed) for seed in range(100)]
    with make_runner(scratch=5000) as runner, ThreadPoolExecutor(4) as pool:
        for inputs, result in zip(calls, pool.map(runner, calls), strict=True):
            for name, array in reference(inputs).items():
                np.testing.assert_array_equal(result[name], array)
        assert 1 <= len(device.streams) <= 4
    assert device.empty


def test_calls_one_after_another_share_a_lane(make_runner, standin_tensorrt, device):
    """Given calls from many threads, never two at a time -> one stream, one set of buffers."""
    with make_runner() as runner:
        for _ in range(3):
            with ThreadPoolExecutor(1) as pool:
                pool.submit(runner, standin_tensorrt.inputs_of(1)).result()
        assert len(device.streams) == 1


def test_close_waits_for_the_call_that_is_under_way(make_runner, standin_tensorrt, reference, device):
    """Given a call in another thread -> closing returns after it, and the call has its result."""
    inputs = standin_tensorrt.inputs_of(2)
    runner = make_runner()
    device.running.clear(), device.may_run.clear()
    with ThreadPoolExecutor(2) as pool:
        call = pool.submit(runner, inputs)
        assert device.running.wait(30)
        closing = pool.submit(runner.close)
        time.sleep(0.05)
        assert not closing.done()
        with pytest.raises(EngineError, match="the runner is closed"):
            runner(inputs)
        device.may_run.set()
        np.testing.assert_array_equal(call.result()["logits"], reference(inputs)["logits"])
        closing.result()
    assert device.empty


def test_close(make_runner, standin_tensorrt, device):
    """Given a runner that is closed, twice, by other threads too -> all is back; a call after it is one line."""
    runner = make_runner()
    for _ in range(3):
        runner(standin_tensorrt.inputs_of(2))
    assert device.graphs
    threads = [threading.Thread(target=runner.close) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    runner.close()
    gc.collect()
    assert device.empty and not runner.double.contexts
    for call in (runner, runner.stages):
        with pytest.raises(EngineError, match="the runner is closed; load the bundle again"):
            call(standin_tensorrt.inputs_of(2))


def test_what_needs_the_other_goes_first(make_runner, standin_tensorrt):
    """Given a runner that is closed -> its contexts go before the engine, that before what outlives it, at once."""

    class Runtime:
        pass

    runtime, gone = Runtime(), []
    runner = make_runner(outlives=runtime)
    for _ in range(3):
        runner(standin_tensorrt.inputs_of(2))
    for name, thing in (("runtime", runtime), ("engine", runner.double)):
        weakref.finalize(thing, gone.append, name)
    for context in runner.double.contexts:
        weakref.finalize(context, gone.append, "context")
    del runtime, runner.double, thing, context
    gc.disable()
    try:
        runner.close()
        assert gone == ["context", "context", "engine", "runtime"]
    finally:
        gc.enable()


def test_another_lane_cannot_be_made(make_runner, standin_tensorrt, device):
    """Given a second call at the same time and nothing left for it -> one line; the runner goes on, and closes."""
    with make_runner() as runner, ThreadPoolExecutor(2) as pool:
        device.running.clear(), device.may_run.clear()
        call = pool.submit(runner, standin_tensorrt.inputs_of(2))
        assert device.running.wait(30)
        device.fail["create_stream"] = 1
        with pytest.raises(EngineError, match="create_stream failed"):
            runner(standin_tensorrt.inputs_of(2))
        device.may_run.set()
        call.result()
        assert len(device.streams) == 1
    assert device.empty


def test_thread_that_uses_another_gpu(make_runner, standin_tensorrt, device):
    """Given a thread that uses GPU 1 -> the call runs on the runner's, and the thread then uses its own again."""
    with make_runner() as runner:
        device.current = 1
        device.calls.clear()
        runner(standin_tensorrt.inputs_of(2))
        calls = [call for call in device.calls if call[0] in ("use_device", "execute")]
        assert [call[0] for call in calls] == ["use_device", "execute", "use_device"]
        assert (calls[0][1], calls[2][1]) == (0, 1) and device.current == 1


def in_a_new_thread(work):
    """The result of `work` in a thread that CUDA has not seen."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


def test_gpu_arrays_from_a_new_thread(make_runner, standin_tensorrt, reference, device, on_gpu):
    """Given a thread that never chose a device -> its GPU arrays are taken: it has a context by then."""
    inputs = standin_tensorrt.inputs_of(2)
    tensors = on_gpu(inputs)
    with make_runner() as runner:
        for _ in range(3):
            result = in_a_new_thread(lambda: runner(tensors))["logits"]
            np.testing.assert_array_equal(device.contents(result), reference(inputs)["logits"])


def test_engine_that_takes_its_gpu_down(make_runner, standin_tensorrt, device):
    """Given an engine after which every call of CUDA fails -> lost, for good; no later call asks CUDA anything."""
    runner = make_runner()
    inputs = standin_tensorrt.inputs_of(2)
    runner(inputs)
    assert not runner.lost and runner.notes == ()
    runner.double.refuses = ("crash",)
    with pytest.raises(LostError, match=r"GPU 0 failed while the network ran there .*unspecified launch failure"):
        runner(inputs)
    assert runner.lost and runner.notes[0].startswith("the runner is lost: GPU 0 failed while the network ran there")
    device.calls.clear()
    with pytest.raises(EngineError, match="the runner is lost"):
        runner(inputs)
    assert device.calls == []
    runner.close()
    assert runner.lost


@pytest.mark.parametrize("tensors", [False, True])
@pytest.mark.parametrize("calls", range(0, 24, 3))
def test_gpu_that_dies_at_any_call(make_runner, standin_tensorrt, reference, device, on_gpu, calls, tensors):
    """Given a GPU that answers so many more calls -> results are right until then; after it the runner is lost."""
    runner = make_runner()
    inputs = standin_tensorrt.inputs_of(2)
    given = on_gpu(inputs) if tensors else inputs
    runner(given)
    device.dies[0] = calls
    while not runner.lost:
        try:
            result = runner(given)["logits"]
        except EngineError as error:
            assert runner.lost and isinstance(error, LostError) and "\n" not in str(error)
        else:
            found = device.contents(result) if tensors else result
            np.testing.assert_array_equal(found, reference(inputs)["logits"])
            result = None
    runner.close()


def test_error_that_is_no_loss(make_runner, standin_tensorrt, device):
    """Given a call that fails on a GPU that goes on -> not lost."""
    with make_runner() as runner:
        runner.double.refuses = ("execute",)
        with pytest.raises(EngineError, match="did not run"):
            runner(standin_tensorrt.inputs_of(2))
        with pytest.raises(EngineError, match="in no optimization profile"):
            runner(standin_tensorrt.inputs_of(9))
        runner.double.refuses = ()
        runner(standin_tensorrt.inputs_of(2))
        assert not runner.lost


def test_engine_that_hangs(make_runner, standin_tensorrt, device):
    """Given an engine that never ends -> given up in time, lost, and its memory is not freed."""
    runner = make_runner(timeout=0.05)
    runner.double.refuses = ("end",)
    with pytest.raises(LostError, match=r"did not end within 0.05 s: no end of the network on GPU 0; load the bundle"):
        runner(standin_tensorrt.inputs_of(2))
    assert runner.lost
    device.calls.clear()
    with pytest.warns(PlainconvWarning, match="not freed"):
        runner.close()
    assert not {"free", "free_host", "destroy_stream"} & set(device.names())


def test_what_was_not_captured_is_noted(make_runner, standin_tensorrt):
    with make_runner(refuses=("capture",)) as runner:
        for _ in range(8):
            runner(standin_tensorrt.inputs_of(2))
        (note,) = runner.notes
        assert note.startswith("calls are not captured as CUDA graphs: the engine did not run")


CALL = st.tuples(st.integers(1, 4), st.booleans(), st.booleans(), st.booleans())


@given(calls=st.lists(CALL, max_size=16), captures=st.booleans(), scratch=st.sampled_from([0, 5000]))
@settings(max_examples=examples(8), suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_sequence_of_calls(standin_cuda, standin_tensorrt, double_model, reference, calls, captures, scratch):
    """Given calls of any batch, from host or GPU, into new memory or the caller's, held or dropped -> always right."""
    device = standin_cuda.Device()
    held = []
    with standin_tensorrt.make_runner(device, double_model, captures=captures, scratch=scratch) as runner:
        for seed, (batch, gpu, given_output, hold) in enumerate(calls):
            inputs = standin_tensorrt.inputs_of(batch, seed)
            outputs = {"logits": np.empty((batch, 4, 8, 8), np.float32)} if given_output else None
            arrays = {name: standin_cuda.Tensor(device, a, late=True) for name, a in inputs.items()} if gpu else inputs
            results = runner(arrays, outputs)
            held.append((results, reference(inputs)))
            if not hold:
                held.clear()
    for results, wanted in held:
        for name, array in wanted.items():
            result = results[name]
            found = device.contents(result) if isinstance(result, DeviceArray) else result
            np.testing.assert_array_equal(found, array)
    held.clear()
    results = result = None
    gc.collect()
    assert set(device.buffers) <= device.callers and not (device.pinned or device.graphs or device.streams)
