"""Given a graph as text, a pass → the graph it leaves, checked for all that a pass promises."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx.reference import ReferenceEvaluator

from plainconv.exporter.onnx_file.file import check, graph_from_proto, infer_shapes, read, write
from plainconv.exporter.surgery import Pass
from plainconv.exporter.surgery.edit import forget_exact, name_nodes

Weights = Mapping[str, Any]
"""Shapes, to be filled with seeded normal numbers, or arrays."""
SEEDS = (0, 1, 2)
BATCH = 2  # for a symbolic axis


def filled(weights: Weights) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    arrays = {}
    for name, value in weights.items():
        if isinstance(value, np.ndarray):
            arrays[name] = value
        else:
            positive = name.endswith("var")
            arrays[name] = rng.uniform(0.5, 2, value) if positive else rng.standard_normal(value)
    return arrays


def parsed(text: str, weights: Weights, opset: int = 20) -> onnx.ModelProto:
    """`text` in ONNX's text syntax, a graph in double."""
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]> g {text}')
    model.graph.initializer.extend(onnx.numpy_helper.from_array(a, name) for name, a in filled(weights).items())
    return model


def inputs_of(model: onnx.ModelProto, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    feeds = {}
    for tensor in model.graph.input:
        shape = [d.dim_value if d.HasField("dim_value") else BATCH for d in tensor.type.tensor_type.shape.dim]
        feeds[tensor.name] = rng.standard_normal(shape)
    return feeds


def signature(graph: gs.Graph) -> list[Any]:
    return [(t.name, np.dtype(t.dtype), list(t.shape)) for t in (*graph.inputs, *graph.outputs)]


def structure(graph: gs.Graph) -> list[Any]:
    return [(n.op, [t.name for t in n.inputs], [t.name for t in n.outputs], repr(n.attrs)) for n in graph.nodes]


def run(path: Path, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    return ReferenceEvaluator(onnx.load(path)).run(None, feeds)


@pytest.fixture
def check_pass(tmp_path: Path) -> Callable[..., gs.Graph]:
    """(pass, text, result, weights) → the graph left.

    Asserts that the ops left are `result` (in any order; a mapping counts them); that inputs and outputs keep names,
    types and shapes; that outputs are equal in float64 for three seeds; that ONNX's checker passes; and that a second
    run changes nothing. `result=None` means that the pass must decline.
    """

    def check_one(
        each: Pass,
        text: str,
        result: Sequence[str] | Mapping[str, int] | None,
        weights: Weights | None = None,
        *,
        opset: int = 20,
        tolerance: float = 1e-11,
    ) -> gs.Graph:
        model = parsed(text, weights or {}, opset)
        graph = graph_from_proto(model)
        infer_shapes(graph)
        write(graph, tmp_path / "given.onnx")
        check(tmp_path / "given.onnx")
        graph, _ = read(tmp_path / "given.onnx")
        name_nodes(graph)
        infer_shapes(graph)
        graph.cleanup().toposort()
        before, ends = structure(graph), signature(graph)

        count = each.apply(graph)
        graph.cleanup().toposort()
        infer_shapes(graph)

        assert signature(graph) == ends
        if result is None:
            assert count == 0
            assert structure(graph) == before
            return graph
        assert count > 0
        assert Counter(node.op for node in graph.nodes) == Counter(result)
        write(graph, tmp_path / "result.onnx")
        onnx.checker.check_model(str(tmp_path / "result.onnx"), full_check=True)
        for seed in SEEDS:
            feeds = inputs_of(model, seed)
            wanted, found = (run(tmp_path / name, feeds) for name in ("given.onnx", "result.onnx"))
            for a, b in zip(wanted, found, strict=True):
                assert a.shape == b.shape
                np.testing.assert_allclose(b, a, rtol=tolerance, atol=tolerance * max(1.0, float(np.abs(a).max())))
        left = structure(graph)
        assert each.apply(graph) == 0
        graph.cleanup().toposort()
        assert structure(graph) == left
        forget_exact(graph)
        return graph

    return check_one
