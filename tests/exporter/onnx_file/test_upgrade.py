"""Old files as surgery reads them: the same function, held to NumPy where nothing else runs them any more."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper, parser

from plainconv.exporter.errors import ExportError
from plainconv.exporter.onnx_file.file import leaves_order_open
from plainconv.exporter.surgery import simplify
from plainconv.exporter.surgery.compare import compare

RNG = np.random.default_rng(0)
X = RNG.standard_normal((1, 4, 5, 5)).astype(np.float32)
W = RNG.standard_normal((4, 4, 1, 1)).astype(np.float32)


def given(text: str, opset: int, folder: Path) -> Path:
    """A file as they were written then: every initializer is an input as well."""
    model = parser.parse_model(f'<ir_version: 3, opset_import: ["" : {opset}]> g {text}')
    model.graph.initializer.append(numpy_helper.from_array(W, "w"))
    model.graph.input.append(helper.make_tensor_value_info("w", 1, W.shape))
    path = folder / "given.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def ran(path: Path) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {"x": X})
    return np.asarray(output)


def conv() -> np.ndarray:
    return np.einsum("nihw,oi->nohw", X, W[:, :, 0, 0])


@pytest.mark.parametrize("opset", [1, 4])
def test_a_shape_that_is_an_attribute_and_a_sum_behind_it(tmp_path: Path, opset: int) -> None:
    text = "(float[1,4,5,5] x) => (float[1,100] y) { a = Conv(x, w) r = Reshape<shape=[1,100]>(a) y = Add(r, r) }"
    target = tmp_path / "plain.onnx"
    report = simplify(given(text, opset, tmp_path), target)
    assert report.after == {"Add": 1, "Conv": 1, "Flatten": 1}
    np.testing.assert_allclose(ran(target), 2 * conv().reshape(1, 100), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("opset", [7, 8])
def test_an_integer_constant_before_opset_9_stops_nothing(tmp_path: Path, opset: int) -> None:
    text = """(float[1,4,5,5] x) => (float[1,100] y) {
        s = Constant<value = int64[2] {1, 100}>() a = Conv(x, w) i = Identity(a) y = Reshape(i, s) }"""
    source, target = given(text, opset, tmp_path), tmp_path / "plain.onnx"
    report = simplify(source, target)
    assert report.after == {"Conv": 1, "Flatten": 1}
    np.testing.assert_allclose(ran(target), ran(source), rtol=1e-5, atol=1e-5)
    assert compare(source, target).status == "holds"


def test_a_constant_that_is_an_output_stays(tmp_path: Path) -> None:
    text = """(float[1,4,5,5] x) => (float[1,4,5,5] y, int64[2] s) {
        s = Constant<value = int64[2] {1, 100}>() i = Identity(x) y = Conv(i, w) }"""
    simplify(given(text, 8, tmp_path), tmp_path / "plain.onnx")
    assert [output.name for output in onnx.load(tmp_path / "plain.onnx").graph.output] == ["y", "s"]


IN_ANY_ORDER = """(float[1,4,5,5] x) => (float[1,4,5,5] y) {
    a = Conv(x, w) m = ReduceMax<keepdims=0>(a) zero = Constant<value_float = 0.0>() bright = Greater(m, zero)
    y = If(bright)<
        then_branch = then () => (float[1,4,5,5] t) { b = Relu(a) t = Sigmoid(b) },
        else_branch = other () => (float[1,4,5,5] e) { c = Neg(a) e = Tanh(c) }> }"""


def test_nodes_in_any_order(tmp_path: Path) -> None:
    """Given each node before those that it reads from, branches too, as a converter to float16 leaves them -> taken."""
    source = given(IN_ANY_ORDER, 17, tmp_path)
    wanted, model = ran(source), onnx.load(source)
    for graph in (*(a.g for node in model.graph.node for a in node.attribute if a.g.node), model.graph):
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in reversed(graph.node)]
        del graph.node[:]
        graph.node.extend(nodes)
    source.write_bytes(model.SerializeToString())
    target = tmp_path / "plain.onnx"
    simplify(source, target)
    onnx.checker.check_model(str(target), full_check=True)
    np.testing.assert_allclose(ran(target), wanted, rtol=1e-5, atol=1e-6)


def test_a_cycle_is_refused(tmp_path: Path) -> None:
    text = "(float[1,4,5,5] x) => (float[1,4,5,5] y) { a = Add(x, b) b = Conv(a, w) y = Relu(b) }"
    with pytest.raises(ExportError, match="topologically sorted"):
        simplify(given(text, 17, tmp_path), tmp_path / "plain.onnx")


LISTS = """<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
g (float[N,64] x) => (float[N,8] v, int64[N,8] i, float[N,8] u) {
  s = Mul (x, two) t = Identity (s) v, i = TopK <axis=1, sorted=0> (t, k) u = own.least (x, k)
}
<domain: "own", opset_import: ["" : 17]>
least (x, k) => (v) { v, i = TopK <axis=1, largest=0, sorted=0> (x, k) }
"""


@pytest.mark.parametrize("factor", [2.0, -2.0, 2.01])
def test_a_list_in_any_order_comes_sorted_and_is_judged_as_such(factor: float, tmp_path: Path) -> None:
    """Given TopK that need not sort, in a function too -> what is read does; other weights or numbers are refused."""
    paths = []
    for each in (2.0, factor):
        model = parser.parse_model(LISTS)
        model.graph.initializer.append(numpy_helper.from_array(np.float32(each), "two"))
        model.graph.initializer.append(numpy_helper.from_array(np.array([8]), "k"))
        paths.append(tmp_path / f"{each}.onnx")
        onnx.save(model, paths[-1])
    assert leaves_order_open(paths[0])
    plain = tmp_path / "plain.onnx"
    simplify(paths[1], plain)
    assert not leaves_order_open(plain)
    assert compare(paths[0], plain).failed == (factor != 2.0)
