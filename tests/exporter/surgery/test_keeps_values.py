"""What keeps a shape need not keep values: random chains of ops that do the first compute the same after surgery."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from plainconv.exporter.surgery import simplify

SHAPE = (2, 4, 4, 4)
"""Equal axes, so that a transpose or a reshape across them keeps the shape."""
FLOAT, HALF, INT32, INT8 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT32, TensorProto.INT8
RNG = np.random.default_rng(0)


class Chain:
    """A graph of one value after another, all of `SHAPE`."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[TensorProto] = []
        self.more: list[onnx.ValueInfoProto] = []

    def __call__(self, op: str, *inputs: str, outputs: int = 1, **attrs: Any) -> str:
        made = [f"v{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, made, **attrs))
        return made[0]

    def constant(self, *values: Any, dtype: Any = np.int64) -> str:
        self.weights.append(numpy_helper.from_array(np.array(values, dtype), f"w{len(self.weights)}"))
        return self.weights[-1].name

    def weight(self, *shape: int) -> str:
        values = RNG.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        self.weights.append(numpy_helper.from_array(values.astype(np.float32), f"w{len(self.weights)}"))
        return self.weights[-1].name

    def slice(self, x: str, start: int, end: int, axis: int, step: int) -> str:
        return self("Slice", x, *(self.constant(n) for n in (start, end, axis, step)))

    def resize(self, x: str, scale: float, mode: str, coordinates: str) -> str:
        scales = self.constant(1, 1, scale, scale, dtype=np.float32)
        roi = self.constant(0, 0, 0.2, 0, 1, 1, 1, 0.7, dtype=np.float32)
        return self("Resize", x, roi, scales, mode=mode, coordinate_transformation_mode=coordinates)


def _dropout(c: Chain, x: str) -> str:
    """With its mask, an output of the graph."""
    y = c("Dropout", x, outputs=2)
    c.more.append(helper.make_tensor_value_info(c.nodes[-1].output[1], TensorProto.BOOL, SHAPE))
    return y


def _across(c: Chain, x: str) -> str:
    """The batch and two channels change places."""
    turned = c("Transpose", c("Reshape", x, c.constant(4, 2, 4, 4)), perm=[1, 0, 2, 3])
    return c("Reshape", turned, c.constant(*SHAPE))


def _integers(c: Chain, x: str) -> str:
    narrow = c("Cast", c("Cast", x, to=INT32), to=INT8)
    return c("Cast", c("Cast", narrow, to=INT32), to=FLOAT)


def _indices(c: Chain, x: str) -> str:
    y = c("MaxPool", x, outputs=2, kernel_shape=[1, 1])
    c.more.append(helper.make_tensor_value_info(c.nodes[-1].output[1], TensorProto.INT64, SHAPE))
    return y


STEPS: dict[str, Callable[[Chain, str], str]] = {
    "flip": lambda c, x: c.slice(x, -1, -100, 3, -1),
    "flip channels": lambda c, x: c.slice(x, 3, -(1 << 40), 1, -1),
    "whole slice": lambda c, x: c.slice(x, 0, 1 << 40, 2, 1),
    "slice and pad": lambda c, x: c("Pad", c.slice(x, 1, 4, 2, 1), c.constant(0, 0, 1, 0, 0, 0, 0, 0)),
    "pad and slice": lambda c, x: c.slice(c("Pad", x, c.constant(0, 0, 1, 0, 0, 0, 0, 0)), 0, 4, 2, 1),
    "pad and crop back": lambda c, x: c.slice(c("Pad", x, c.constant(0, 0, 0, 2, 0, 0, 0, 0)), 2, 6, 3, 1),
    "roll": lambda c, x: c("Concat", c.slice(x, 1, 4, 2, 1), c.slice(x, 0, 1, 2, 1), axis=2),
    "transpose": lambda c, x: c("Transpose", x, perm=[0, 1, 3, 2]),
    "transpose channels": lambda c, x: c("Transpose", x, perm=[0, 3, 1, 2]),
    "transpose nothing": lambda c, x: c("Transpose", x, perm=[0, 1, 2, 3]),
    "reshape across": _across,
    "reshape there and back": lambda c, x: c("Reshape", c("Reshape", x, c.constant(-1, 16)), c.constant(*SHAPE)),
    "flatten": lambda c, x: c("Reshape", c("Flatten", x, axis=2), c.constant(*SHAPE)),
    "gather reversed": lambda c, x: c("Gather", x, c.constant(3, 2, 1, 0), axis=1),
    "gather in place": lambda c, x: c("Gather", x, c.constant(0, 1, 2, 3), axis=2),
    "gather negative": lambda c, x: c("Gather", x, c.constant(-1, 0, -3, 2), axis=1),
    "gather twice": lambda c, x: c("Gather", x, c.constant(1, 1, 0, 0), axis=1),
    "swap images": lambda c, x: c("Gather", x, c.constant(1, 0), axis=0),
    "resize by 1": lambda c, x: c.resize(x, 1, "linear", "half_pixel"),
    "resize by little": lambda c, x: c.resize(x, 1.2, "linear", "half_pixel"),
    "nearest by little": lambda c, x: c.resize(x, 1.24, "nearest", "asymmetric"),
    "crop and resize": lambda c, x: c.resize(x, 1, "linear", "tf_crop_and_resize"),
    "align corners": lambda c, x: c.resize(x, 1, "cubic", "align_corners"),
    "cast to half and back": lambda c, x: c("Cast", c("Cast", x, to=HALF), to=FLOAT),
    "cast to double and back": lambda c, x: c("Cast", c("Cast", x, to=TensorProto.DOUBLE), to=FLOAT),
    "cast to integer and back": lambda c, x: c("Cast", c("Cast", x, to=INT32), to=FLOAT),
    "integers there and back": _integers,
    "sum of one": lambda c, x: c("Sum", x),
    "max of one": lambda c, x: c("Max", x),
    "concat of one": lambda c, x: c("Concat", x, axis=1),
    "split into one": lambda c, x: c("Split", x, axis=1, num_outputs=1),
    "bare clip": lambda c, x: c("Clip", x),
    "limit": lambda c, x: c("Min", x, c.constant(0.3, dtype=np.float32)),
    "expand": lambda c, x: c("Expand", x, c.constant(1, 1, 4, 4)),
    "expand one": lambda c, x: c("Expand", c.slice(x, 0, 1, 1, 1), c.constant(*SHAPE)),
    "dropout": lambda c, x: c("Dropout", x),
    "dropout with mask": _dropout,
    "pool with indices": _indices,
    "pool by 1": lambda c, x: c("AveragePool", x, kernel_shape=[1, 1]),
    "identity": lambda c, x: c("Identity", x),
    "add zeros": lambda c, x: c("Add", x, c.constant(0, dtype=np.float32)),
    "times almost one": lambda c, x: c("Mul", c.constant(1.001, dtype=np.float32), x),
    "depth to space": lambda c, x: c("SpaceToDepth", c("DepthToSpace", x, blocksize=2, mode="CRD"), blocksize=2),
    "reverse sequence": lambda c, x: c("ReverseSequence", x, c.constant(4, 3), batch_axis=0, time_axis=1),
    "cumulative": lambda c, x: c("CumSum", x, c.constant(3)),
    "upper triangle": lambda c, x: c("Trilu", x),
    "conv": lambda c, x: c("Conv", x, c.weight(4, 4, 3, 3), pads=[1, 1, 1, 1]),
}  # fmt: skip


def checked(steps: list[str], folder: Path) -> None:
    """Given a chain of `steps` → Result the same values, of every output."""
    c, x = Chain(), "x"
    for step in steps:
        x = STEPS[step](c, x)
    ends = [helper.make_tensor_value_info(name, FLOAT, SHAPE) for name in ("x", x)]
    graph = helper.make_graph(c.nodes, "g", ends[:1], [*ends[1:], *c.more], c.weights)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), folder / "given.onnx"
    )
    report = simplify(folder / "given.onnx", folder / "plain.onnx")
    feeds = {"x": np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32)}
    wanted, found = (run(folder / name, feeds) for name in ("given.onnx", "plain.onnx"))
    for a, b in zip(wanted, found, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=2e-5 * max(1.0, float(np.abs(a).max())), err_msg=str(steps))
    before, after = report.work_before, report.work_after
    assert sum(report.after.values()) <= sum(report.before.values())
    assert (after.price, after.moved, after.passes) <= (before.price, before.moved, before.passes)


def run(path: Path, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return list(ort.InferenceSession(str(path), options, ["CPUExecutionProvider"]).run(None, feeds))


@pytest.mark.parametrize("step", STEPS)
def test_each_alone(step: str, tmp_path: Path) -> None:
    checked([step], tmp_path)
    checked(["conv", step, "conv"], tmp_path)


@settings(max_examples=examples(30), deadline=None)
@given(steps=st.lists(st.sampled_from(sorted(STEPS)), min_size=2, max_size=6))
def test_any_chain_of_them(tmp_path_factory: pytest.TempPathFactory, steps: list[str]) -> None:
    checked(steps, tmp_path_factory.mktemp("chain"))
