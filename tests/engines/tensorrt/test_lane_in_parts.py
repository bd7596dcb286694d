"""What a request on a split network enqueues, and in which order it may run: against doubles that run it in any."""

import gc
import itertools
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import split_doubles
from examples import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plainconv.engines.cuda.device_array import DeviceArray
from plainconv.engines.schedule import Schedule, Step
from plainconv.engines.tensorrt.program import Layout, Slot, Writer
from plainconv.exporter.errors import EngineError


@pytest.fixture(scope="session")
def doubles():
    """The file of that name."""
    return split_doubles


@pytest.fixture(scope="session")
def diamond(doubles, tmp_path_factory):
    """A stem on device 0, a branch there and one on device 1, and what joins them on device 0."""
    return doubles.Split(tmp_path_factory.mktemp("diamond") / "diamond")


@pytest.fixture(scope="session")
def halves(doubles, tmp_path_factory):
    """The same in four parts on three devices, whose stem two of them compute; v1 and v4 are its outputs."""
    cut = [([0, 1], 0, 0), ([0, 2], 1, 1), ([3], 2, 0), ([4], 0, 1)]
    return doubles.Split(tmp_path_factory.mktemp("halves") / "halves", cut=cut, outputs=("v4", "v1"))


@pytest.fixture
def make(standin_tensorrt, device, diamond):
    """A runner of the diamond on the doubles."""
    return lambda devices=(0, 1), **options: diamond.runner(standin_tensorrt, device, devices, **options)


def layout_of(split, devices, direct=None):
    names = [tuple(spec.name for spec in specs) for specs in (split.inputs, split.outputs)]
    return Layout(split.schedule, devices, *names, direct)


def program_of(split, devices, on_gpu=False, direct=None):
    layout = layout_of(split, devices, direct)
    return Writer(layout, (on_gpu,) * (len(layout.inputs) + len(layout.outputs))).program()


def copies_of(program):
    """(value, from, to) of each copy, in order."""
    pairs = [(program.slots[a], program.slots[b]) for a, b in (work.copy for work in program.works if work.copy)]
    return [(source.value, source.device, target.device) for source, target in pairs]


def assert_equal(results, wanted, device=None):
    assert results.keys() == wanted.keys()
    for name, array in wanted.items():
        found = device.contents(results[name]) if isinstance(results[name], DeviceArray) else results[name]
        np.testing.assert_array_equal(found, array)


def test_copies(diamond):
    """Given branches on two devices -> each input to who reads it, one value there, one back, the output to the host.

    The plan: p0 makes v0 and v1 on GPU 3, p1 reads v0 and makes v2 on GPU 5, p2 reads all, with b.
    """
    program = program_of(diamond, (3, 5))
    assert copies_of(program) == [
        ((None, "a"), None, 3),
        ((None, "b"), None, 3),
        ((0, "v0"), 3, 5),
        ((1, "v2"), 5, 3),
        ((2, "v4"), 3, None),
    ]
    ways = [work.track for work in program.works if work.copy]
    assert [track.device for track in ways] == [3, 3, 3, 5, 3]  # a copy between GPUs is on the one it comes from
    assert len({work.track for work in program.works}) == 2 + 4


def test_copies_where_devices_cannot_reach_one_another(diamond):
    """Given no access of one device to the other -> two copies each, by way of the host, on streams of their own."""
    program = program_of(diamond, (3, 5), direct=frozenset({(5, 3)}))
    assert copies_of(program)[2:5] == [((0, "v0"), 3, None), ((0, "v0"), None, 5), ((1, "v2"), 5, 3)]


@pytest.mark.parametrize("devices", [(0, 0, 0), (0, 1, 0), (0, 1, 1), (2, 1, 0)])
def test_one_copy_of_a_value_for_each_device(halves, devices):
    """Given plan devices that are several or one -> no value is copied to where it is, or twice to one device."""
    for on_gpu in (False, True):
        copies = copies_of(program_of(halves, devices, on_gpu))
        targets = [(value, target) for value, _, target in copies]
        assert len(set(targets)) == len(targets) and all(source != target for _, source, target in copies)
        between = [copy for copy in copies if None not in copy[1:]]
        assert bool(between) == (len(set(devices)) > 1)


def test_inputs_go_straight_to_each_device(halves):
    """Given an input on the host that two devices read -> one copy to each, none from device to device."""
    copies = [copy for copy in copies_of(program_of(halves, (0, 1, 2))) if copy[0] == (None, "a")]
    assert copies == [((None, "a"), None, 0), ((None, "a"), None, 1)]
    copies = [copy for copy in copies_of(program_of(halves, (0, 1, 2), on_gpu=True)) if copy[0] == (None, "a")]
    assert copies == [((None, "a"), 0, 1)]


