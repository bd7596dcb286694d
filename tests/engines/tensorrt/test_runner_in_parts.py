"""The runner of a split network: callers' arrays, threads, what goes wrong, and closing. Against doubles."""

import gc
import itertools
import threading
import types
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import split_doubles

from plainconv.engines.cuda.device_array import DeviceArray
from plainconv.engines.tensorrt import waits
from plainconv.engines.tensorrt.waits import LostError
from plainconv.exporter.errors import EngineError, PlainconvWarning


@pytest.fixture(scope="session")
def doubles():
    """The file of that name."""
    return split_doubles


@pytest.fixture(scope="session")
def diamond(doubles, tmp_path_factory):
    """A stem on device 0, a branch there and one on device 1, and what joins them on device 0."""
    return doubles.Split(tmp_path_factory.mktemp("diamond") / "diamond")


@pytest.fixture
def make(standin_tensorrt, device, diamond):
    """A runner of the diamond on the doubles."""
    return lambda devices=(0, 1), **options: diamond.runner(standin_tensorrt, device, devices, **options)


@pytest.fixture
def on_gpu(standin_cuda, device):
    """Inputs as a caller's tensors in GPU memory, of device 0."""
    return lambda inputs, **said: {name: standin_cuda.Tensor(device, a, **said) for name, a in inputs.items()}


@pytest.fixture
def hurry(monkeypatch):
    """From its call on, each look at the clock takes a second: what never ends is given up at once."""

    def hurry():
        seconds = itertools.count()
        clock = types.SimpleNamespace(monotonic=lambda: float(next(seconds)), sleep=lambda _: None)
        monkeypatch.setattr(waits, "time", clock)

    return hurry


def right(runner, diamond, seed, batch=2):
    """Whether a call gives what the whole network does."""
    inputs = diamond.inputs_of(batch, seed)
    return np.array_equal(runner(inputs)["v4"], diamond.reference(inputs)["v4"])


