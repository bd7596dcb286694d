from collections import Counter

import numpy as np
import onnx
import pytest

from plainconv.exporter.onnx_file.file import graph_from_proto
from plainconv.exporter.surgery import run_passes
from plainconv.exporter.surgery.passes.split_concat_conv import SplitConcatConv

INTERLEAVED = np.arange(16).reshape(2, 8).T.ravel()
GIVEN = """(double[N,8,8,8] x, double[N,8,8,8] z) => (double[N,4,4,4] y) {{
    c = Concat<axis=1>(x, z) {shuffle} y = Conv<pads=[1,1,1,1],strides=[2,2],group={groups}>({source}, w, b) }}"""
SHUFFLE = "s = Gather<axis=1>(c, i)"


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_conv_of_an_interleaved_concat_is_a_sum_of_convs(check_pass, groups: int) -> None:
    weights = {"i": INTERLEAVED, "w": (4, 16 // groups, 3, 3), "b": (4,)}
    given = GIVEN.format(shuffle=SHUFFLE, source="s", groups=groups)
    graph = check_pass(SplitConcatConv(), given, {"Conv": 2, "Add": 1}, weights)
    assert {t.name for node in graph.nodes if node.op == "Conv" for t in node.inputs[:1]} == {"x", "z"}
    assert sum(len(node.inputs) == 3 for node in graph.nodes if node.op == "Conv") == 1  # one of them has the bias


@pytest.mark.parametrize(
    ("given", "width"),
    [
        # a group reads one source alone: a plain concat before a grouped conv
        (GIVEN.format(shuffle="", source="c", groups=2), 8),
        # a plain concat is one node, what would come for it two
        (GIVEN.format(shuffle="", source="c", groups=1), 16),
        # the sums would move more than the concat does
        ("""(double[1,8,8,8] x, double[1,8,8,8] z) => (double[1,64,8,8] y)
            { c = Concat<axis=1>(x, z) y = Conv<pads=[1,1,1,1]>(c, w, b) }""", 16),
        # the concat is read elsewhere
        ("""(double[1,8,8,8] x, double[1,8,8,8] z) => (double[1,4,4,4] y, double[1,16,8,8] c)
            { c = Concat<axis=1>(x, z) y = Conv<pads=[1,1,1,1],strides=[2,2]>(c, w, b) }""", 16),
    ],
)  # fmt: skip
def test_where_it_does_not_fit_or_does_not_pay_it_stays(check_pass, given: str, width: int) -> None:
    outputs = 64 if "64" in given else 4
    check_pass(SplitConcatConv(), given, None, {"w": (outputs, width, 3, 3), "b": (outputs,)})


def test_a_map_of_an_open_size_is_judged_at_a_usual_one() -> None:
    """Given the interleaved concat of open maps → the same sum of convs as at a fixed size, and no layout op."""
    given = GIVEN.format(shuffle=SHUFFLE, source="s", groups=2).replace("8,8,8]", "8,H,W]").replace("4,4,4]", "4,h,w]")
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> g {given.replace("double", "float")}')
    weights = {"i": INTERLEAVED, "w": np.ones((4, 8, 3, 3), np.float32), "b": np.ones(4, np.float32)}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
    graph = graph_from_proto(model)
    run_passes(graph)
    assert Counter(node.op for node in graph.nodes) == {"Conv": 2, "Add": 1}
    assert not any("usual_shape" in vars(tensor) for tensor in graph.tensors().values())
