from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from plainconv.exporter.errors import ExportError
from plainconv.exporter.onnx_file.file import LARGE, SMALL, check, graph_from_proto, infer_shapes, read, skeleton, write

SIDE = 600  # a matrix of 600 × 600 float32 is past LARGE


def model(*, batch: int | str = 2, side: int = SIDE) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    weights = {
        "big": rng.standard_normal((side, side)),
        "big2": rng.standard_normal((side, side)),
        "small": np.ones(side),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "big"], ["a"], name="first"),
        helper.make_node("Add", ["a", "small"], ["b"], name="second"),
        helper.make_node("MatMul", ["b", "big2"], ["y"], name="third"),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, side]) for name in ("x", "y")]
    initializers = [numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def outputs(path: Path) -> np.ndarray:
    x = np.random.default_rng(1).standard_normal((2, SIDE)).astype(np.float32)
    return onnxruntime.InferenceSession(str(path)).run(None, {"x": x})[0]


@pytest.fixture
def original(tmp_path: Path) -> Path:
    onnx.save(model(), tmp_path / "original.onnx")
    return tmp_path / "original.onnx"


def test_a_file_read_and_written_computes_the_same_and_passes_the_full_checker(original: Path, tmp_path: Path) -> None:
    graph, _ = read(original)
    path = write(graph, tmp_path / "copy.onnx", {"b": "2", "a": "1"})
    onnx.checker.check_model(str(path), full_check=True)
    assert np.array_equal(outputs(path), outputs(original))
    assert [(p.key, p.value) for p in onnx.load(path).metadata_props] == [("a", "1"), ("b", "2")]
    assert read(path)[1] == {"a": "1", "b": "2"}


def test_the_same_graph_gives_the_same_bytes(original: Path, tmp_path: Path) -> None:
    first, second = (write(read(original)[0], tmp_path / name, {"k": "v"}) for name in ("1.onnx", "2.onnx"))
    assert first.read_bytes() == second.read_bytes()


def test_past_the_limit_the_weights_lie_beside_on_pages_and_the_file_still_computes_the_same(
    original: Path, tmp_path: Path
) -> None:
    path = write(read(original)[0], tmp_path / "model.onnx", limit=LARGE)
    assert path.stat().st_size < LARGE
    assert (tmp_path / "model.onnx.data").stat().st_size >= 2 * SIDE * SIDE * 4
    light = onnx.load(path, load_external_data=False)
    entries = [{e.key: e.value for e in t.external_data} for t in light.graph.initializer if t.external_data]
    assert [e["location"] for e in entries] == ["model.onnx.data"] * 2
    assert all(int(e["offset"]) % 4096 == 0 for e in entries)
    onnx.checker.check_model(str(path), full_check=True)
    check(path)
    assert np.array_equal(outputs(path), outputs(original))
    again = write(read(path)[0], tmp_path / "again.onnx")
    assert np.array_equal(outputs(again), outputs(original))


def test_large_weights_stay_out_of_the_skeleton(original: Path) -> None:
    graph, _ = read(original)
    proto = skeleton(graph)
    assert proto.ByteSize() < 10_000
    assert [t.name for t in proto.graph.initializer] == ["big", "small", "big2"]
    assert isinstance(graph.tensors()["big"].values, np.memmap)


def test_an_interrupted_write_leaves_nothing(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, _ = read(original)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("plainconv.exporter.onnx_file.wire.join", full)
    with pytest.raises(ExportError, match="No space left on device"):
        write(graph, tmp_path / "copy.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["original.onnx"]


@settings(max_examples=examples(30), deadline=None)
@given(cut=st.floats(0.0, 0.999))
def test_a_truncated_file_is_refused_in_one_line(tmp_path_factory: pytest.TempPathFactory, cut: float) -> None:
    folder = tmp_path_factory.mktemp("cut")
    whole = model().SerializeToString()
    (folder / "cut.onnx").write_bytes(whole[: int(cut * len(whole))])
    with pytest.raises(ExportError) as raised:
        read(folder / "cut.onnx")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"hello, world", b"\x00" * 100, b"PK\x03\x04" + bytes(range(256))])
def test_a_file_that_is_no_onnx_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "no.onnx").write_bytes(content)
    with pytest.raises(ExportError, match=r"no\.onnx"):
        read(tmp_path / "no.onnx")


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="No such file"):
        read(tmp_path / "missing.onnx")
    with pytest.raises(ExportError):
        read(tmp_path)


@pytest.mark.parametrize(
    ("location", "length", "message"),
    [("../outside.bin", 0, "outside its own folder"), ("missing.bin", 0, "lacks the weight"), ("short.bin", 0, "lacks"),
     ("short.bin", 8, "bytes for a shape of")],
)  # fmt: skip
def test_external_data_that_is_missing_short_or_outside_is_refused(
    tmp_path: Path, location: str, length: int, message: str
) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    (folder / "short.bin").write_bytes(b"12345678")
    (tmp_path / "outside.bin").write_bytes(bytes(4 * SIDE * SIDE))
    broken = model()
    tensor = broken.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    if length:
        tensor.external_data.add(key="length", value=str(length))
    (folder / "broken.onnx").write_bytes(broken.SerializeToString())
    with pytest.raises(ExportError, match=message):
        read(folder / "broken.onnx")


def test_check_refuses_a_graph_whose_shapes_contradict_each_other(tmp_path: Path) -> None:
    wrong = model()
    wrong.graph.output[0].type.tensor_type.shape.dim[1].dim_value = SIDE + 1
    (tmp_path / "wrong.onnx").write_bytes(wrong.SerializeToString())
    with pytest.raises(ExportError, match=r"contradict|refuses"):
        check(tmp_path / "wrong.onnx")


def test_the_shape_of_a_large_table_of_integers_is_inferred() -> None:
    """Given an index past SMALL that an Unsqueeze changes, as of relative positions → Result no data are asked for."""
    index = numpy_helper.from_array(np.zeros(SMALL, np.int64), "index")
    axis = numpy_helper.from_array(np.array([0]), "axis")
    nodes = [helper.make_node("Unsqueeze", ["index", "axis"], ["i"]), helper.make_node("Gather", ["x", "i"], ["y"])]
    ends = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)] for name, shape in (("x", [4]), ("y", None))
    ]
    proto = helper.make_model(helper.make_graph(nodes, "g", *ends, [index, axis]), ir_version=10)
    graph = graph_from_proto(proto, {})
    infer_shapes(graph)
    assert graph.tensors()["i"].shape == [1, SMALL]