def test_output_that_is_not_where_the_caller_wants_it(doubles, tmp_path):
    """Given an output made on device 1 and wanted in GPU memory -> it is copied to device 0, and read there from there.

    In the host's memory it comes from the device that makes it.
    """
    split = doubles.Split(tmp_path / "s", cut=[([0, 1, 2], 1, 0), ([3, 4], 0, 0)], outputs=("v4", "v1"))
    program = program_of(split, (0, 1), on_gpu=True)
    assert copies_of(program).count(((0, "v1"), 1, 0)) == 1
    slot = Slot((0, "v1"), 0)
    assert program.slots[program.ends[-1]] == slot and program.slots[program.bound[1]["v1"]] == slot
    assert ((0, "v1"), 1, None) in copies_of(program_of(split, (0, 1)))


def test_part_that_reads_nothing(diamond):
    """Given a part without inputs, on a stream of its own -> it waits for the beginning, which a capture needs."""
    first, second = diamond.schedule.steps[0].part, diamond.schedule.steps[1].part
    alone = replace(second, inputs=(), sources={})
    steps = (Step(first, (0, 0), {"a": None}, (), {}), Step(alone, (0, 1), {}, (), {}))
    layout = Layout(Schedule(steps, {"v2": 1}), (0,), ("a",), ("v2",))
    works = Writer(layout, (False, False)).program().works
    (work,) = (work for work in works if work.step == 1)
    assert work.after == (0,)


def test_a_track_waits_once(diamond, halves):
    """Given any program -> no work waits for its own track, twice for another, or for what it has waited for before."""
    for split, devices in ((diamond, (0, 1)), (halves, (0, 1, 2)), (halves, (0, 0, 0))):
        works, waited = program_of(split, devices).works, {}
        for work in works:
            others = [works[at].track for at in work.after]
            assert work.track not in others and len(set(others)) == len(others)
            for at in work.after:
                assert waited.get((work.track, works[at].track), -1) < at
                waited[work.track, works[at].track] = at
        assert works[0].track == works[-1].track and not works[0].after


def test_one_wait_at_the_end(make, diamond, device):
    """Given a call -> its parts in order, each while its device is in use, and no wait of the host for a stream."""
    with make(captures=False) as runner:
        device.calls.clear()
        inputs = diamond.inputs_of(2)
        assert_equal(runner(inputs), diamond.reference(inputs))
        names = [call[:1] if call[0] != "use_device" else call for call in device.calls]
        order = [call for call in names if call[0] in ("use_device", "execute")]
        used = order.index(("execute",))
        assert order[used:] == [
            ("execute",),
            ("use_device", 1),
            ("execute",),
            ("use_device", 0),
            ("execute",),
        ]
        names = device.names()
        assert names.count("to peer") == 2


def test_every_wait_is_needed_and_would_be_missed(diamond, standin_cuda, standin_tensorrt, monkeypatch):
    """Given a request without one of its waits -> two pieces of work meet on the same memory, which the double sees."""
    works = program_of(diamond, (0, 1)).works
    waits = [(at, other) for at, work in enumerate(works[:-1]) for other in work.after]
    needed = [index for index, (_, other) in enumerate(waits) if other != 0]
    assert len(needed) >= 6
    for missing in needed:
        device, seen = standin_cuda.Device(), []

        def wait_for(event, stream, device=device, seen=seen, missing=missing):
            seen.append(event)
            if len(seen) - 1 != missing:
                type(device.cuda).wait_for(device.cuda, event, stream)

        runner = diamond.runner(standin_tensorrt, device, (0, 1), captures=False)
        monkeypatch.setattr(device.cuda, "wait_for", wait_for)
        with pytest.raises(AssertionError, match="neither waits for the other"):
            runner(diamond.inputs_of(1))


def test_the_last_wait_is_needed(diamond, standin_cuda, standin_tensorrt, monkeypatch):
    """Given a request that ends before its copies have -> the host reads what is not there yet, in some order."""
    wrong = 0
    for seed in range(20):
        device = standin_cuda.Device(seed=seed)
        runner = diamond.runner(standin_tensorrt, device, (0, 1), captures=False)
        home = runner._idle[0].stream
        monkeypatch.setattr(
            device.cuda,
            "wait_for",
            lambda event, stream, device=device, home=home: (
                None
                if stream == home and device.calls[-1][0] == "wait_for"
                else type(device.cuda).wait_for(device.cuda, event, stream)
            ),
        )
        inputs = diamond.inputs_of(1, seed)
        try:
            wrong += not np.array_equal(runner(inputs)["v4"], diamond.reference(inputs)["v4"])
        except AssertionError:
            wrong += 1
    assert wrong


