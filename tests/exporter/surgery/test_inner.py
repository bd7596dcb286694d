"""Graphs within graphs: what is constant in them is folded, what is always taken is taken in; the function stays."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import parser

from plainconv.exporter.onnx_file.held import graphs_of
from plainconv.exporter.surgery import simplify
from plainconv.exporter.surgery.compare import compare

HEAD = '<ir_version: 10, opset_import: ["" : 17]> g '


def simplified(text: str, tmp_path: Path, **weights: np.ndarray) -> Counter[str]:
    """The ops that `simplify` leaves of the model in `text`, those of all graphs; it computes the same."""
    model = parser.parse_model(HEAD + text)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in weights.items())
    source, target = tmp_path / "given.onnx", tmp_path / "plain.onnx"
    onnx.save(model, source)
    report = simplify(source, target)
    onnx.checker.check_model(onnx.load(target), full_check=True)
    check = compare(source, target)
    assert check.status in ("holds", "nothing changed"), check
    ops = Counter(node.op_type for graph in graphs_of(onnx.load(target).graph) for node in graph.node)
    assert report.after == ops
    return ops


def test_a_branch_that_a_shape_decides_is_taken_in(tmp_path: Path) -> None:
    ops = simplified(
        """(float[2,3,1] x) => (float[2,3] y) {
            s = Shape(x) n = Size(s) three = Constant<value = int64 {3}>() c = Equal(n, three)
            z = If (c) <
                then_branch = p () => (float[2,3] a) { i = Constant<value = int64[1] {2}>() a = Squeeze(x, i) },
                else_branch = q () => (float[2,3,1] b) { b = Identity(x) }>
            y = Relu(z) }""",
        tmp_path,
    )
    assert ops == {"Flatten": 1, "Relu": 1}


def test_constants_within_an_open_branch_are_folded(tmp_path: Path) -> None:
    ops = simplified(
        """(float[2,3] x, bool c) => (float[2,3] y) {
            y = If (c) <
                then_branch = p () => (float[2,3] a) {
                    i = Constant<value = float {2.0}>() j = Exp(i) k = Identity(x) l = Mul(k, j) a = Relu(l) },
                else_branch = q () => (float[2,3] b) {
                    i = Constant<value = float {1.0}>() k = Mul(x, i) b = Neg(k) }> }""",
        tmp_path,
    )
    assert ops == {"If": 1, "Mul": 1, "Relu": 1, "Neg": 1}


def test_a_branch_within_a_branch_reads_a_weight_of_the_outermost_graph(tmp_path: Path) -> None:
    ops = simplified(
        """(float[2,3] x, bool c) => (float[2,3] y) {
            e = Exp(w) v = Add(x, e)
            z = If (c) <
                then_branch = p () => (float[2,3] a) {
                    r = Shape(x) m = Size(r) two = Constant<value = int64 {2}>() d = Equal(m, two)
                    a = If (d) <
                        then_branch = p2 () => (float[2,3] a2) { t = Mul(x, e) a2 = Relu(t) },
                        else_branch = q2 () => (float[2,3] b2) { b2 = Neg(x) }> },
                else_branch = q () => (float[2,3] b) { b = Mul(x, e) }>
            y = Add(z, v) }""",
        tmp_path,
        w=np.linspace(0, 1, 3, dtype=np.float32),
    )
    assert ops == {"Add": 2, "If": 1, "Mul": 2, "Relu": 1}


@pytest.mark.parametrize("declared", ["1", "n"])
def test_what_a_loop_carries_may_grow(tmp_path: Path, declared: str) -> None:
    """The body says that its value has one element, as writers do who saw the first turn."""
    ops = simplified(
        f"""(float[1] x) => (float[k] y) {{
            n = Constant<value = int64 {{3}}>() t = Constant<value = bool {{1}}>()
            y = Loop (n, t, x) <body = b (int64 i, bool go, float[{declared}] v) => (bool on, float[m] w) {{
                on = Identity(go) s = Shape(v) f = Cast<to = 1>(s) a = Add(v, f) w = Concat<axis = 0>(a, v) }}> }}""",
        tmp_path,
    )
    assert ops["Shape"] == 1
    assert ops["Concat"] == 1


def test_a_scan_reads_an_initializer_and_keeps_its_turns(tmp_path: Path) -> None:
    ops = simplified(
        """(float[4,3] x, float[3] h) => (float[3] last, float[4,3] y) {
            last, y = Scan <num_scan_inputs = 1, body = b (float[3] s, float[3] e) => (float[3] s1, float[3] o) {
                one = Constant<value = float {1.0}>() k = Mul(e, one) p = Mul(s, w) s1 = Add(p, k) o = Relu(s1) }>
                (h, x) }""",
        tmp_path,
        w=np.linspace(0.5, 1, 3, dtype=np.float32),
    )
    assert ops == {"Scan": 1, "Mul": 1, "Add": 1, "Relu": 1}
