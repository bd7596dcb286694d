from pathlib import Path

import numpy as np
import onnx
import pytest

from plainconv.exporter.errors import ExportError
from plainconv.exporter.parity import run_onnx


def write(path: Path, op: str) -> Path:
    info = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2, 3]) for name in ("x", "y")]
    graph = onnx.helper.make_graph([onnx.helper.make_node(op, ["x"], ["y"])], "g", info[:1], info[1:])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10), path)
    return path


@pytest.mark.parametrize("optimized", [True, False])
def test_a_file_runs_on_arrays(tmp_path: Path, optimized: bool) -> None:
    x = np.array([[1, -2, 3], [-4, 5, -6]], np.float32)
    (y,) = run_onnx(write(tmp_path / "g.onnx", "Relu"), optimized=optimized)(x)
    assert np.array_equal(y, np.maximum(x, 0))


def test_a_file_that_onnx_runtime_refuses_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"g\.onnx: ONNX Runtime refuses it") as raised:
        run_onnx(write(tmp_path / "g.onnx", "NoSuchOp"))
    assert "\n" not in str(raised.value)