def test_a_call_is_run_then_captured_then_replayed(make, diamond, device):
    """Given one call again and again -> at last one launch, of a graph that has all streams and devices in it."""
    with make(scratch=64) as runner:
        for seed in range(6):
            inputs = diamond.inputs_of(2, seed)
            device.calls.clear()
            assert_equal(runner(inputs), diamond.reference(inputs))
        assert device.names() == ["launch"] and runner.why_not_captured is None
        (graph,) = device.graphs.values()
        assert {operation.device for operation in graph} == {0, 1}
        assert not any(event.timed for event in device.events.values())


def test_peer_copies_of_a_graph(make, diamond, device, standin_cuda):
    """Given two GPUs that reach one another -> one graph with the copies between them in it.

    cudaMemcpyPeerAsync could not be in it: the stand-in answers it in a capture as CUDA does.
    """
    with make() as runner:
        for seed in range(4):
            inputs = diamond.inputs_of(2, seed)
            assert_equal(runner(inputs), diamond.reference(inputs))
        assert "launch" in device.names() and runner.notes == ()
        (graph,) = device.graphs.values()
        assert sum(len(operation.writes) == len(operation.reads) == 1 for operation in graph) >= 2
    cuda, stream = device.cuda, device.cuda.create_stream()
    target = cuda.allocate(64)
    cuda.begin_capture(stream)
    refused = standin_cuda.ERROR.cudaErrorStreamCaptureUnsupported
    assert device.cudaMemcpyPeerAsync(target, 0, target, 0, 64, stream) == (refused,)
    with pytest.raises(EngineError, match="the capture was broken by a peer copy"):
        cuda.end_capture(stream)


def test_gpus_that_do_not_reach_one_another(diamond, standin_cuda, standin_tensorrt):
    """Given GPUs without access to one another -> values go by the host, which a note says; a graph all the same."""
    device = standin_cuda.Device(peers=set())
    with diamond.runner(standin_tensorrt, device, (0, 1)) as runner:
        for seed in range(4):
            inputs = diamond.inputs_of(2, seed)
            assert_equal(runner(inputs), diamond.reference(inputs))
        names = device.names()
        assert "to peer" not in names and "launch" in names
        assert runner.notes == (
            "GPU 0 has no access to GPU 1: values go by way of the host",
            "GPU 1 has no access to GPU 0: values go by way of the host",
        )


def test_graphs_are_bounded(doubles, standin_tensorrt, device, diamond):
    """Given 20 batches in turn, each thrice -> right results, 16 graphs, contexts that go on their own device."""
    with diamond.runner(standin_tensorrt, device, (0, 1), batches=((1, 20),)) as runner:
        for batch in range(1, 21):
            inputs = diamond.inputs_of(batch, batch)
            for _ in range(3):
                assert_equal(runner(inputs), diamond.reference(inputs))
        gc.collect()
        assert len(device.graphs) == 16
        assert all(len(engine.contexts) == 17 for engine in runner.engines.values())
    gc.collect()
    assert device.empty and not any(engine.contexts for engine in runner.engines.values())


@pytest.mark.parametrize("step", ["begin_capture", "end_capture"])
def test_capture_that_fails_for_good(make, diamond, device, step):
    """Given streams that cannot be captured -> the right results all the same, three attempts, and the reason."""
    with make() as runner:
        device.fail[step] = 100
        for seed in range(8):
            inputs = diamond.inputs_of(2, seed)
            assert_equal(runner(inputs), diamond.reference(inputs))
        assert device.names().count("begin_capture") == 3
        assert f"{step} failed as it was told to" in runner.why_not_captured
    assert device.empty


@pytest.mark.parametrize("part", ["p0", "p1", "p2"])
def test_part_that_cannot_be_captured(make, diamond, device, part):
    """Given a part that does not run in a capture -> no stream stays in the capture, and calls run as they are."""
    with make(refuses={part: ("capture",)}) as runner:
        for seed in range(8):
            inputs = diamond.inputs_of(2, seed)
            assert_equal(runner(inputs), diamond.reference(inputs))
        assert f"part {part} on GPU" in runner.why_not_captured and "did not run" in runner.why_not_captured
        assert device.graphs == {} and "launch" not in device.names()
    assert device.empty


