"""Small ONNX graphs in each precision: a conv, a ReLU, a pooled and flattened map, a Gemm."""

from dataclasses import dataclass, field

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper

_FLOATS = {
    "fp32": (TensorProto.FLOAT, np.float32),
    "fp16": (TensorProto.FLOAT16, np.float16),
    "bf16": (TensorProto.BFLOAT16, ml_dtypes.bfloat16),
}
_QUANTIZED = {
    "int8": (TensorProto.INT8, np.int8, 127),
    "fp8": (TensorProto.FLOAT8E4M3FN, ml_dtypes.float8_e4m3fn, 448),
}


@dataclass
class _Graph:
    """Nodes and constants of a graph whose floats are of one type."""

    floats: str
    nodes: list = field(default_factory=list)
    constants: list = field(default_factory=list)

    def constant(self, name, values, kind):
        self.constants.append(helper.make_tensor(name, kind, values.shape, values.tobytes(), raw=True))
        return name

    def float(self, name, values):
        kind, dtype = _FLOATS[self.floats]
        return self.constant(name, np.asarray(values).astype(dtype), kind)

    def node(self, op, inputs, name, **attributes):
        self.nodes.append(helper.make_node(op, inputs, [f"{name}_out"], name=name, **attributes))
        return f"{name}_out"

    def quantized(self, precision, x, name, scale=0.05):
        """DQ(Q(x)) with one scale."""
        kind, dtype, _ = _QUANTIZED[precision]
        scale = self.float(f"{name}_scale", scale)
        zero = self.constant(f"{name}_zero", np.zeros((), dtype), kind)
        q = self.node("QuantizeLinear", [x, scale, zero], f"{name}_Q")
        return self.node("DequantizeLinear", [q, scale, zero], f"{name}_DQ")

    def weight(self, precision, values, name):
        """The weight, or DQ of it with a scale for each row."""
        if precision not in _QUANTIZED:
            return self.float(name, values)
        kind, dtype, largest = _QUANTIZED[precision]
        scale_O = np.abs(values).reshape(len(values), -1).max(axis=1) / largest
        rows = scale_O.reshape(-1, *[1] * (values.ndim - 1))
        stored = np.rint(values / rows) if precision == "int8" else values / rows
        inputs = [
            self.constant(name, stored.astype(dtype), kind),
            self.float(f"{name}_scale", scale_O),
            self.constant(f"{name}_zero", np.zeros(len(values), dtype), kind),
        ]
        return self.node("DequantizeLinear", inputs, f"{name}_DQ", axis=0)


def typed_onnx(path, conv="fp32", gemm=None, floats=None, shape=(1, 16, 8, 8)):
    """input [N, 16, H, W] → "stage.conv" in the precision `conv` → ReLU, mean → "head" in `gemm` → logits [N, 10].

    `floats` is the type of what is not quantized.
    """
    gemm = gemm or conv
    floats = floats or (conv if conv in _FLOATS else "fp32")
    random = np.random.default_rng(0)
    graph = _Graph(floats)
    x = graph.quantized(conv, "input", "a0") if conv in _QUANTIZED else "input"
    weights = [graph.weight(conv, random.normal(size=(32, 16, 3, 3)), "w0"), graph.float("b0", random.normal(size=32))]
    x = graph.node("Conv", [x, *weights], "stage.conv", pads=[1, 1, 1, 1])
    x = graph.node("Relu", [x], "relu")
    x = graph.node("GlobalAveragePool", [x], "pool")
    x = graph.node("Flatten", [x], "flat")
    if gemm in _QUANTIZED:
        x = graph.quantized(gemm, x, "a1")
    weights = [graph.weight(gemm, random.normal(size=(10, 32)), "w1"), graph.float("b1", random.normal(size=10))]
    graph.node("Gemm", [x, *weights], "head", transB=1)
    graph.nodes[-1].output[0] = "logits"
    kind = _FLOATS[floats][0]
    inputs = [helper.make_tensor_value_info("input", kind, shape)]
    outputs = [helper.make_tensor_value_info("logits", kind, [shape[0], 10])]
    opset = helper.make_opsetid("", 22)  # the first with a Conv of bfloat16
    model = helper.make_model(
        helper.make_graph(graph.nodes, "typed", inputs, outputs, graph.constants), opset_imports=[opset]
    )
    model.ir_version = 10
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path
