import io
from pathlib import Path

import onnx
import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from plainconv.exporter.onnx_file import wire


def model(sizes: list[int], doc: str) -> onnx.ModelProto:
    tensors = [
        helper.make_tensor(f"w{i}", TensorProto.UINT8, [n], bytes((i + k) % 256 for k in range(n)), raw=True)
        for i, n in enumerate(sizes)
    ]
    end = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N"])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [end], [], tensors, doc)
    return helper.make_model(graph, producer_name=doc, ir_version=10)


@settings(max_examples=examples(60), deadline=None)
@given(sizes=st.lists(st.integers(0, 400), max_size=5), doc=st.text(max_size=300), large=st.integers(1, 200))
def test_joining_what_was_split_gives_the_same_model(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], doc: str, large: int
) -> None:
    path = tmp_path_factory.mktemp("wire") / "m.onnx"
    whole = model(sizes, doc)
    path.write_bytes(whole.SerializeToString())

    light, extents = wire.split(path, large)
    content = path.read_bytes()
    data = {name: memoryview(content[e.offset : e.offset + e.length]) for name, e in extents.items()}
    file = io.BytesIO()
    wire.join(light, data, file)

    assert set(extents) == {f"w{i}" for i, n in enumerate(sizes) if n >= large}
    joined = onnx.ModelProto.FromString(file.getvalue())
    held = {t.name: t.raw_data for t in joined.graph.initializer}
    assert held == {t.name: t.raw_data for t in whole.graph.initializer}
    for each in (joined, whole):
        del each.graph.initializer[:]
    assert joined == whole


@pytest.mark.parametrize("content", [b"\x80", b"\x08", b"\x0a\x05abc", b"\x0f", b"\xff" * 12])
def test_bytes_that_are_no_message_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(wire.WireError):
        wire.split(tmp_path / "m.onnx", 1)
