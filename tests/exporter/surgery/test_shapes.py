import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from plainconv.exporter.surgery.onnx_ops import CONVS, aten
from plainconv.exporter.surgery.shapes import result_of

SIZE = st.integers(1, 6)


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def as_torch_has_it(target: Any, args: tuple[Any, ...]) -> Tensor | None:
    try:
        result: Tensor = target(*args)
    except Exception:
        return None
    return result


def check(target: Any, *args: Any) -> Tensor | None:
    """Given a call → what PyTorch makes of it, or nothing said."""
    found, wanted = result_of(target, args), as_torch_has_it(target, args)
    if found is not None:
        assert wanted is not None
        assert (found.shape, found.dtype, found.device) == (wanted.shape, wanted.dtype, wanted.device)
    return found


@settings(max_examples=examples(150), deadline=None)
@given(data=st.data(), rank=st.integers(1, 3), groups=st.integers(1, 3), bias=st.sampled_from((None, "own", "other")))
def test_a_convolution(data: st.DataObject, rank: int, groups: int, bias: str | None) -> None:
    def each(low: int, high: int) -> list[int]:
        return data.draw(st.lists(st.integers(low, high), min_size=rank, max_size=rank))

    outs, width = data.draw(SIZE), data.draw(SIZE)
    ins = data.draw(st.sampled_from((width * groups, width)))
    x, w = meta(data.draw(SIZE), ins, *each(1, 9)), meta(outs, width, *each(1, 4))
    b = None if bias is None else meta(outs + (bias == "other"))
    check(CONVS[rank], x, w, b, each(1, 3), each(0, 2), each(1, 2), groups)


@settings(max_examples=examples(100), deadline=None)
@given(shapes=st.lists(st.lists(st.integers(1, 3), max_size=4), min_size=2, max_size=2), half=st.booleans())
def test_sums_and_products(shapes: list[list[int]], half: bool) -> None:
    x, y = meta(*shapes[0]), meta(*shapes[1], dtype=torch.float16 if half else torch.float32)
    for target in (aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor):
        check(target, x, y)
    assert check(aten.mul.Tensor, x, 2.0) is not None
    assert check(aten.neg.default, x) is not None


def test_usual_calls_are_told() -> None:
    x = meta(2, 4, 8, 8)
    norm = check(aten.batch_norm.default, x, *[meta(4)] * 4, False, 0.0, 1e-5, False)
    conv = check(aten.conv2d.default, x, meta(6, 2, 3, 3), meta(6), [2, 1], [1, 0], [1, 1], 2)
    assert norm is not None and conv is not None and conv.shape == (2, 6, 4, 6)


@pytest.mark.parametrize("command", ["simplify", "export"])
def test_a_file_needs_no_compiler_of_pytorch(tmp_path: Path, command: str) -> None:
    """Given RepVGG's block → one Conv, checked in float64, and nothing of torch._dynamo or torch.onnx is loaded."""
    rng = np.random.default_rng(0)
    weights = [numpy_helper.from_array(rng.standard_normal((4, 4, k, k)).astype(np.float32), f"w{k}") for k in (3, 1)]
    nodes = [
        helper.make_node("Conv", ["x", "w3"], ["a"], pads=[1] * 4),
        helper.make_node("Conv", ["x", "w1"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["c"]),
        helper.make_node("Add", ["c", "x"], ["d"]),
        helper.make_node("Relu", ["d"], ["y"]),
    ]
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 4, 9, 9])] for name in "xy"]
    model = helper.make_model(
        helper.make_graph(nodes, "g", *ends, weights), opset_imports=[helper.make_opsetid("", 18)], ir_version=9
    )
    onnx.save(model, tmp_path / "in.onnx")
    code = (
        "import sys; from plainconv.exporter.cli.main import main; code = main(sys.argv[1:]); "
        "print(*{'torch', 'torch._dynamo', 'torch.onnx._internal.exporter'} & {*sys.modules}); sys.exit(code)"
    )
    out = {"simplify": tmp_path / "out.onnx", "export": tmp_path / "bundle"}[command]
    shape = ["--input-shape", "1,4,9,9"] if command == "export" else []
    words = [command, str(tmp_path / "in.onnx"), "-o", str(out), "--quiet", *shape]
    run = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert ("holds" in run.stdout or "held" in run.stdout) and run.stdout.split()[-1] == "torch"
    plain = onnx.load(out / "model.onnx" if out.is_dir() else out)
    assert [node.op_type for node in plain.graph.node] == ["Conv", "Relu"]
