"""Small bundles to serve."""

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from plainconv.exporter.bundle import TensorSpec, write_bundle


def make_bundle(target: Path, batch: int | str = "N", scale: float = 1.0, slow: int = 0, force: bool = False) -> Path:
    """A bundle that gives the sums of rows: x [batch, 4] to y [batch, 2], scaled; `slow` is work beside it."""
    text = f"(float[{batch},4] x) => (float[{batch},2] y) {{ a = MatMul(x, w) y = Identity(a) }}"
    if slow:
        text = (
            f"(float[{batch},4] x) => (float[{batch},2] y) {{ a = MatMul(x, w) "
            + "".join(f"b{i + 1} = MatMul(b{i}, v) " for i in range(slow))
            + f"z = ReduceMean<keepdims=0>(b{slow}) zero = Mul(z, none) y = Add(a, zero) }}"
        )
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> g {text}')
    w = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], np.float32) * np.float32(scale)
    arrays = {"w": w}
    if slow:
        arrays |= {"v": np.eye(512, dtype=np.float32), "b0": np.ones((512, 512), np.float32)}
        arrays["none"] = np.array(0, np.float32)
    model.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in arrays.items())
    with write_bundle(target, force=force) as draft:
        draft.manifest.name = target.name
        draft.manifest.inputs = (TensorSpec("x", "float32", (batch, 4)),)
        draft.manifest.outputs = (TensorSpec("y", "float32", (batch, 2)),)
        onnx.save(model, draft.path("model.onnx"))
        draft.link("checkpoint", sha256="c" * 64)
        draft.link_onnx()
    return target
