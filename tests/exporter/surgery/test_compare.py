from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from plainconv.exporter.surgery import simplify
from plainconv.exporter.surgery.compare import compare


def save(path: Path, text: str, weights: dict[str, np.ndarray] | None = None) -> Path:
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> g {text}')
    model.graph.initializer.extend(numpy_helper.from_array(w, name) for name, w in (weights or {}).items())
    onnx.save(model, path)
    return path


GIVEN = "(float[N,3,H,W] x) => (float[N,3,H,W] y) { y = Mul(x, k) }"
K = np.linspace(1, 2, 3, dtype=np.float32).reshape(3, 1, 1)


def test_the_same_function_holds_at_open_sizes_too(tmp_path: Path) -> None:
    a, b = (save(tmp_path / f"{i}.onnx", GIVEN, {"k": K * np.float32(1 + i * 1e-7)}) for i in range(2))
    check = compare(a, b)
    assert check.status == "holds"
    assert check.error is not None and check.tolerance is not None
    assert check.error <= check.tolerance < 1e-4


@pytest.mark.parametrize("factor", [1.001, np.nan, np.inf])
def test_another_function_differs(tmp_path: Path, factor: float) -> None:
    a, b = (save(tmp_path / f"{i}.onnx", GIVEN, {"k": K * np.float32(factor if i else 1)}) for i in range(2))
    assert compare(a, b).failed
    assert compare(b, a).failed


def test_a_difference_at_the_border_alone_is_seen(tmp_path: Path) -> None:
    w = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    text = (
        "(float[1,3,16,16] x) => (float[1,4,16,16] y) {{ s = Add(x, k) c = Conv<pads=[1,1,1,1]>({}, w) y = Add(c, b) }}"
    )
    bias = np.einsum("oihw,i->o", w, K.ravel()).reshape(4, 1, 1).astype(np.float32)
    a = save(tmp_path / "a.onnx", text.format("s"), {"k": K, "w": w, "b": 0 * bias})
    b = save(tmp_path / "b.onnx", text.format("x"), {"k": K, "w": w, "b": bias})
    assert compare(a, b).failed


def test_the_error_that_the_file_itself_has_is_allowed_and_no_more(tmp_path: Path) -> None:
    """Given a sum behind which much is taken away → another order of it holds; a part in a thousand more does not."""
    text = "(float[N,64] x) => (float[N,2] y) { s = Gemm(x, w) y = Sub(s, m) }"
    rng = np.random.default_rng(0)
    w, m, order = rng.standard_normal((64, 2)).astype(np.float32), np.full(2, 1000, np.float32), rng.permutation(64)
    a = save(tmp_path / "a.onnx", text, {"w": w, "m": m})
    same = "(float[N,64] x) => (float[N,2] y) { g = Gather<axis=1>(x, i) s = Gemm(g, w) y = Sub(s, m) }"
    b, c = (
        save(tmp_path / f"{name}.onnx", same, {"i": order, "w": w[order] * np.float32(factor), "m": m})
        for name, factor in (("b", 1), ("c", 1.001))
    )
    assert compare(a, b).status == "holds"
    assert compare(a, c).failed


def test_classes_must_agree_nearly_always(tmp_path: Path) -> None:
    text = "(float[50,9] x) => (int64[50,1] y) {{ n = {}(x) y = ArgMax<axis=1>(n) }}"
    a, b, c = (save(tmp_path / f"{op}.onnx", text.format(op)) for op in ("Identity", "Exp", "Neg"))
    assert compare(a, b).status == "holds"
    assert compare(a, c).failed


def test_what_cannot_run_is_said_not_to_be_compared(tmp_path: Path) -> None:
    odd = save(tmp_path / "odd.onnx", "(float[2] x) => (float[2] y) { y = mine.Odd(x) }")
    assert compare(odd, odd).status.startswith("not compared")
    text = save(tmp_path / "text.onnx", "(string[2] x) => (string[2] y) { y = Identity(x) }")
    assert compare(text, text).status.startswith("not compared")


def test_where_onnx_runtime_refuses_a_file_the_reference_evaluator_compares(tmp_path: Path) -> None:
    """It has no convolution in double."""
    text = "(double[N,3,8,8] x) => (double[N,3,8,8] y) {{ m = Mul(x, k) y = {}<pads=[1,1,1,1]>(m, w) }}"
    weights = {"k": K.astype(np.float64), "w": np.random.default_rng(0).standard_normal((3, 3, 3, 3))}
    a = save(tmp_path / "a.onnx", text.format("Conv"), weights)
    b = save(tmp_path / "b.onnx", text.format("Conv"), weights | {"k": weights["k"] * (1 + 1e-13)})
    c = save(tmp_path / "c.onnx", text.format("Conv"), weights | {"k": weights["k"] * 1.001})
    assert (compare(a, b).status, compare(a, b).engine) == ("holds", "the reference evaluator")
    assert compare(a, c).failed


def test_a_network_that_magnifies_rounding_is_allowed_what_its_input_s_own_rounding_does(tmp_path: Path) -> None:
    """y = sin(300·xW): another order of the sum moves the last digit of xW, and the third of y."""
    text = "(float[4,64] x) => (float[4,64] y) { a = MatMul(x, w) b = Mul(a, k) y = Sin(b) }"
    w = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    k = np.float32(300)
    order = np.random.default_rng(1).permutation(64)
    a = save(tmp_path / "a.onnx", text, {"w": w, "k": k})
    swapped = text.replace("a = MatMul(x, w)", "p = Gather<axis=1>(x, i) a = MatMul(p, w)")
    b = save(tmp_path / "b.onnx", swapped, {"w": w[order], "k": k, "i": order})
    c = save(tmp_path / "c.onnx", text, {"w": w, "k": np.float32(300.1)})
    check = compare(a, b)
    assert check.status == "holds"
    assert check.error is not None
    assert check.error > 1e-4
    assert compare(a, c).failed


@pytest.mark.parametrize("batch", [0, 1 << 40, 1 << 62])
def test_an_input_that_holds_nothing_or_too_much_is_said_not_to_be_compared(tmp_path: Path, batch: int) -> None:
    text = f"(float[{batch},3,8,8] x) => (float[{batch},3,8,8] y) {{ c = Conv(x, w) y = Identity(c) }}"
    source = save(tmp_path / "given.onnx", text, {"w": np.ones((3, 3, 1, 1), np.float32)})
    report = simplify(source, tmp_path / "plain.onnx")
    assert report.after == {"Conv": 1}
    check = compare(source, tmp_path / "plain.onnx")
    assert check.is_open
    assert "the input x has" in check.status
