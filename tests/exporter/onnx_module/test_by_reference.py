"""Nodes that onnx's reference evaluator evaluates: what they read, float64 within, and lists of tensors."""

import onnx
import pytest
import torch
from onnx import parser

from plainconv.exporter.onnx_module.by_reference import Evaluated, names_read
from plainconv.exporter.parity.widen import widened

BRANCH = """g (float[2] x, float[2] w, bool c) => (float[2] y) {
    y = If(c) <then_branch = a () => (float[2] p) { t = Constant<value_float=0.1>() u = Mul(x, t) p = Add(u, w) },
               else_branch = b () => (float[2] q) { k = Cast<to=10>(x) q = Cast<to=1>(k) }> }"""


def node_of(text: str) -> tuple[onnx.NodeProto, onnx.ModelProto]:
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
    return model.graph.node[0], model


def evaluated(text: str) -> Evaluated:
    node, model = node_of(text)
    return Evaluated(node, model.opset_import, model.ir_version)


def test_what_graphs_within_read_from_outside():
    assert names_read(node_of(BRANCH)[0]) == ("c", "x", "w")


@pytest.mark.parametrize("holds", [True, False])
def test_constants_and_casts_within_are_as_wide_as_what_is_around(holds):
    """Given 0.1 and a cast to half precision in a branch -> rounded in float32, not in float64."""
    run = evaluated(BRANCH)
    x, w, c = torch.tensor([1.0, 1.0 + 2**-20]), torch.zeros(2), torch.tensor(holds)
    (narrow,) = run({"x": x, "w": w, "c": c})
    with widened():
        (wide,) = run({"x": x.double(), "w": w, "c": c})
    exact = x.double() * 0.1 if holds else x.double()
    assert (narrow.dtype, wide.dtype) == (torch.float32, torch.float64)
    assert float((wide - exact).abs().max()) < 1e-8 * (1 if holds else 1e-9) + 2e-9 * holds
    assert float((narrow.double() - exact).abs().max()) > 1e-10


def test_lists_of_tensors():
    split = evaluated("g (float[4] x) => (seq(float[2]) y) { y = SplitToSequence(x) }")
    (parts,) = split({"x": torch.arange(4.0)})
    assert [part.tolist() for part in parts] == [[0.0], [1.0], [2.0], [3.0]]
    joined = evaluated("g (seq(float[1]) y) => (float[4] z) { z = ConcatFromSequence<axis=0>(y) }")
    assert joined({"y": parts})[0].tolist() == [0.0, 1.0, 2.0, 3.0]


def test_what_the_evaluator_does_not_know():
    with pytest.raises(Exception, match="NoSuchOp"):
        evaluated("g (float[4] x) => (float[4] y) { y = NoSuchOp(x) }")
    with pytest.raises(RuntimeError, match="onnx's reference evaluator: "):
        evaluated("g (float[2] x) => (float[2] y) { y = Reshape(x, x) }")({"x": torch.tensor([3.0, 5.0])})
