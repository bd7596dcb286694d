from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest

from plainconv.exporter.onnx_file.file import graph_from_proto, infer_shapes
from plainconv.exporter.surgery.cost import (
    ELEMENTS_PER_KERNEL,
    MACS_PER_ELEMENT,
    Work,
    elements,
    forget_usual_sizes,
    kernels_of,
    macs_of,
    suppose_usual_sizes,
    work_of,
)

W = {"w": (4, 4, 3, 3), "b": (4,)}
CONV = "Conv<pads=[1,1,1,1]>"
MAP = 4 * 8 * 8
"""Elements of x and of what a conv makes of it."""


def graph_of(text: str, weights: Mapping[str, tuple[int, ...]] = W) -> Any:
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> g {text}')
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.ones(shape, np.float32), name)
        for name, shape in weights.items()
        if f" {name}," in text or f" {name})" in text
    )
    graph = graph_from_proto(model)
    graph.toposort()
    infer_shapes(graph)
    return graph


def fused(text: str, weights: Mapping[str, tuple[int, ...]] = W) -> list[list[str]]:
    return [[node.op for node in kernel.nodes] for kernel in kernels_of(graph_of(text, weights))]


NORM = {k: (4,) for k in ("gamma", "beta", "mean", "var")}


@pytest.mark.parametrize(
    ("body", "kernels"),
    [
        (f"c = {CONV}(x, w, b) y = Relu(c)", [["Conv", "Relu"]]),
        (f"c = {CONV}(x, w, b) s = Add(c, z) y = Relu(s)", [["Conv", "Add", "Relu"]]),
        (f"c = {CONV}(x, w, b) g = Sigmoid(c) y = Mul(c, g)", [["Conv", "Sigmoid", "Mul"]]),
        # a product with another map is a kernel of its own, and all that follows it
        (f"c = {CONV}(x, w, b) s = Mul(c, z) y = Relu(s)", [["Conv"], ["Mul", "Relu"]]),
        # of two convolutions one takes the sum up
        (f"c = {CONV}(x, w, b) d = {CONV}(z, w, b) s = Add(c, d) y = Relu(s)", [["Conv"], ["Conv", "Add", "Relu"]]),
        # what two kernels read must be written
        (f"r = Relu(x) c = {CONV}(r, w, b) y = Add(c, r)", [["Relu"], ["Conv", "Add"]]),
        ("n = BatchNormalization(x, gamma, beta, mean, var) m = Mul(n, z) y = Relu(m)",
         [["BatchNormalization", "Mul", "Relu"]]),
        ("m = MaxPool<kernel_shape=[3,3],pads=[1,1,1,1]>(x) y = Relu(m)", [["MaxPool"], ["Relu"]]),
        ("i = Identity(x) y = Relu(i)", [["Relu"]]),
    ],
)  # fmt: skip
def test_ops_run_in_the_kernels_that_the_runtime_makes(body: str, kernels: list[list[str]]) -> None:
    text = f"(float[N,4,8,8] x, float[N,4,8,8] z) => (float[N,4,8,8] y) {{ {body} }}"
    assert sorted(fused(text, W | NORM)) == sorted(kernels)


def test_a_gate_by_hand() -> None:
    """conv: x → c; pool: x → p; gate conv + sigmoid: p → g; product: c, g → y."""
    text = f"""(float[1,4,8,8] x) => (float[1,4,8,8] y)
        {{ c = {CONV}(x, w, b) p = GlobalAveragePool(x) q = Conv(p, v) g = Sigmoid(q) y = Mul(c, g) }}"""
    work = work_of(graph_of(text, W | {"v": (4, 4, 1, 1)}))
    assert work.kernels == 4
    assert work.passes == 2 + 1 + 0 + 2
    assert work.moved == 2 * MAP + (MAP + 4) + (4 + 4) + (MAP + 4 + MAP)
    assert work.macs == MAP * 4 * 9 + 4 * 4
    assert work.parameters == 4 * 4 * 9 + 4 + 16
    assert work.depth == 3  # pool, gate, product
    assert work.price == work.moved + work.macs / MACS_PER_ELEMENT + 4 * ELEMENTS_PER_KERNEL


def test_a_concat_that_is_written_in_place_costs_nothing_and_one_of_an_input_is_a_copy() -> None:
    ends = "(float[1,4,8,8] x) => (float[1,4,8,8] y)"
    free = f"{ends} {{ r = Relu(x) t = Tanh(x) c = Concat<axis=1>(r, t) y = {CONV}(c, u) }}"
    copied = f"{ends} {{ t = Tanh(x) c = Concat<axis=1>(x, t) y = {CONV}(c, u) }}"
    weights = {"u": (4, 8, 3, 3)}
    assert work_of(graph_of(free, weights)).moved == 2 * MAP + 2 * MAP + (2 * MAP + MAP)
    assert work_of(graph_of(copied, weights)).moved == 2 * MAP + (2 * MAP + 2 * MAP) + (2 * MAP + MAP)


def test_sizes_that_are_not_known_are_counted_as_such() -> None:
    text = "(float[N,4,H,W] x) => (float[N,4,H,W] y) { y = Relu(x) }"
    assert work_of(graph_of(text)) == Work(kernels=1, depth=1, unknown=2)


def test_what_works_on_shapes_is_free() -> None:
    text = """(float[N,4,8,8] x) => (float[N,M] y)
        { s = Shape<end=1>(x) m = Constant<value_ints=[-1]>() r = Concat<axis=0>(s, m) f = Reshape(x, r)
          y = Relu(f) }"""
    model = graph_of(text, {})
    assert sum(len(kernel.nodes) for kernel in kernels_of(model)) == 1


def test_value_of_an_open_size_counts_as_what_it_is_supposed_to_be() -> None:
    """Given open axes → nothing is known; with usual sizes, their cost for one image; once forgotten, nothing again."""
    graph = graph_of(f"(float[N,4,H,W] x) => (float[N,4,h,w] y) {{ y = {CONV}(x, w, b) }}")
    conv, y = graph.nodes[0], graph.outputs[0]
    assert (elements(y), macs_of(conv), work_of(graph).macs) == (None, None, 0)
    suppose_usual_sizes(graph, {"x": [2, 4, 8, 8], "y": [2, 4, 8, 8]})
    assert (elements(y), macs_of(conv)) == (MAP, MAP * 4 * 9)
    forget_usual_sizes(graph)
    assert (elements(y), macs_of(conv)) == (None, None)