def closed(runner):
    """Close in a thread of its own; whether that ends. The warnings that it gave are raised."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(runner.close).result(timeout=60)
    return True


def test_inputs_in_gpu_memory(make, diamond, device, on_gpu):
    """Given tensors on device 0, still being written -> read in place, results there; none goes by the host."""
    with make() as runner:
        for seed in range(5):
            inputs = diamond.inputs_of(3, seed)
            device.calls.clear()
            result = runner(on_gpu(inputs, late=True))["v4"]
            assert not {"to device", "to host"} & set(device.names())
            assert isinstance(result, DeviceArray) and result.__dlpack_device__() == (2, 0)
            np.testing.assert_array_equal(device.contents(result), diamond.reference(inputs)["v4"])


def test_input_in_gpu_memory_of_another_device(make, diamond, on_gpu):
    inputs = diamond.inputs_of(2)
    with make() as runner:
        tensors = on_gpu(inputs, device=1)
        with pytest.raises(EngineError, match="input a is on GPU 1, the engine on GPU 0; copy it there first"):
            runner(tensors)


def test_memory_of_a_dropped_result_is_used_again(make, diamond, device, on_gpu):
    """Given results that are dropped -> their memory is used again, after a wait for the device, and calls replayed."""
    tensors = on_gpu(diamond.inputs_of(2))
    with make() as runner:
        addresses = {runner(tensors)["v4"].address for _ in range(6)}
        names = device.names()
        assert len(addresses) == 1 and "free" not in names and "launch" in names


def test_one_device_for_all(make, diamond, device):
    """Given one device for both of the plan -> two streams of it for parts, and no copy between them."""
    with make(devices=(0, 0)) as runner:
        for seed in range(4):
            assert right(runner, diamond, seed)
        names = device.names()
        assert "to peer" not in names and not {"can_reach", "reach"} & set(names)


def test_peer_access(make, diamond, device):
    """Given devices that reach one another -> access is enabled once each way, however many lanes and calls there are.

    Given one way only, or a GPU that has too many peers: the other way goes by the host.
    """
    with make() as runner:
        for seed in range(3):
            assert right(runner, diamond, seed)
        assert sorted(call[1:] for call in device.calls if call[0] == "reach") == [(0, 1), (1, 0)]
    device.peers = {(1, 0)}
    with make(captures=False) as runner:
        device.calls.clear()
        assert right(runner, diamond, 1)
        assert [call[1:3] for call in device.calls if call[0] == "to peer"] == [(0, 1)]
        assert device.names().count("to host") == 2
    device.peers, device.fail["reach"] = None, 2
    with make(captures=False) as runner:
        device.calls.clear()
        assert right(runner, diamond, 1) and "to peer" not in device.names()
    assert device.empty


def test_threads(make, diamond, device):
    """Given 4 threads that call at the same time -> each gets its own results, on at most 4 lanes; all come back."""
    with make(scratch=500) as runner, ThreadPoolExecutor(4) as pool:
        results = pool.map(lambda seed: right(runner, diamond, seed, 1 + seed % 4), range(20))
        assert all(results)
        assert 1 <= len(runner._idle) <= 4
    gc.collect()
    assert device.empty


def test_lanes_overlap(make, diamond, device):
    """Given a call that is under way and another -> the second is enqueued while the first still runs."""
    device_calls = device.calls
    with make(captures=False) as runner, ThreadPoolExecutor(2) as pool:
        device.running.clear(), device.may_run.clear()
        first = pool.submit(right, runner, diamond, 1)
        assert device.running.wait(30)
        device.running.clear()
        second = pool.submit(right, runner, diamond, 2)
        while [call[0] for call in device_calls].count("execute") < 3:
            assert not first.done()
        device.may_run.set()
        assert first.result(60) and second.result(60)
        assert len(runner._idle) == 2


def test_thread_that_uses_another_gpu(make, diamond, device):
    """Given a thread that uses GPU 5 -> it does so again after each call, one that fails, and closing."""
    device.current = 5
    runner = make()
    device.current = 5
    assert right(runner, diamond, 1) and device.current == 5
    runner.engines["p1"].refuses = ("execute",)
    with pytest.raises(EngineError):
        runner(diamond.inputs_of(2))
    assert device.current == 5
    runner.close()
    assert device.current == 5 and device.empty


@pytest.mark.parametrize("part", ["p0", "p1", "p2"])
@pytest.mark.parametrize("refuses", ["execute", "address"])
@pytest.mark.parametrize("calls", [0, 1, 2])
def test_part_that_refuses(make, diamond, device, part, refuses, calls):
    """Given a part that does not start, at a first call or later -> one line that names it, after what was under way.

    Then it may run again.
    """
    with make() as runner:
        for seed in range(calls):
            assert right(runner, diamond, seed)
        runner.engines[part].refuses = (refuses,)
        batch = 2 if refuses == "execute" else 3  # a context hears only of new addresses
        for _ in range(2 if refuses == "execute" else 0):
            with pytest.raises(EngineError, match=rf"part {part} on GPU \d: the engine did not run") as raised:
                runner(diamond.inputs_of(batch))
            assert "\n" not in str(raised.value) and not any(stream.queue for stream in device.streams.values())
        runner.engines[part].refuses = ()
        for seed in range(5):
            assert right(runner, diamond, seed, batch)
    gc.collect()
    assert device.empty


def test_part_that_refuses_its_buffers(make, diamond, device):
    """Given a part that takes no address -> one line that names it; the next call runs."""
    with make(refuses={"p1": ("address",)}) as runner:
        with pytest.raises(EngineError, match="part p1 on GPU 1: the engine takes no buffer for v0"):
            runner(diamond.inputs_of(2))
        runner.engines["p1"].refuses = ()
        assert right(runner, diamond, 1)
    assert device.empty


@pytest.mark.parametrize(
    ("refuses", "message"),
    [
        ("context", "part p1 on GPU 1: the engine gives no execution context"),
        ("data dependent", r"part p1 on GPU 1: the shape of v2 depends on the data"),
        ("shape", r"part p1 on GPU 1: the engine does not take v0 of shape \[4, 4\]; build it for that shape"),
    ],
)
def test_part_that_does_not_suit(make, device, refuses, message):
    """Given a part that refuses from the start -> one line that names it, and nothing stays allocated."""
    with pytest.raises(EngineError, match=message):
        make(refuses={"p1": (refuses,)})
    gc.collect()
    assert device.empty


def test_inner_shape_that_a_part_was_not_built_for(diamond, standin_tensorrt, device):
    """Given a part whose profile does not cover what the one before makes -> one line, when the runner is made."""
    parts = diamond.parts(standin_tensorrt, device, (0, 1))
    profiles = (diamond.profile(1, 2, ["v0"]),)
    device.current = 1
    narrow = standin_tensorrt.Engine(device, diamond.files[1], profiles)
    device.current = 0
    parts[1] = replace(parts[1], engine=narrow, profiles=profiles)
    parts[1] = replace(parts[1], contexts=replace(parts[1].contexts, create=narrow.create_execution_context))
    with pytest.raises(EngineError, match=r"part p1 on GPU 1: the engine does not take v0 of shape \[4, 4\]"):
        diamond.runner(standin_tensorrt, device, (0, 1), parts=parts)
    gc.collect()
    assert device.empty


def test_engines_that_are_not_the_schedule_s(diamond, standin_tensorrt, device):
    """Given engines of other parts, devices or profiles -> one line, and nothing is allocated."""
    parts = diamond.parts(standin_tensorrt, device, (0, 1))

    def made(parts, devices=(0, 1), batches=((1, 4),)):
        return diamond.runner(standin_tensorrt, device, devices, batches=batches, parts=parts)

    for arguments, message in (
        ((parts[:2],), "they are p0, p1, wanted p0, p1, p2"),
        ((parts[::-1],), "they are p2, p1, p0, wanted p0, p1, p2"),
        ((parts, (0,)), "the plan uses 2 devices, 1 are given"),
        ((parts, (0, 2)), "p1 is on GPU 1, wanted GPU 2"),
        ((parts, (0, 1), ((1, 1), (1, 4))), "p0 has 1 optimization profiles, the network 2"),
        (
            ([parts[0], replace(parts[1], engine=parts[2].engine), parts[2]],),
            r"the engine of part p1 has tensors \['b', 'v1', 'v2', 'v4'\], its bundle says \['v0', 'v2'\]",
        ),
    ):
        with pytest.raises(EngineError, match=message) as raised:
            made(*arguments)
        assert "\n" not in str(raised.value)
    assert device.empty


def test_request_that_does_not_end(make, diamond, device, hurry):
    """Given a part that never ends -> an error in time that names it and what waits for it; then calls raise at once.

    Closing frees nothing that the GPU may still use, and says so.
    """
    runner = make()
    assert right(runner, diamond, 1)
    runner.engines["p1"].refuses = ("end",)
    hurry()
    with pytest.raises(
        EngineError, match=r"did not end within 60 s: no end of p1 on GPU 1, p2 on GPU 0; load"
    ) as raised:
        runner(diamond.inputs_of(3))
    assert "\n" not in str(raised.value)
    device.calls.clear()
    for _ in range(2):
        with pytest.raises(EngineError, match=r"the runner is lost: the request did not end within 60 s: no end of p1"):
            runner(diamond.inputs_of(3))
    assert device.calls == []
    with pytest.warns(PlainconvWarning, match="whose memory is not freed; end the process to have it back"):
        assert closed(runner)
    assert not {"free", "free_host", "destroy_stream", "synchronize"} & set(device.names())
    engines = runner.engines
    del runner, raised
    gc.collect()
    assert all(engine.contexts for engine in engines.values())  # which would free memory
    assert device.astray == []


def test_waiting_leaves_time_to_others(make, diamond, device, monkeypatch):
    """Given a request that takes long -> asked for without a pause at first, then after pauses that grow to 50 µs."""
    runner, now, pauses = make(), [0.0], []

    def monotonic():
        now[0] += 10e-6
        return now[0]

    def sleep(seconds):
        pauses.append(seconds)
        now[0] += seconds
        device.hold = len(pauses) < 40

    monkeypatch.setattr(waits, "time", types.SimpleNamespace(monotonic=monotonic, sleep=sleep))
    device.hold = True
    assert right(runner, diamond, 1)
    assert pauses[:5] == pytest.approx([5e-6, 10e-6, 20e-6, 40e-6, 50e-6]) and set(pauses[5:]) == {50e-6}
    assert now[0] - sum(pauses) - 10e-6 * len(pauses) >= 100e-6
    runner.close()
    assert device.empty


def test_graph_that_does_not_end(make, diamond, device, hurry):
    """Given a replayed call that never ends -> an error in time, which says what is known."""
    runner = make()
    for seed in range(4):
        assert right(runner, diamond, seed)
    device.hold = True
    hurry()
    with pytest.raises(LostError, match="no end of one of p0, p1, p2, a CUDA graph, which does not say of which"):
        runner(diamond.inputs_of(2))
    with pytest.warns(PlainconvWarning, match="not freed"):
        assert closed(runner)


def test_request_that_ends_too_late(make, diamond, device, on_gpu, hurry):
    """Given a request that ends after it was given up -> calls raise all the same; closing frees everything."""
    runner = make()
    tensors = on_gpu(diamond.inputs_of(2))
    device.hold = True
    hurry()
    with pytest.raises(LostError, match="no end of p0 on GPU 0, p1 on GPU 1, p2 on GPU 0"):
        runner(tensors)
    device.hold = False
    with pytest.raises(EngineError, match="the runner is lost"):
        runner(tensors)
    for stream in [*device.streams]:
        while not device.cuda.idle(stream):
            pass
    assert closed(runner)
    gc.collect()
    assert set(device.buffers) <= device.callers and not (device.streams or device.pinned or device.events)


def test_producer_that_does_not_end(make, diamond, device, on_gpu, hurry):
    """Given an input whose producer never ends -> an error in time; the caller's tensors are kept for the GPU."""
    runner = make()
    tensors = on_gpu(diamond.inputs_of(2), late=True)
    kept = [weakref.ref(tensor.view) for tensor in tensors.values()]
    device.hold = True
    hurry()
    with pytest.raises(LostError, match=r"did not end within 60 s"):
        runner(tensors)
    with pytest.warns(PlainconvWarning, match="not freed"):
        assert closed(runner)
    del tensors, runner
    gc.collect()
    assert all(view() is not None for view in kept)


