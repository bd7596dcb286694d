"""Running the parts of a network side by side by ONNX Runtime, against the whole in one session."""

import gc
import os
import pickle
import subprocess
import sys
import threading
import time
import weakref

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
import split_graphs as graphs
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from plainconv.engines.onnxruntime import split as under_test
from plainconv.engines.onnxruntime.session import SessionOptions, run_options, start
from plainconv.engines.onnxruntime.split import OnnxRuntimeSplitRunner
from plainconv.exporter.bundle import TensorSpec
from plainconv.exporter.errors import EngineError
from plainconv.exporter.partition import Part

LIMIT = 60.0  # seconds that nothing here takes


DIAMOND, DIAMOND_PARTS, integers, make_split = graphs.DIAMOND, graphs.DIAMOND_PARTS, graphs.integers, graphs.make_split

LOOP = """(int64 rounds, float[4,4] x) => (float[4,4] y, float[4,4] z) {
    s = Neg(x)
    on = Constant<value = bool {1}>()
    y = Loop(rounds, on, s) <body = body (int64 i, bool more, float[4,4] v) => (bool same, float[4,4] w) {
        same = Identity(more) w = Neg(v)
    }>
    t = Relu(s)
    z = Abs(t)
}"""
LOOP_PARTS = (
    Part("stem", 0, 0, ("x",), ("s",)),
    Part("loop", 1, 0, ("rounds", "s"), ("y",)),
    Part("other", 0, 0, ("s",), ("z",)),
)
"""A part that takes as long as its input says, and one beside it."""

GATHER = """(float[n,4] x, int64[1] row) => (float[1,4] y) {
    a = Neg(x)
    b = Gather(a, row)
    c = Abs(b)
    y = Add(c, b)
}"""
GATHER_PARTS = (
    Part("device0.0", 0, 0, ("x",), ("a",)),
    Part("device1.0", 1, 0, ("a", "row"), ("b",)),
    Part("device0.1", 0, 0, ("b",), ("y",)),
)
"""A part that fails where the row is none of x's."""


@pytest.fixture
def diamond(tmp_path):
    return make_split(tmp_path)


@pytest.fixture(autouse=True)
def no_thread_left():
    yield
    gc.collect()
    end = time.monotonic() + LIMIT
    while graphs.threads_of_places():
        assert time.monotonic() < end
        time.sleep(0.001)


@pytest.fixture
def no_gc():
    """No garbage collector: what goes, goes by itself."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def runner_of(split, **options):
    return OnnxRuntimeSplitRunner(split.record, split.files, split.inputs, split.outputs, **options)


def check_same(found, wanted):
    assert list(found) == list(wanted)
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype


@pytest.mark.parametrize("threads", [0, 1, 2])
def test_parts_are_the_whole(diamond, threads):
    """Given a network cut over two devices -> its specs, and its outputs at several batches, to the last bit."""
    with runner_of(diamond, threads=threads) as runner:
        assert (runner.backend, runner.provider, runner.precision, runner.tf32) == ("onnxruntime", "cpu", "fp32", False)
        assert runner.inputs == (TensorSpec("x", "float32", ("n", 4)),)
        assert [spec.name for spec in runner.outputs] == ["y", "z"]
        assert runner.stages({"x": integers(1, 4)}) == {}
        for batch in (3, 1, 64, 3):
            x = integers(batch, 4, seed=batch)
            check_same(runner({"x": x}), diamond.reference({"x": x}))


@st.composite
def placed(draw):
    """A network of up to eight nodes in ONNX's text, and a plan of parts of it: a run of nodes each, on any place."""
    values, lines = ["x"], []
    for at in range(draw(st.integers(1, 8))):
        op = draw(st.sampled_from(["Neg", "Relu", "Abs", "Add", "Sub", "Max"]))
        reads = [draw(st.sampled_from(values)) for _ in range(1 + (op in ("Add", "Sub", "Max")))]
        lines.append((op, reads))
        values.append(f"v{at}")
    read = {name for _, reads in lines for name in reads}
    outputs = [name for name in values[1:] if name not in read or draw(st.booleans())]
    parts, begin = [], 0
    while begin < len(lines):
        end = draw(st.integers(begin + 1, len(lines)))
        made, inside = [f"v{at}" for at in range(begin, end)], [name for _, r in lines[begin:end] for name in r]
        outside = {name for _, reads in lines[:begin] + lines[end:] for name in reads}
        reads = tuple(dict.fromkeys(name for name in inside if name not in made))
        writes = tuple(name for name in made if name in outputs or name in outside)
        place = draw(st.integers(0, 2)), draw(st.integers(0, 1))
        parts.append(Part(f"p{len(parts)}", *place, reads, writes))
        begin = end
    nodes = "\n".join(f"v{at} = {op}({', '.join(reads)})" for at, (op, reads) in enumerate(lines))
    return f"(float[n,4] x) => ({', '.join(f'float[n,4] {name}' for name in outputs)}) {{\n{nodes}\n}}", parts


