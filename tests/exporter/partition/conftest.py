"""Networks with branches, made by the node: like HRNet, like Inception, a chain."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from plainconv.exporter.partition import prepared


class Maker:
    """Adds nodes; each method returns the name of the value it makes."""

    def __init__(self, channels: int, size: int, batch: int | str = 1) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.rng = np.random.default_rng(0)
        self.x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, channels, size, size])
        self.channels = {"x": channels}

    def add(self, op: str, *inputs: str, channels: int | None = None, **attributes: object) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=f"{op.lower()}_{len(self.nodes)}", **attributes))
        self.channels[name] = self.channels[inputs[0]] if channels is None else channels
        return name

    def constant(self, array: np.ndarray) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def conv(self, x: str, channels: int, kernel: int = 3, stride: int = 1, relu: bool = True) -> str:
        shape = (channels, self.channels[x], kernel, kernel)
        weight = self.constant((self.rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32))
        pad = kernel // 2
        y = self.add("Conv", x, weight, channels=channels, pads=[pad] * 4, strides=[stride] * 2)
        return self.add("Relu", y) if relu else y

    def block(self, x: str) -> str:
        """Two convs and a skip."""
        y = self.conv(self.conv(x, self.channels[x]), self.channels[x], relu=False)
        return self.add("Relu", self.add("Add", y, x))

    def upsampled(self, x: str, channels: int, factor: int) -> str:
        y = self.conv(x, channels, 1, relu=False)
        scales = self.constant(np.array([1, 1, factor, factor], np.float32))
        return self.add("Resize", y, "", scales, mode="nearest")

    def concat(self, values: Sequence[str]) -> str:
        return self.add("Concat", *values, channels=sum(self.channels[v] for v in values), axis=1)

    def model(self, outputs: Sequence[str]) -> ir.Model:
        declared = [helper.make_tensor_value_info(y, TensorProto.FLOAT, None) for y in outputs]
        graph = helper.make_graph(self.nodes, "net", [self.x], declared, self.weights)
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        return prepared(ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(proto)))


def hrnet(modules: int, width: int = 8, size: int = 64, branches: int = 4, batch: int | str = 1) -> ir.Model:
    """Branches of 1, 1/2, 1/4 … of the resolution; after four blocks in each, every one goes into every one."""
    net = Maker(3, size, batch)
    values = [net.conv("x", width)]
    for at in range(1, branches):
        values.append(net.conv(values[-1], width << at, stride=2))
    for _ in range(modules):
        for _ in range(4):
            values = [net.block(x) for x in values]
        fused = []
        for target in range(branches):
            total = values[target]
            for source, x in enumerate(values):
                if source > target:
                    total = net.add("Add", total, net.upsampled(x, width << target, 2 ** (source - target)))
                elif source < target:
                    down = x
                    for step in range(source + 1, target + 1):
                        down = net.conv(down, width << step, stride=2, relu=step < target)
                    total = net.add("Add", total, down)
            fused.append(net.add("Relu", total))
        values = fused
    pooled = [net.add("Flatten", net.add("GlobalAveragePool", x)) for x in values]
    return net.model([net.add("Concat", *pooled, axis=1)])


def inception(modules: int, width: int = 16, size: int = 32) -> ir.Model:
    """Four branches side by side, concatenated, over and over."""
    net = Maker(3, size)
    x = net.conv("x", 4 * width)
    for _ in range(modules):
        one = net.conv(x, width, 1)
        three = net.conv(net.conv(x, width, 1), width)
        five = net.conv(net.conv(net.conv(x, width, 1), width), width)
        pool = net.conv(net.add("MaxPool", x, kernel_shape=[3, 3], pads=[1] * 4), width, 1)
        x = net.concat([one, three, five, pool])
    return net.model([net.add("GlobalAveragePool", x)])


def chain(depth: int, width: int = 16, size: int = 32) -> ir.Model:
    """Convs one after another."""
    net = Maker(3, size)
    x = "x"
    for _ in range(depth):
        x = net.conv(x, width)
    return net.model([net.add("GlobalAveragePool", x)])


def parallel(branches: int, depth: int, width: int = 32, size: int = 32, batch: int | str = 1) -> ir.Model:
    """A stem, `branches` of `depth` convs on it, their sum, and a head."""
    net = Maker(3, size, batch)
    stem = net.conv("x", width)
    ends = []
    for _ in range(branches):
        y = stem
        for _ in range(depth):
            y = net.conv(y, width)
        ends.append(y)
    total = ends[0]
    for y in ends[1:]:
        total = net.add("Add", total, y)
    return net.model([net.conv(total, width)])


def text_model(text: str, opset: int = 18, **weights: np.ndarray) -> ir.Model:
    """`text` in ONNX's text syntax, with `weights` as initializers."""
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]> net {text}')
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    return prepared(ir.serde.deserialize_model(proto))


@pytest.fixture(scope="session")
def nets() -> SimpleNamespace:
    """The makers above by their names."""
    return SimpleNamespace(Maker=Maker, hrnet=hrnet, inception=inception, chain=chain, parallel=parallel)


@pytest.fixture(scope="session")
def made() -> Callable[..., ir.Model]:
    return text_model
