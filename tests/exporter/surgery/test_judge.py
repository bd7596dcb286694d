from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from plainconv.exporter.onnx_file.file import all_tensors, graph_from_proto
from plainconv.exporter.surgery import PASSES, run_passes
from plainconv.exporter.surgery.judge import copied
from plainconv.exporter.surgery.passes.relu_past_maxpool import ReluPastMaxPool

NORM = {name: np.linspace(0.5, 1.5, 8) for name in ("gamma", "beta", "mean", "var")}
SHUFFLE = "a = Reshape({}, s) b = Transpose<perm=[0,2,1,3,4]>(a) c = Reshape(b, e)"
SHAPES = {"s": np.array([-1, 2, 4, 8, 8]), "e": np.array([-1, 8, 8, 8])}


def graph_of(body: str, weights: dict[str, np.ndarray]):
    text = f"(double[N,8,8,8] x) => (double[N,C,Y,X] y) {{ {body} }}"
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]> g {text}')
    model.graph.initializer.extend(numpy_helper.from_array(w, name) for name, w in weights.items())
    return graph_from_proto(model)


@pytest.mark.parametrize(
    "maker", ["p = Identity(x)", "p = MaxPool<kernel_shape=[1,1],strides=[1,1],pads=[0,0,0,0]>(x)"]
)
def test_a_shuffle_that_nothing_takes_up_costs_no_more_than_before(maker: str) -> None:
    body = (
        f"{maker} {SHUFFLE.format('p')} n = BatchNormalization(c, gamma, beta, mean, var) g = Sigmoid(n) y = Mul(n, g)"
    )
    report = run_passes(graph_of(body, NORM | SHAPES))
    assert report.work_after.passes <= report.work_before.passes
    assert report.work_after.kernels <= report.work_before.kernels
    assert sum(report.after.values()) <= sum(report.before.values())


def test_what_lost_is_undone_and_the_rest_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a pass that makes three nodes of a Relu, beside one that folds a norm → Result the norm alone is folded."""

    def lose(self: ReluPastMaxPool, graph, node) -> bool:
        if node.op != "Relu" or node.name.endswith("twice"):
            return False
        node.name = f"{node.name}_twice"
        y = node.outputs[0]
        inner = [type(y)(f"{y.name}_{i}", y.dtype, y.shape) for i in range(2)]
        node.outputs = inner[:1]
        for i, (u, v) in enumerate(zip(inner, [*inner[1:], y], strict=True)):
            graph.nodes.append(type(node)("Relu", f"{i}_twice", inputs=[u], outputs=[v]))
        return True

    monkeypatch.setattr(ReluPastMaxPool, "rewrite", lose)
    rng = np.random.default_rng(0)
    body = "c = Conv(x, w) n = BatchNormalization(c, gamma, beta, mean, var) r = Relu(n) m = Neg(r) y = Sin(m)"
    graph = graph_of(body, NORM | {"w": rng.standard_normal((8, 8, 3, 3))})
    report = run_passes(graph)
    assert Counter(node.op for node in graph.nodes) == {"Conv": 1, "Relu": 1, "Neg": 1, "Sin": 1}
    assert "relu-past-maxpool" not in {each.name for each in report.passes}
    assert {each.name for each in report.passes} <= {each.name for each in PASSES}


def test_a_copy_shares_arrays_and_nothing_else() -> None:
    body = "q = SplitToSequence<axis=1>(x) y = ConcatFromSequence<axis=1>(q)"
    graph = graph_of(body, {})
    copy = copied(graph)
    assert [n.op for n in copy.nodes] == [n.op for n in graph.nodes]
    assert not {id(t) for t in all_tensors(copy).values()} & {id(t) for t in all_tensors(graph).values()}
    assert getattr(copy.tensors()["q"], "type", None) == getattr(graph.tensors()["q"], "type", None)