def test_preparation_that_does_not_end(make, diamond, device, hurry):
    """Given a GPU that hangs when another lane is made -> an error in time, and memory that nobody frees."""
    runner = make()
    lane = runner._idle.pop()  # as if it were busy
    device.hold = True
    hurry()
    device.calls.clear()
    with pytest.raises(
        LostError, match=r"did not end within 60 s: what it waits for has not ended, and no part has begun"
    ):
        runner(diamond.inputs_of(2))
    assert not {"free", "free_host", "destroy_stream"} & set(device.names())
    assert all(len(engine.contexts) == 2 for engine in runner.engines.values())
    runner._idle.append(lane)
    with pytest.warns(PlainconvWarning, match="not freed"):
        assert closed(runner)
    assert not {"free", "free_host", "destroy_stream"} & set(device.names())


def test_consumer_that_does_not_end(make, diamond, device, on_gpu, hurry):
    """Given a dropped result that a stream of its consumer reads for ever -> the next call ends in time, too."""
    runner = make()
    tensors = on_gpu(diamond.inputs_of(2))
    result, consumer = runner(tensors)["v4"], device.cuda.create_stream()
    result.consumers.add(consumer)  # as DLPack tells
    device.enqueue(consumer, reads=((result.address, result.nbytes),), stuck=True)
    del result
    hurry()
    with pytest.raises(LostError, match=r"did not end within 60 s: no end of p0 on GPU 0"):
        runner(tensors)
    with pytest.warns(PlainconvWarning, match="not freed"):
        assert closed(runner)
    assert not {"free", "free_host", "destroy_stream"} & set(device.names())