def test_capture_whose_streams_do_not_join(make, diamond, device, monkeypatch):
    """Given a capture in which a stream's end is not waited for -> it fails, and no stream stays in it."""
    with make() as runner:
        home, wait_for = runner._idle[0].stream, device.cuda.wait_for

        def forgetful(event, stream):
            if stream != home or device.streams[home].captured is None:
                wait_for(event, stream)

        monkeypatch.setattr(device.cuda, "wait_for", forgetful)
        for seed in range(6):
            inputs = diamond.inputs_of(2, seed)
            assert_equal(runner(inputs), diamond.reference(inputs))
        assert "did not join" in runner.why_not_captured
        assert all(stream.captured is None for stream in device.streams.values())
    assert device.empty


def test_runtime_with_graphs_of_its_own(make, diamond, device):
    """Given parts that are not to be captured -> contexts hear only what is new, and nothing is captured."""
    with make(captures=False) as runner:
        for seed in range(4):
            device.calls.clear()
            inputs = diamond.inputs_of(2, seed)
            assert_equal(runner(inputs), diamond.reference(inputs))
        assert not {"begin_capture", "shape", "address", "create_event", "create_stream"} & set(device.names())
        assert "CUDA graphs of its own" in runner.why_not_captured
        assert all(engine.created == 1 for engine in runner.engines.values())


def test_profiles(make, diamond, device):
    """Given two profiles -> every part runs in the one that covers the batch."""
    with make(batches=((1, 1), (2, 4))) as runner:
        assert [call[1] for call in device.calls if call[0] == "profile"] == [0, 0, 0, 1, 1, 1]
        for batch in (1, 3, 1, 4, 3, 1, 3, 1):
            inputs = diamond.inputs_of(batch, batch)
            assert_equal(runner(inputs), diamond.reference(inputs))
        with pytest.raises(EngineError, match="in no optimization profile of the engine"):
            runner(diamond.inputs_of(5))
    assert device.empty


def test_memory(make, device):
    """Given a profile up to batch 4 -> a buffer for each value on each device that has it, staging at the ends alone.

    On device 0 are a, b, v0, v1 and the copy of v2, and v4; on device 1 the copy of v0, and v2: of 4·4 floats each.
    """
    with make() as runner:
        allocated = [address for address in device.buffers if device.buffers[address][0] == 64]
        assert sorted(device.where[address] for address in allocated) == [0] * 6 + [1] * 2
        assert len(device.pinned) == 3 and runner
    assert device.empty


@pytest.mark.parametrize(
    "call",
    ["create_stream", "create context", "profile", "shape", "allocate", "allocate_host", "use_device", "create_event"],
)
@pytest.mark.parametrize("after", range(8))
def test_lane_that_cannot_be_made_keeps_nothing(make, diamond, device, monkeypatch, call, after):
    """Given a call of CUDA or TensorRT that fails at some time -> nothing stays behind.

    Where it fails in a request, the next one runs.
    """
    note, seen = device.note, []

    def failing(name, *arguments):
        note(name, *arguments)
        seen.append(name)
        if name == call and seen.count(call) == after + 1:
            raise EngineError("out of memory")

    monkeypatch.setattr(device, "note", failing)
    device.current = 7
    inputs = diamond.inputs_of(2)
    failed = False
    try:
        runner = make(scratch=512)
    except EngineError as error:
        failed = "out of memory" in str(error)
        assert failed
    else:
        device.current = 7
        try:
            runner(inputs)
        except EngineError as error:
            failed = "out of memory" in str(error)
            assert failed
        assert_equal(runner(inputs), diamond.reference(inputs))
        failed = failed or "out of memory" in (runner.why_not_captured or "")
        assert failed or seen.count(call) <= after
        monkeypatch.undo()
        runner.close()
    gc.collect()
    if call in ("profile", "shape"):
        device.astray.clear()  # the frames of the error that the double raised held its context
    assert device.empty