@settings(max_examples=examples(25))
@given(made=placed(), groups=st.lists(st.integers(0, 3), min_size=3, max_size=3))
def test_any_placement(tmp_path_factory, made, groups):
    """Given any small network, any cut and any places for it -> the whole's outputs."""
    split = make_split(tmp_path_factory.mktemp("placed"), *made)
    with runner_of(split, devices=groups[: split.record.devices]) as runner:
        for batch in (1, 3):
            x = integers(batch, 4, seed=batch)
            check_same(runner({"x": x}), split.reference({"x": x}))


def test_four_threads(diamond):
    """Given four threads that call at once, each with its own batch -> to each its own results."""
    wrong: list[object] = []
    ready = threading.Barrier(4)

    def calls(runner, batch):
        x = integers(batch, 4, seed=batch)
        wanted, mine = diamond.reference({"x": x}), {"y": np.empty((batch, 4), np.float32)}
        ready.wait()
        for i in range(100):
            try:
                check_same(runner({"x": x}, mine if i % 2 else None), wanted)
            except Exception as error:
                wrong.append(error)

    with runner_of(diamond) as runner:
        threads = [threading.Thread(target=calls, args=(runner, batch)) for batch in (1, 2, 3, 4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_outputs_of_the_callers(diamond):
    """Given arrays for some outputs or all -> written where they lie and given back; the others are new."""
    x, y, z = integers(3, 4), np.empty((3, 4), np.float32), np.empty((3, 4), np.float32)
    wanted = diamond.reference({"x": x})
    with runner_of(diamond) as runner:
        some = runner({"x": x}, {"z": z})
        assert some["z"] is z
        check_same(some, wanted)
        both = runner({"x": x}, {"z": z, "y": y})
        assert both["y"] is y
        check_same(both, wanted)
        check_same(runner({"x": x}, {}), wanted)


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({"s": np.empty((2, 4), np.float32)}, "outputs are s, wanted some of y, z"),
        ({"z": np.empty((2, 4))}, "output z is dtype.'float64'., wanted float32"),
        ({"z": np.empty((2, 5), np.float32)}, r"output z has shape \[2, 5\], wanted \[n, 4\]"),
        ({"y": np.empty((3, 4), np.float32)}, r"output y has shape \[3, 4\], wanted \[2, 4\]"),
        (np.empty(4, np.float32), "outputs are a ndarray, wanted arrays by name"),
    ],
    ids=["name", "dtype", "shape", "batch", "no mapping"],
)
def test_outputs_that_do_not_fit(diamond, outputs, message):
    with runner_of(diamond) as runner:
        with pytest.raises(EngineError, match=message) as raised:
            runner({"x": integers(2, 4)}, outputs)
        assert "\n" not in str(raised.value)
        check_same(runner({"x": integers(2, 4)}), diamond.reference({"x": integers(2, 4)}))


def test_one_output_that_does_not_fit(diamond):
    """Given one array of another batch than the call's, and one that fits -> neither is written."""
    y, z = np.full((2, 4), 77, np.float32), np.full((3, 4), 77, np.float32)
    with runner_of(diamond) as runner, pytest.raises(EngineError, match=r"has shape \[3, 4\], wanted"):
        runner({"x": integers(2, 4)}, {"y": y, "z": z})
    assert set(y.flat) | set(z.flat) == {77}