@pytest.mark.parametrize("calls", [0, 4])
def test_device_that_is_lost(make, diamond, device, calls):
    """Given a part that takes its GPU down -> an error that names both, later calls raise at once, closing ends.

    The other GPU waits for what never comes, so that its memory is not freed.
    """
    runner = make()
    for seed in range(calls):
        assert right(runner, diamond, seed)
    runner.engines["p1"].refuses = ("crash",)
    with pytest.raises(
        LostError, match=r"GPU 1 failed while parts p1 ran there \(CUDA failed \(cudaStreamQuery: unspec"
    ) as raised:
        runner(diamond.inputs_of(2))
    assert "\n" not in str(raised.value) and device.current == 0
    device.calls.clear()
    with pytest.raises(EngineError, match="the runner is lost: GPU 1 failed while parts p1 ran there"):
        runner(diamond.inputs_of(2))
    assert device.calls == []
    with pytest.warns(PlainconvWarning, match="not freed"):
        assert closed(runner)


def test_only_device_that_is_lost(make, diamond, device):
    """Given a part that takes the only GPU down -> closing ends, and says nothing: each call fails, none would wait."""
    runner = make(devices=(0, 0), refuses={"p1": ("crash",)})
    with pytest.raises(LostError, match="GPU 0 failed while parts p0, p1, p2 ran there"):
        runner(diamond.inputs_of(2))
    assert closed(runner)
    with pytest.raises(EngineError, match="the runner is lost"):
        runner(diamond.inputs_of(2))