@pytest.mark.parametrize("devices", [(0, 0), (0, 1), (1, 0)])
@pytest.mark.parametrize("captures", [True, False])
def test_output_that_is_an_input(doubles, standin_cuda, standin_tensorrt, tmp_path, devices, captures):
    """Given an input that is an output too, from host or GPU, into either -> it is there, in an array of its own."""
    split = doubles.Split(tmp_path / "s", outputs=("v4", "a"))
    device = standin_cuda.Device()
    home = devices[0]

    def tensor(array):
        device.current = home
        made = standin_cuda.Tensor(device, array, late=True, device=home)
        device.current = 0
        return made

    with split.runner(standin_tensorrt, device, devices, captures=captures) as runner:
        for read, write in itertools.product((np.asarray, tensor), (np.copy, tensor, None)):
            for seed in range(3):
                inputs = split.inputs_of(2, seed)
                wanted = split.reference(inputs)
                outputs = {"a": write(np.zeros_like(inputs["a"]))} if write else None
                results = runner({name: read(array) for name, array in inputs.items()}, outputs)
                found = {n: r if isinstance(r, np.ndarray) else device.contents(r) for n, r in results.items()}
                assert_equal(found, wanted)
                assert results["a"] is not inputs["a"]
    results = None
    gc.collect()
    assert set(device.buffers) <= device.callers and not (device.streams or device.pinned or device.astray)


OPS = {1: ("Neg", "Abs", "Relu", "Floor"), 2: ("Add", "Sub", "Mul", "Max")}


@st.composite
def networks(draw):
    """Nodes, a cut of them into parts on up to three devices of two streams, and outputs."""
    nodes = []
    for at in range(draw(st.integers(1, 9))):
        names = ["a", "b", *(f"v{i}" for i in range(at))]
        reads = draw(st.lists(st.sampled_from(names), min_size=1, max_size=2))
        nodes.append((draw(st.sampled_from(OPS[len(reads)])), reads))
    ends = sorted({0, len(nodes), *draw(st.lists(st.integers(0, len(nodes)), max_size=5))})
    place = st.tuples(st.integers(0, 2), st.integers(0, 1))
    cut = [([*range(low, high)], *draw(place)) for low, high in itertools.pairwise(ends)]
    read = {name for _, reads in nodes for name in reads}
    outputs = [f"v{at}" for at in range(len(nodes)) if f"v{at}" not in read or draw(st.booleans())]
    passed = [name for name in ("a", "b") if name in read and draw(st.integers(0, 3)) == 0]
    return nodes, cut, draw(st.permutations(outputs + passed))


CALL = st.tuples(st.integers(1, 4), st.lists(st.booleans(), min_size=2, max_size=2), st.integers(0, 2))


@given(
    network=networks(),
    devices=st.tuples(*[st.integers(0, 2)] * 3),
    calls=st.lists(CALL, min_size=1, max_size=8),
    captures=st.booleans(),
    reachable=st.sets(st.tuples(st.integers(0, 2), st.integers(0, 2))),
    scratch=st.sampled_from([0, 300]),
    seed=st.integers(0, 999),
)
@settings(max_examples=examples(4), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_schedule(
    doubles, standin_cuda, standin_tensorrt, network, devices, calls, captures, reachable, scratch, seed
):
    """Given any network in any parts, run in any order that its events allow -> what ONNX Runtime gives of the whole.

    Each input is on the host or the GPU, whose producer may not be done; outputs are new, or the caller's of either
    kind.
    """
    nodes, cut, outputs = network
    device = standin_cuda.Device(seed=seed, peers=reachable)

    def tensor(array):
        device.current = devices[0]
        made = standin_cuda.Tensor(device, array, late=True, device=devices[0])
        device.current = 0
        return made

    with tempfile.TemporaryDirectory() as folder:
        split = doubles.Split(Path(folder) / "split", nodes, cut, outputs)
        held = []
        with split.runner(standin_tensorrt, device, devices, captures=captures, scratch=scratch) as runner:
            for at, (batch, on_gpu, given_outputs) in enumerate(calls):
                for again in range(3):
                    inputs = split.inputs_of(batch, 10 * at + again)
                    wanted = split.reference(inputs)
                    arrays = {
                        name: tensor(array) if where else array
                        for (name, array), where in zip(inputs.items(), on_gpu, strict=False)
                    }
                    name, array = next(iter(wanted.items()))
                    mine = {name: np.zeros_like(array) if given_outputs == 1 else tensor(np.zeros_like(array))}
                    results = runner(arrays, mine if given_outputs else None)
                    assert not given_outputs or results[name] is mine[name]
                    found = {n: r if isinstance(r, np.ndarray) else device.contents(r) for n, r in results.items()}
                    assert_equal(found, wanted)
                    held.append((results, found))
            assert device.current == 0
        for results, found in held:  # also after all others have run
            for name, result in results.items():
                np.testing.assert_array_equal(
                    result if isinstance(result, np.ndarray) else device.contents(result), found[name]
                )
        held.clear()
        results = result = None
        gc.collect()
        assert set(device.buffers) <= device.callers
        assert not (device.pinned or device.graphs or device.streams or device.events)