def test_outputs_that_overlap(diamond):
    memory = np.zeros((6, 4), np.float32)
    with runner_of(diamond) as runner:
        with pytest.raises(EngineError, match="output y lies in the memory of input x"):
            runner({"x": memory[:2]}, {"y": memory[1:3]})
        with pytest.raises(EngineError, match="output z lies in the memory of output y"):
            runner({"x": memory[:2]}, {"y": memory[2:4], "z": memory[2:4]})


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"input": integers(1, 4)}, "inputs are input, wanted x"),
        ({"x": integers(1, 5)}, r"shape \[1, 5\], wanted \[n, 4\]"),
        ({"x": integers(1, 4, dtype=np.float64)}, "float64.*wanted float32"),
        ({"x": integers(4, 2).T}, "input x is not contiguous"),
        (integers(1, 4), "inputs are a ndarray, wanted arrays by name"),
    ],
)
def test_wrong_inputs(diamond, inputs, message):
    with runner_of(diamond) as runner, pytest.raises(EngineError, match=message) as raised:
        runner(inputs)
    assert "\n" not in str(raised.value)


def test_results_are_the_callers(diamond):
    """Given results of one call, then further calls, and the runner gone -> they hold what they held, and no other."""
    first, other = integers(50, 4), integers(50, 4, seed=1)
    runner = runner_of(diamond)
    kept = runner({"x": first})
    for _ in range(20):
        later = runner({"x": other})
    kept["z"] += 1
    assert all(array.flags.writeable for array in kept.values())
    runner.close()
    del runner
    gc.collect()
    wanted = diamond.reference({"x": first})
    check_same(kept, {"y": wanted["y"], "z": wanted["z"] + 1})
    check_same(later, diamond.reference({"x": other}))


def test_inputs_go_with_the_call(diamond):
    """Given results that are kept -> the arrays that they were made of are not."""
    x = integers(5, 4)
    gone = weakref.ref(x)
    with runner_of(diamond) as runner:
        kept = runner({"x": x})
        del x
        runner({"x": integers(1, 4)})  # the workers have let go of what came before
        gc.collect()
        assert gone() is None
    assert kept["y"].shape == (5, 4)


@pytest.mark.skipif(not hasattr(onnxruntime.OrtValue, "from_dlpack"), reason="ONNX Runtime does not say what it holds")
@pytest.mark.parametrize("name", ["stem", "tail"])
def test_outputs_keep_no_input(diamond, name):
    """Given a part's outputs, one or two, that are still to be read -> what it read is not held by them."""
    part = next(part for part in diamond.record.parts if part.name == name)
    loaded = under_test._LoadedPart(part, diamond.files[name], SessionOptions("cpu", 1))
    arrays = [integers(5, 4) for _ in part.inputs]
    inputs = {
        spec.name: under_test._Value(onnxruntime.OrtValue.from_dlpack(array))  # which owns the array then
        for spec, array in zip(part.inputs, arrays, strict=True)
    }
    gone = [weakref.ref(array) for array in arrays]
    found = loaded.run(inputs, run_options(onnxruntime))
    del arrays, inputs
    gc.collect()
    assert [ref() for ref in gone] == [None] * len(part.inputs)
    assert len(found) == len(part.outputs)


def test_outputs_keep_no_other(diamond):
    """Given one of a part's two outputs that is dropped -> the next run has its memory; the other is what it was."""
    part = diamond.record.parts[3]
    loaded = under_test._LoadedPart(part, diamond.files["tail"], SessionOptions("cpu", 1))
    inputs = {
        spec.name: under_test._Value(onnxruntime.OrtValue.ortvalue_from_numpy(integers(5000, 4, seed=seed)))
        for seed, spec in enumerate(part.inputs)
    }
    total, difference = loaded.run(inputs, run_options(onnxruntime))
    address, before = difference.tensor.data_ptr(), total.array.copy()
    del difference
    assert address in [value.tensor.data_ptr() for value in loaded.run(inputs, run_options(onnxruntime))]
    np.testing.assert_array_equal(total.array, before)


