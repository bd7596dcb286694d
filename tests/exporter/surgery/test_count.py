"""What an ONNX graph costs."""

from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import TensorProto, helper, numpy_helper

from plainconv.exporter.surgery.count import count_onnx


def onnx_model(path: Path, op: str, shapes: dict[str, tuple[int, ...]], x: list, y: list, **attrs: object) -> Path:
    weights = [numpy_helper.from_array(np.zeros(s, np.float32), name) for name, s in shapes.items()]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, s) for name, s in (("x", x), ("y", y))]
    graph = helper.make_graph([helper.make_node(op, ["x", *shapes], ["y"], **attrs)], "g", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


@pytest.mark.parametrize(
    ("op", "shapes", "x", "y", "attrs", "macs"),
    [
        ("Conv", {"w": (6, 4, 3, 3), "b": (6,)}, ["N", 4, 9, 9], ["N", 6, 7, 7], {}, 7 * 7 * 6 * 4 * 9),
        ("Conv", {"w": (4, 1, 5, 5)}, [1, 4, 9, 9], [1, 4, 5, 5], {"group": 4}, 5 * 5 * 4 * 25),
        ("ConvTranspose", {"w": (4, 3, 3, 3)}, [1, 4, 5, 5], [1, 6, 7, 7], {"group": 2}, 5 * 5 * 4 * 3 * 9),
        ("Gemm", {"w": (5, 7), "b": (5,)}, [3, 7], [3, 5], {"transB": 1}, 3 * 7 * 5),
        ("MatMul", {"w": (7, 5)}, [2, 3, 7], [2, 3, 5], {}, 2 * 3 * 7 * 5),
        ("Mul", {"w": (1,)}, [3, 7], [3, 7], {}, 0),
    ],
)
def test_macs_of_an_onnx_op_are_those_of_its_definition(
    tmp_path: Path, op: str, shapes: dict, x: list, y: list, attrs: dict, macs: int
) -> None:
    cost = count_onnx(onnx_model(tmp_path / "op.onnx", op, shapes, x, y, **attrs))
    elements = sum(int(np.prod(s)) for s in shapes.values())
    assert (cost.macs, cost.parameters, cost.bytes, cost.nodes) == (macs, elements, 4 * elements, {op: 1})


def test_the_macs_of_an_open_map_are_unknown(tmp_path: Path) -> None:
    path = onnx_model(tmp_path / "op.onnx", "Conv", {"w": (6, 4, 3, 3)}, [1, 4, "H", "W"], [1, 6, "h", "w"])
    cost = count_onnx(path)
    assert cost.macs is None and cost.parameters == 6 * 4 * 3 * 3


def test_an_open_map_is_counted_at_the_size_that_is_asked_for(tmp_path: Path) -> None:
    """Given open axes and a shape → one image's cost there; the graph has its own shapes again."""
    path = onnx_model(tmp_path / "op.onnx", "Conv", {"w": (6, 4, 3, 3)}, ["N", 4, "H", "W"], ["N", 6, "h", "w"])
    assert count_onnx(path, {"x": (2, 4, 9, 7)}).macs == 7 * 5 * 6 * 4 * 9
    graph = gs.import_onnx(onnx.load(path))
    count_onnx(graph, {"x": (1, 4, 5, 5)})
    assert (graph.inputs[0].shape, graph.outputs[0].shape) == (["N", 4, "H", "W"], ["N", 6, "h", "w"])
    assert [t.name for t in graph.outputs] == ["y"]