def test_error_that_comes_late(make, diamond, device):
    """Given a GPU that is lost between calls -> the next one says so, at whichever call of CUDA it shows."""
    runner = make(captures=False)
    assert right(runner, diamond, 1)
    device.dead.add(1)
    with pytest.raises(LostError, match=r"unspecified launch failure\).*; after that, GPU 1 failed while parts p1 ran"):
        runner(diamond.inputs_of(2))
    assert closed(runner)


@pytest.mark.parametrize("batch", [2, 3])
def test_shapes_that_come_when_a_gpu_is_lost(make, diamond, device, batch):
    """Given a GPU that is lost between calls, of shapes that came before or did not -> the same error."""
    runner = make()
    assert right(runner, diamond, 1)
    device.dead.add(1)
    with pytest.raises(LostError, match="GPU 1 failed while parts p1 ran there"):
        runner(diamond.inputs_of(batch))
    assert closed(runner) and device.current == 0


@pytest.mark.parametrize("turns", [20, pytest.param(1250, marks=pytest.mark.slow)])
@pytest.mark.parametrize("devices", [(0, 1), (0, 0), (2, 1)])
def test_gpu_that_dies_among_many_calls(diamond, standin_cuda, standin_tensorrt, devices, turns):
    """Given 8 threads with calls from host and GPU, and a GPU that dies amid them -> each result until then is right.

    Each call after that raises; the runner is lost, and closes. Of 160 calls, and of 10,000.
    """
    device = standin_cuda.Device(seed=sum(devices))
    runner = diamond.runner(standin_tensorrt, device, devices)
    wanted = {seed: (inputs := diamond.inputs_of(1 + seed % 4, seed), diamond.reference(inputs)) for seed in range(8)}
    counts = []

    def work(seed):
        inputs, reference = wanted[seed]
        right = 0
        for turn in range(turns):
            if seed == 0 and turn == turns // 2:
                device.dies[devices[1]] = 40
            try:
                found = runner(inputs)["v4"]
            except EngineError as error:
                assert runner.lost and "\n" not in str(error)
                break
            np.testing.assert_array_equal(found, reference["v4"])
            right += 1
        counts.append(right)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert len(counts) == 8 and min(counts) < turns and sum(counts) > turns // 2 and runner.lost
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PlainconvWarning)  # another GPU may wait for what never comes
        assert closed(runner)


def test_shape_that_a_part_refuses(make, diamond, device):
    """Given a part that refuses the shapes of a call -> one line, this thread's device as it was, and the next runs."""
    with make() as runner:
        runner.engines["p1"].refuses = ("shape",)
        with pytest.raises(EngineError, match=r"part p1 on GPU 1: the engine does not take v0 of shape \[2, 4\]"):
            runner(diamond.inputs_of(2))
        assert device.current == 0
        runner.engines["p1"].refuses = ()
        assert right(runner, diamond, 1)
    assert device.empty


def test_wait_that_is_interrupted(make, diamond, device, monkeypatch):
    """Given Ctrl-C while a request is under way -> it is raised when that has ended, and the next request is right."""
    with make() as runner:
        idle, interrupts = device.cuda.idle, [True]

        def interrupted(stream):
            if interrupts:
                interrupts.pop()
                raise KeyboardInterrupt
            return idle(stream)

        assert right(runner, diamond, 1)
        monkeypatch.setattr(device.cuda, "idle", interrupted)
        with pytest.raises(KeyboardInterrupt):
            runner(diamond.inputs_of(2))
        assert not any(stream.queue for stream in device.streams.values())
        for seed in range(4):
            assert right(runner, diamond, seed)
    assert device.empty