def test_output_that_is_an_input(tmp_path):
    """Given a network that gives an input back -> a copy of it, in the caller's array where there is one."""
    split = make_split(
        tmp_path, "(float[n] x) => (float[n] y, float[n] x) { y = Neg(x) }", [Part("p", 0, 0, ("x",), ("y",))]
    )
    assert split.record.results == {"y": "p", "x": None}
    x, mine = integers(3), np.empty(3, np.float32)
    with runner_of(split) as runner:
        found = runner({"x": x})
        check_same(found, {"y": -x, "x": x})
        assert not np.shares_memory(found["x"], x)
        assert runner({"x": x}, {"x": mine})["x"] is mine
    np.testing.assert_array_equal(mine, x)


def test_bfloat16(tmp_path):
    """Given bfloat16 into the network, from part to part, and out of it -> bfloat16, in arrays of both kinds."""
    text = """(bfloat16[n] x) => (bfloat16[n] y, bfloat16[n] z) {
        f = Cast<to=1>(x) g = Neg(f) h = Cast<to=16>(g) z = Cast<to=16>(f)
        k = Cast<to=1>(h) m = Abs(k) y = Cast<to=16>(m)
    }"""
    parts = [Part("a", 0, 0, ("x",), ("h", "z")), Part("b", 1, 0, ("h",), ("y",))]
    split = make_split(tmp_path, text, parts)
    assert [spec.dtype for spec in (*split.inputs, *split.outputs)] == ["bfloat16"] * 3
    x = np.array([1.5, -3.0, 0.0078125], ml_dtypes.bfloat16)
    mine = np.empty(3, ml_dtypes.bfloat16)
    with runner_of(split) as runner:
        check_same(runner({"x": x}), {"y": np.abs(x), "z": x})
        assert runner({"x": x}, {"y": mine})["y"] is mine
    np.testing.assert_array_equal(mine, np.abs(x))


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "int32", "int64", "float16", "float64"])
def test_other_types(tmp_path, dtype):
    """Given tensors of each other type between two parts -> they come as they are."""
    name = {"float64": "double"}.get(dtype, dtype)
    split = make_split(
        tmp_path,
        f"({name}[n] x) => ({name}[n] y, {name}[n] z) {{ a = Identity(x) y = Concat<axis=0>(a, x) z = Identity(a) }}",
        [Part("a", 0, 0, ("x",), ("a",)), Part("b", 1, 0, ("a", "x"), ("y", "z"))],
    )
    x = np.array([0, 1, 1], dtype)
    outputs = (split.outputs[0], TensorSpec("z", dtype, ("n",)))
    with OnnxRuntimeSplitRunner(split.record, split.files, split.inputs, outputs) as runner:
        check_same(runner({"x": x}), {"y": np.concatenate([x, x]), "z": x})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"devices": [0]}, "1 devices are given, wanted 2: one for each of the split's"),
        ({"devices": [0, -1]}, "device -1 is given, wanted groups of cores from 0 on"),
        ({"threads": -1}, "threads is -1; wanted 0 .* or more"),
        ({"timeout": 0}, "timeout is 0; wanted a number of seconds above 0"),
        ({"timeout": float("nan")}, "timeout is nan; wanted a number of seconds above 0"),
    ],
)
def test_options_that_are_none(diamond, options, message):
    """Given an option that no machine could follow -> one line, before anything starts."""
    with pytest.raises(EngineError, match=message) as raised:
        runner_of(diamond, **options)
    assert "\n" not in str(raised.value)
    assert graphs.threads_of_places() == 0


def test_endless_timeout(diamond):
    """Given no limit at all -> calls and close wait for what there is."""
    with runner_of(diamond, timeout=float("inf")) as runner:
        check_same(runner({"x": integers(1, 4)}), diamond.reference({"x": integers(1, 4)}))


@pytest.mark.parametrize("content", [b"", b"junk" * 9, None])
def test_part_that_does_not_load(diamond, content):
    """Given a part whose file is no model -> its name, and no thread is left."""
    path = diamond.files["right"]
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(EngineError, match=r"^part right: right.onnx: ONNX Runtime cannot load it") as raised:
        runner_of(diamond)
    assert "\n" not in str(raised.value)
    assert graphs.threads_of_places() == 0


