"""Running a model by ONNX Runtime."""

import gc
import threading
import weakref

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from plainconv.engines.cuda.device_array import DeviceArray
from plainconv.engines.onnxruntime.runner import OnnxRuntimeRunner
from plainconv.exporter.bundle import TensorSpec
from plainconv.exporter.errors import EngineError


def conv_relu(model, x_NCHW):
    """The model of `make_onnx`, in float64, tap by tap."""
    w_OIHW, b_O = (numpy_helper.to_array(t).astype(np.float64) for t in onnx.load(model).graph.initializer)
    padded = np.pad(x_NCHW.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    n, _, h, w = x_NCHW.shape
    y = np.zeros((n, len(b_O), h, w)) + b_O[:, None, None]
    for r in range(3):
        for s in range(3):
            y += np.einsum("oi,nihw->nohw", w_OIHW[:, :, r, s], padded[:, :, r : r + h, s : s + w])
    return np.maximum(y, 0)


def images(batch=1, seed=1):
    return np.random.default_rng(seed).normal(size=(batch, 3, 8, 8)).astype(np.float32)


def save(path, nodes, inputs, outputs):
    values = [helper.make_tensor_value_info(*value) for value in (*inputs, *outputs)]
    graph = helper.make_graph(nodes, "g", values[: len(inputs)], values[len(inputs) :])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    model.ir_version = 10
    onnx.save(model, path)
    return path


@pytest.fixture
def two_by_two(tmp_path):
    """total = a + b, difference = a − b, of free length."""
    a, b, total, difference = ((name, TensorProto.FLOAT, ["n"]) for name in ("a", "b", "total", "difference"))
    nodes = [helper.make_node("Add", ["a", "b"], ["total"]), helper.make_node("Sub", ["a", "b"], ["difference"])]
    return save(tmp_path / "two.onnx", nodes, [a, b], [total, difference])


@pytest.fixture
def zeros(tmp_path):
    """As many zeros as its input says: the length of its output is known to no one before."""
    nodes = [helper.make_node("ConstantOfShape", ["size"], ["zeros"])]
    value = ("zeros", TensorProto.FLOAT, ["length"])
    return save(tmp_path / "zeros.onnx", nodes, [("size", TensorProto.INT64, [1])], [value])


def test_run(onnx_file):
    """Given an ONNX file -> its specs, and its outputs by name, equal to the same sum in NumPy."""
    x = images()
    with OnnxRuntimeRunner(onnx_file, threads=1) as runner:
        assert (runner.backend, runner.provider, runner.precision, runner.tf32) == ("onnxruntime", "cpu", "fp32", False)
        assert runner.inputs == (TensorSpec("input", "float32", (1, 3, 8, 8)),)
        assert runner.outputs == (TensorSpec("logits", "float32", (1, 4, 8, 8)),)
        assert runner.stages({"input": x}) == {}
        first, again = runner({"input": x}), runner({"input": x})
    assert list(first) == ["logits"]
    np.testing.assert_allclose(first["logits"], conv_relu(onnx_file, x), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(first["logits"], again["logits"])
    assert first["logits"] is not again["logits"]


def test_symbolic_batch(tmp_path, make):
    """Given batches of other sizes, back and forth -> each its own outputs."""
    path = make.onnx(tmp_path / "m.onnx", batch="batch")
    with OnnxRuntimeRunner(path) as runner:
        assert runner.inputs[0].shape == ("batch", 3, 8, 8)
        for batch in (5, 1, 5):
            x = images(batch, seed=batch)
            np.testing.assert_allclose(runner({"input": x})["logits"], conv_relu(path, x), rtol=1e-5, atol=1e-5)


def test_float16(tmp_path, make):
    with OnnxRuntimeRunner(make.onnx(tmp_path / "m.onnx", dtype=np.float16), precision="fp16") as runner:
        assert runner.inputs[0].dtype == "float16"
        assert runner.precision == "fp16"
        assert runner({"input": np.zeros((1, 3, 8, 8), np.float16)})["logits"].dtype == np.float16


def test_bfloat16_at_both_ends(tmp_path):
    """Given bfloat16 in and out, which ONNX Runtime's `run` knows neither of -> bfloat16 all the same."""
    nodes = [
        helper.make_node("Cast", ["x"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Neg", ["wide"], ["less"]),
        helper.make_node("Cast", ["less"], ["y"], to=TensorProto.BFLOAT16),
    ]
    ends = [("x", TensorProto.BFLOAT16, ["n"])], [("y", TensorProto.BFLOAT16, ["n"])]
    x = np.array([1.5, -3.0, 0.0078125], ml_dtypes.bfloat16)
    with OnnxRuntimeRunner(save(tmp_path / "m.onnx", nodes, *ends)) as runner:
        y = runner({"x": x})["y"]
        mine = np.empty(3, ml_dtypes.bfloat16)
        assert runner({"x": x}, {"y": mine})["y"] is mine
    assert y.dtype == mine.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(y, -x)
    np.testing.assert_array_equal(mine, -x)


def test_inputs_in_any_mapping(onnx_file):
    """Given inputs in a mapping that is no dict -> the same."""
    from types import MappingProxyType

    with OnnxRuntimeRunner(onnx_file) as runner:
        assert runner(MappingProxyType({"input": images()}))["logits"].shape == (1, 4, 8, 8)


def test_outputs_of_the_callers(two_by_two):
    """Given arrays for some outputs or all -> written where they lie; the others are new arrays."""
    a, b = np.arange(4, dtype=np.float32), np.full(4, 2, np.float32)
    total, difference = np.empty((2, 4), np.float32)
    with OnnxRuntimeRunner(two_by_two) as runner:
        some = runner({"a": a, "b": b}, {"difference": difference})
        assert some["difference"] is difference
        assert list(some) == ["total", "difference"]
        both = runner({"b": b, "a": a}, {"difference": difference, "total": total})
        assert both["total"] is total
    np.testing.assert_array_equal(some["total"], a + b)
    np.testing.assert_array_equal(total, a + b)
    np.testing.assert_array_equal(difference, a - b)


def test_results_outlive_the_runner(two_by_two):
    """Given outputs of both ways to run, the runner closed and gone -> they hold what they held."""
    a = np.arange(1000, dtype=np.float32)
    runner = OnnxRuntimeRunner(two_by_two)
    plain, bound = runner({"a": a, "b": a}), runner({"a": a, "b": a}, {})
    runner.close()
    del runner
    gc.collect()
    np.testing.assert_array_equal(plain["total"], 2 * a)
    np.testing.assert_array_equal(bound["total"], 2 * a)


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({"sum": np.empty(4, np.float32)}, "outputs are sum, wanted some of difference, total"),
        ({"total": np.empty(5, np.float32)}, r"output total has shape \[5\], wanted \[4\]"),
        ({"total": np.empty(4)}, "output total is dtype.'float64'., wanted float32"),
        ({"total": np.empty(8, np.float32)[::2]}, "output total is not contiguous"),
        ({"total": [0.0] * 4}, "output total is a list, wanted a NumPy array"),
        (np.empty(4, np.float32), "outputs are a ndarray, wanted arrays by name; give {name: array}"),
    ],
)
def test_outputs_that_do_not_fit(two_by_two, outputs, message):
    a = np.arange(4, dtype=np.float32)
    with OnnxRuntimeRunner(two_by_two) as runner, pytest.raises(EngineError, match=message) as raised:
        runner({"a": a, "b": a}, outputs)
    assert "\n" not in str(raised.value)


def test_outputs_that_overlap(two_by_two):
    """Given an output in an input's memory, or in another output's -> refused before anything is written."""
    memory = np.arange(8, dtype=np.float32)
    a, b = memory[:4], np.ones(4, np.float32)
    with OnnxRuntimeRunner(two_by_two) as runner:
        with pytest.raises(EngineError, match="output total lies in the memory of input a; give it an array of its"):
            runner({"a": a, "b": b}, {"total": memory[2:6]})
        with pytest.raises(EngineError, match="output difference lies in the memory of output total"):
            runner({"a": a, "b": b}, {"total": memory[4:], "difference": memory[4:]})
        np.testing.assert_array_equal(memory, np.arange(8))
        runner({"a": a, "b": b}, {"total": memory[4:]})  # side by side is apart
    np.testing.assert_array_equal(memory[4:], memory[:4] + 1)


def test_output_of_a_length_that_the_data_decide(zeros):
    """Given an array of another length than the run finds -> one line, and the runner goes on."""
    mine = np.ones(3, np.float32)
    with OnnxRuntimeRunner(zeros) as runner:
        assert runner({"size": np.array([3])}, {"zeros": mine})["zeros"] is mine
        assert mine.sum() == 0
        with pytest.raises(EngineError, match=r"cannot run the model \(The output .*shape \{3\}.*\{5\}") as raised:
            runner({"size": np.array([5])}, {"zeros": mine})
        assert "\n" not in str(raised.value)
        assert runner({"size": np.array([5])})["zeros"].shape == (5,)


def test_out_of_memory(zeros, capfd):
    """Given an output of 16 TiB -> said as such, in one line, nothing of ONNX Runtime's own on stderr."""
    with OnnxRuntimeRunner(zeros) as runner:
        with pytest.raises(EngineError, match=r"^out of memory .*17592186044416.*; close other") as raised:
            runner({"size": np.array([1 << 42])})
        with pytest.raises(EngineError, match=r"^out of memory"):
            runner({"size": np.array([1 << 42])}, {})
    assert "\n" not in str(raised.value)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"x": images()}, "inputs are x, wanted input"),
        ({"input": images(), "more": images()}, "inputs are input, more, wanted input"),
        ({}, "inputs are none, wanted input"),
        ({"input": images(2)}, r"shape \[2, 3, 8, 8\], wanted \[1, 3, 8, 8\]"),
        ({"input": images().astype(np.float64)}, "float64.*wanted float32"),
        ({"input": images().astype(">f4")}, "wanted float32"),
        ({"input": images().transpose(0, 1, 3, 2)}, "input input is not contiguous"),
        ({"input": images().tolist()}, "input input is a list, wanted a NumPy array"),
        (images(), "inputs are a ndarray, wanted arrays by name; give {name: array}"),
    ],
)
def test_wrong_inputs_after_right_ones(onnx_file, inputs, message):
    """Given one thing wrong, when the same was right the call before -> one line, and the next right one runs."""
    with OnnxRuntimeRunner(onnx_file) as runner:
        right = runner({"input": images()})["logits"]
        with pytest.raises(EngineError, match=message) as raised:
            runner(inputs)
        assert "\n" not in str(raised.value)
        np.testing.assert_array_equal(runner({"input": images()})["logits"], right)


