"""Where channels come from, on maps whose sizes are open."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from plainconv.exporter.onnx_file.file import graph_from_proto, infer_shapes
from plainconv.exporter.surgery.channels import channel_map


@pytest.mark.parametrize(
    ("x", "z", "found"),
    [
        ("N,4,H,W", "N,2,H,W", True),
        ("N,4,8,W", "N,2,8,W", True),
        ("N,4,H,W", "N,2,8,W", False),
        ("1,4,8,8", "N,2,8,8", False),
        ("2,4,8", "2,2,8", True),
    ],
)
def test_an_open_axis_beside_a_fixed_one_is_not_followed(x: str, z: str, found: bool) -> None:
    """Given a concatenation → Result its channels, unless one of its inputs has an axis open that another has fixed."""
    ends = f"(float[{x}] x, float[{z}] z) => (float[{x.replace('4', '6', 1)}] y)"
    body = "{ c = Concat<axis=1>(x, z) y = Gather<axis=1>(c, index) }"
    model = parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> g {ends} {body}')
    index = np.array([5, 4, 3, 2, 1, 0])
    model.graph.initializer.append(numpy_helper.from_array(index, "index"))
    onnx.checker.check_model(model)
    graph = graph_from_proto(model)
    infer_shapes(graph)
    result = channel_map(graph, graph.outputs[0])
    assert (result is not None and len(result.sources) == 2) == found
    assert result is None or np.array_equal(result.index, index)