def test_part_of_another_network(diamond):
    """Given a file of another part -> what it reads and makes, and what was wanted."""
    diamond.files["right"].write_bytes(diamond.files["stem"].read_bytes())
    with pytest.raises(
        EngineError, match=r"part right: right.onnx reads x and makes s, wanted s and b; split the netw"
    ):
        runner_of(diamond)


def test_part_without_a_file(diamond):
    files = {name: path for name, path in diamond.files.items() if name != "left"}
    with pytest.raises(EngineError, match="part left has no file, wanted one for each of 4 parts"):
        OnnxRuntimeSplitRunner(diamond.record, files, diamond.inputs, diamond.outputs)


def test_part_that_fails(tmp_path, capfd):
    """Given data that a part cannot compute -> one line that names it, nothing on stderr, and the next call works."""
    split = make_split(tmp_path, GATHER, GATHER_PARTS)
    x = integers(3, 4)
    with runner_of(split) as runner:
        for _ in range(3):
            with pytest.raises(EngineError, match=r"^part device1.0: ONNX Runtime cannot run the model") as raised:
                runner({"x": x, "row": np.array([7])})
            assert "\n" not in str(raised.value)
            inputs = {"x": x, "row": np.array([1])}
            check_same(runner(inputs), split.reference(inputs))
    assert capfd.readouterr().err == ""


def test_part_that_takes_too_long(tmp_path, capfd):
    """Given a loop of 10¹² rounds -> an error that names it after the timeout; it is stopped, and the runner closes."""
    split = make_split(tmp_path, LOOP, LOOP_PARTS)
    x = integers(4, 4)
    with runner_of(split, timeout=0.2) as runner:
        with pytest.raises(
            EngineError, match=r"took longer than 0.2 s, parts? .*loop.* had not ended; give it m"
        ) as why:
            runner({"rounds": np.array(10**12), "x": x})
        assert "\n" not in str(why.value)
    assert capfd.readouterr().err == ""


def test_call_after_one_that_took_too_long(tmp_path):
    """Given a call that was given up, its loop begun or not -> its worker runs the next one."""
    split = make_split(tmp_path, LOOP, LOOP_PARTS)
    x = integers(4, 4)
    with runner_of(split) as runner:
        runner._timeout = 0.05
        with pytest.raises(EngineError, match="had not ended"):
            runner({"rounds": np.array(10**12), "x": x})
        runner._timeout = LIMIT
        check_same(runner({"rounds": np.array(3), "x": x}), {"y": x, "z": np.maximum(-x, 0)})


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="threads are not bound on this system")
def test_cores(diamond):
    """Given two devices -> each worker is on the cores of its own, ONNX Runtime's further threads too, no other is."""
    mine = os.sched_getaffinity(0)
    before = set(os.listdir("/proc/self/task"))
    with runner_of(diamond, threads=3) as runner:
        runner({"x": integers(1, 4)})
        assert runner.why_not_bound is None
        assert set().union(*runner.cores.values()) <= mine
        assert len(mine) < 2 or not set(runner.cores[0, 0]) & set(runner.cores[1, 0])
        started = set(os.listdir("/proc/self/task")) - before
        wanted = sorted(runner.cores[0, 0] for _ in range(3 + 2 + 2)) + [runner.cores[1, 0]] * 3  # 3 parts and 1, on 2
        found = sorted(tuple(sorted(os.sched_getaffinity(int(thread)))) for thread in started)
        assert found == sorted(wanted)
        bound = {t.name: os.sched_getaffinity(t.native_id) for t in threading.enumerate() if t.name.startswith("place")}
        assert bound == {f"place {place}": set(cores) for place, cores in runner.cores.items()}
    assert os.sched_getaffinity(0) == mine


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="threads are not bound on this system")
def test_cores_of_a_session(diamond):
    """Given a session for one core, started by a thread that is bound to none -> its further threads go there."""
    core, before = max(os.sched_getaffinity(0)), set(os.listdir("/proc/self/task"))
    session, _ = start(diamond.whole, SessionOptions("cpu", 3, cores=(core,)))
    further = set(os.listdir("/proc/self/task")) - before
    assert len(further) == 2
    end = time.monotonic() + LIMIT
    while {tuple(os.sched_getaffinity(int(thread))) for thread in further} != {(core,)}:  # each binds itself
        assert time.monotonic() < end
        time.sleep(0.001)
    assert len(session.run(None, {"x": integers(1, 4)})) == 2