def test_wait_that_is_interrupted_twice(make, diamond, device, monkeypatch):
    """Given Ctrl-C again before that has ended -> it is raised at once; the next request waits before it begins."""
    with make(captures=False) as runner:
        idle, interrupts = device.cuda.idle, [True, True]

        def interrupted(stream):
            if interrupts:
                interrupts.pop()
                raise KeyboardInterrupt
            return idle(stream)

        monkeypatch.setattr(device.cuda, "idle", interrupted)
        with pytest.raises(KeyboardInterrupt):
            runner(diamond.inputs_of(2))
        assert any(stream.queue for stream in device.streams.values())
        mark, left = device.cuda.mark, []

        def marked(event, stream):
            left.append(sum(len(state.queue) for state in device.streams.values()))
            mark(event, stream)

        monkeypatch.setattr(device.cuda, "mark", marked)
        assert right(runner, diamond, 5) and left[0] == 0
        for seed in range(4):
            assert right(runner, diamond, seed)
    assert device.empty


def test_close(make, diamond, device):
    """Given a runner that is closed, twice, by other threads too -> all is back; a call after it is one line."""
    runner = make()
    for seed in range(4):
        assert right(runner, diamond, seed)
    assert device.graphs
    threads = [threading.Thread(target=runner.close) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    runner.close()
    gc.collect()
    assert device.empty and not any(engine.contexts for engine in runner.engines.values())
    with pytest.raises(EngineError, match="the runner is closed; load the bundle again"):
        runner(diamond.inputs_of(2))
    assert runner.stages(diamond.inputs_of(2)) == {}


def test_all_goes_on_its_own_device(make, diamond, device, monkeypatch):
    """Given a runner that is closed -> each stream, event and buffer goes while its own device is in use."""
    runner = make(scratch=100)
    for seed in range(4):
        assert right(runner, diamond, seed)
    went, note = [], device.note
    of = {"destroy_stream": device.streams, "destroy_event": device.events}

    def noted(name, *arguments):
        if name in of:
            went.append(of[name][arguments[0]].device == device.current)
        elif name == "free":
            went.append(device.where[arguments[0]] == device.current)
        note(name, *arguments)

    monkeypatch.setattr(device, "note", noted)
    count = len(device.streams) + len(device.events) + len(device.buffers)
    runner.close()
    assert len(went) == count and all(went) and device.current == 0
    gc.collect()
    assert device.empty


def test_what_needs_the_other_goes_first(diamond, standin_tensorrt, device):
    """Given a runner that is closed -> each part's contexts go before its engine, that before what outlives it."""

    class Runtime:
        pass

    gone = []
    parts = [replace(p, outlives=Runtime()) for p in diamond.parts(standin_tensorrt, device, (0, 1))]
    for part in parts:
        weakref.finalize(part.engine, gone.append, f"{part.name} engine")
        weakref.finalize(part.outlives, gone.append, f"{part.name} runtime")
    runner = diamond.runner(standin_tensorrt, device, (0, 1), parts=parts)
    for seed in range(4):
        assert right(runner, diamond, seed)
    for part in parts:
        for context in part.engine.contexts:
            weakref.finalize(context, gone.append, f"{part.name} context")
    del part, parts, runner.engines, context
    gc.disable()
    try:
        runner.close()
        assert sorted(gone[:6]) == [f"p{i} context" for i in (0, 0, 1, 1, 2, 2)]
        assert gone[6:] == [f"p{i} {what}" for i in range(3) for what in ("engine", "runtime")]
    finally:
        gc.enable()
    assert device.empty


def test_close_waits_for_the_call_that_is_under_way(make, diamond, device):
    """Given a call in another thread -> closing returns after it, and the call has its result."""
    runner = make()
    device.running.clear(), device.may_run.clear()
    with ThreadPoolExecutor(2) as pool:
        call = pool.submit(right, runner, diamond, 3)
        assert device.running.wait(30)
        closing = pool.submit(runner.close)
        while runner._over is None:
            pass
        assert not closing.done()
        device.may_run.set()
        assert call.result(60)
        closing.result(60)
    gc.collect()
    assert device.empty