@pytest.mark.parametrize("shape", [(), (1, 3, 8), (1, 3, 8, 9)])
def test_wrong_shape_in_the_first_call(onnx_file, shape):
    """Given no call that passed before -> the shape is looked at all the same."""
    with OnnxRuntimeRunner(onnx_file) as runner, pytest.raises(EngineError, match=r"input input has shape \["):
        runner({"input": np.zeros(shape, np.float32)})


def test_gpu_array(onnx_file):
    """Given an array on the GPU and a runner on the CPU -> one line."""
    array = DeviceArray(4096, (1, 3, 8, 8), np.dtype(np.float32), 0, None)
    with OnnxRuntimeRunner(onnx_file, providers="cpu") as runner:
        with pytest.raises(EngineError, match="on the GPU, and this runner is on the CPU; copy it to the host"):
            runner({"input": array})
        with pytest.raises(EngineError, match="on the GPU, and this runner is on the CPU"):
            runner({"input": images()}, {"logits": array})


def test_four_threads(tmp_path, make):
    """Given four threads that call one runner, each with its own images and batch -> to each its own results."""
    path = make.onnx(tmp_path / "m.onnx", batch="batch")
    wrong: list[object] = []
    ready = threading.Barrier(4)

    def calls(runner, batch):
        x = images(batch, seed=batch)
        wanted = conv_relu(path, x)
        mine = np.empty(wanted.shape, np.float32)
        ready.wait()
        for i in range(50):
            try:
                y = runner({"input": x}, {"logits": mine} if i % 2 else None)["logits"]
                np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-5)
            except Exception as error:
                wrong.append(error)

    with OnnxRuntimeRunner(path, threads=1) as runner:
        threads = [threading.Thread(target=calls, args=(runner, batch)) for batch in (1, 2, 3, 4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_closed(onnx_file):
    """Given a runner that was closed, twice -> running it is one line, either way; its session is gone."""
    with OnnxRuntimeRunner(onnx_file) as runner:
        runner({"input": images()})
        session = weakref.ref(runner._session)
        runner.close()
    gc.collect()
    assert session() is None
    for outputs in (None, {"logits": np.empty((1, 4, 8, 8), np.float32)}):
        with pytest.raises(EngineError, match="the runner is closed; load the bundle again"):
            runner({"input": images()}, outputs)


@pytest.mark.parametrize("content", [b"", b"junk" * 9, None])
def test_file_that_is_no_model(tmp_path, content, capfd):
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(EngineError, match=r"model\.onnx: ONNX Runtime cannot load it") as raised:
        OnnxRuntimeRunner(path)
    assert "\n" not in str(raised.value)
    assert capfd.readouterr() == ("", "")


@given(end=st.floats(0, 0.999))
def test_truncated_file(tmp_path_factory, end):
    """Given the first bytes of a model -> EngineError in one line, at whichever byte it is cut."""
    folder = tmp_path_factory.mktemp("cut")
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    path = save(folder / "m.onnx", nodes, [("x", TensorProto.FLOAT, [2])], [("y", TensorProto.FLOAT, [2])])
    data = path.read_bytes()
    path.write_bytes(data[: int(end * len(data))])
    try:
        OnnxRuntimeRunner(path).close()
    except EngineError as error:
        assert str(error).startswith("m.onnx: ONNX Runtime cannot load it")
        assert "\n" not in str(error)
    else:  # only where the rest held nothing that a model needs
        assert int(end * len(data)) > len(data) - 12


def test_input_that_is_no_tensor(tmp_path):
    """Given a model that takes strings -> which input, and what is wanted."""
    nodes = [helper.make_node("Identity", ["words"], ["same"])]
    ends = [("words", TensorProto.STRING, [1])], [("same", TensorProto.STRING, [1])]
    with pytest.raises(EngineError, match=r"words is a tensor.string., wanted a tensor of bool, int8"):
        OnnxRuntimeRunner(save(tmp_path / "m.onnx", nodes, *ends))