def test_devices_that_share_cores(diamond):
    """Given both devices on one group of cores -> all cores for each, and the same results."""
    x = integers(2, 4)
    with runner_of(diamond, devices=[3, 3]) as runner:
        assert runner.cores[0, 0] == runner.cores[1, 0]
        check_same(runner({"x": x}), diamond.reference({"x": x}))


def test_system_that_cannot_bind(diamond, monkeypatch):
    """Given a system that binds no thread -> why, and the same results, on further threads too."""
    monkeypatch.setattr(under_test, "bind", lambda cores: "not here")
    x = integers(2, 4)
    with runner_of(diamond, threads=2) as runner:
        assert runner.why_not_bound == "not here"
        check_same(runner({"x": x}), diamond.reference({"x": x}))


def test_closed(diamond):
    """Given a runner that was closed, twice -> running it is one line; its threads are gone."""
    with runner_of(diamond) as runner:
        runner({"x": integers(1, 4)})
        runner.close()
    assert graphs.threads_of_places() == 0
    with pytest.raises(EngineError, match="the runner is closed; load the bundle again"):
        runner({"x": integers(1, 4)})


def test_collected_without_close(diamond):
    """Given a runner that nobody closed and nobody has any more -> its threads end."""
    runner = runner_of(diamond)
    runner({"x": integers(1, 4)})
    gone = weakref.ref(runner)
    del runner
    gc.collect()
    assert gone() is None  # and `no_thread_left` waits for the threads


def test_thousands_of_requests(tmp_path, no_gc):
    """Given 2,000 calls, a fourth of which fail -> as many threads, nothing left for the garbage collector."""
    split = make_split(tmp_path, GATHER, GATHER_PARTS)
    x, failed = integers(3, 4), 0
    with runner_of(split) as runner:
        runner({"x": x, "row": np.array([0])})
        threads, values = threading.active_count(), _values()
        for number in range(2000):
            try:
                runner({"x": x, "row": np.array([number % 4])})
            except EngineError:
                failed += 1
        assert failed == 500
        assert threading.active_count() == threads
        runner({"x": x, "row": np.array([0])})
        assert _values() <= values + 3  # those of the last call, which a worker may not have let go of yet


def _values():
    """How many tensors of ONNX Runtime there are."""
    return sum(type(thing) is onnxruntime.OrtValue for thing in gc.get_objects())


def test_program_that_ends(diamond):
    """Given a program that ends with a runner open and a call under way -> it ends, silently."""
    script = f"""
import sys, threading
sys.path[:0] = {[path for path in sys.path if path]}
import pathlib, pickle
import numpy as np
from plainconv.engines.onnxruntime.split import OnnxRuntimeSplitRunner
from plainconv.exporter.errors import EngineError
record, files, inputs, outputs = pickle.loads(sys.stdin.buffer.read())
runner = OnnxRuntimeSplitRunner(record, files, inputs, outputs)
x = np.ones((1, 4), np.float32)
print(sorted(runner({{"x": x}})))
first = threading.Event()
def calls():
    try:
        while True:
            runner({{"x": x}})
            first.set()
    except EngineError:
        pass
threading.Thread(target=calls, daemon=True).start()
first.wait()
"""
    given = pickle.dumps((diamond.record, diamond.files, diamond.inputs, diamond.outputs))
    done = subprocess.run([sys.executable, "-c", script], input=given, capture_output=True, timeout=LIMIT, check=False)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, [b"['y',", b"'z']"], b"")


def test_parts_are_checked_models(diamond):
    """Given the files that these tests cut -> each is valid by itself."""
    for path in diamond.files.values():
        onnx.checker.check_model(str(path), full_check=True)
