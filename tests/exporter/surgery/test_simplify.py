from pathlib import Path

import numpy as np
import onnx
import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from plainconv.exporter.errors import ExportError
from plainconv.exporter.onnx_file.file import graph_from_proto, read
from plainconv.exporter.surgery import PASSES, run_passes, simplify


class Net:
    """A graph in double, written node by node; each call adds a node and returns its value."""

    def __init__(self, *shape: int, opset: int = 20) -> None:
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[TensorProto] = []
        self.rng = np.random.default_rng(0)
        self.input = helper.make_tensor_value_info("input", TensorProto.DOUBLE, shape)

    def weight(self, *shape: int, positive: bool = False) -> str:
        values = self.rng.uniform(0.5, 2, shape) if positive else self.rng.standard_normal(shape)
        return self.constant(values / (1 if positive else np.sqrt(max(1, np.prod(shape[1:])))))

    def constant(self, values: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(values, f"w{len(self.weights)}"))
        return self.weights[-1].name

    def __call__(self, op: str, *inputs: str, **attrs: object) -> str:
        self.nodes.append(helper.make_node(op, inputs, [f"v{len(self.nodes)}"], **attrs))
        return self.nodes[-1].output[0]

    def conv(self, x: str, i: int, o: int, k: int, *, groups: int = 1, stride: int = 1, bias: bool = True) -> str:
        inputs = [x, self.weight(o, i // groups, k, k), *([self.weight(o)] if bias else [])]
        pads = [(k - 1) // 2] * 4 if stride < k or k == 1 else [0] * 4
        return self("Conv", *inputs, kernel_shape=[k, k], group=groups, strides=[stride] * 2, pads=pads)

    def norm(self, x: str, c: int) -> str:
        return self("BatchNormalization", x, *(self.weight(c) for _ in range(3)), self.weight(c, positive=True))

    def gate(self, x: str, i: int, o: int, *, groups: int = 1) -> str:
        return self("Sigmoid", self.conv(self.mean(x), i, o, 1, groups=groups, bias=False))

    def mean(self, x: str) -> str:
        if self.opset < 18:
            return self("ReduceMean", x, axes=[2, 3])
        return self("ReduceMean", x, self.constant(np.array([2, 3])))

    def doubled(self, gate: str) -> str:
        return self("Mul", gate, self.constant(np.array(2.0)))

    def model(self, output: str, *shape: int) -> onnx.ModelProto:
        out = helper.make_tensor_value_info(output, TensorProto.DOUBLE, shape)
        graph = helper.make_graph(self.nodes, "g", [self.input], [out], self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=10)


def vanillanet_6() -> onnx.ModelProto:
    """The plain form of VanillaNet-6 with 1/64 of its channels, as the exporter writes it."""
    net, dims = Net(1, 3, 224, 224), [8, 16, 32, 64, 64]
    x = net.conv(net("Relu", net.conv("input", 3, 8, 4, stride=4)), 8, 8, 7, groups=8)
    for i, o, stride in zip(dims, dims[1:], [2, 2, 2, 1], strict=False):
        x = net.conv(x, i, o, 1)
        if stride > 1:
            x = net("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
        x = net.conv(net("Relu", x), o, o, 7, groups=o)
    x = net.conv(net("ReduceMean", x, net.constant(np.array([2, 3]))), 64, 10, 1)
    return net.model(net("Reshape", x, net.constant(np.array([1, -1]))), 1, 10)


def shuffled(net: Net, x: str, c: int, size: int) -> str:
    x = net("Reshape", x, net.constant(np.array([1, 2, c // 2, size, size])))
    x = net("Transpose", x, perm=[0, 2, 1, 3, 4])
    return net("Reshape", x, net.constant(np.array([1, c, size, size])))


def parnet() -> onnx.ModelProto:
    """Two streams of a gated skip block each, fused and shuffled as ParNet does, and its head."""
    net, c = Net(1, 3, 32, 32), 8
    ends = []
    for _ in range(2):
        x = net.conv("input", 3, c, 3, stride=2)
        x = net("Relu", net("Mul", x, net.doubled(net.gate("input", 3, c))))
        skip = net.norm(x, c)
        gated = net("Mul", skip, net.gate(skip, c, c))
        x = net("Relu", net("Add", net.conv(x, c, c, 3), gated))
        ends.append(net.norm(x, c))
    x = shuffled(net, net("Concat", *ends, axis=1), 2 * c, 16)
    x = net("Mul", net.conv(x, 2 * c, c, 3, groups=2, stride=2), net.doubled(net.gate(x, 2 * c, c, groups=2)))
    x = shuffled(net, net("Relu", x), c, 8)
    x = net("Relu", net("Mul", net.conv(x, c, c, 3), net.doubled(net.gate(x, c, c))))
    x = net("Reshape", net("ReduceMean", x, net.constant(np.array([2, 3]))), net.constant(np.array([1, -1])))
    return net.model(net("Gemm", x, net.weight(10, c), net.weight(10), transB=1), 1, 10)


def assert_same(given: onnx.ModelProto, result: Path, *, tolerance: float = 1e-10) -> None:
    for seed in range(3):
        shape = [d.dim_value for d in given.graph.input[0].type.tensor_type.shape.dim]
        x = {"input": np.random.default_rng(seed).standard_normal(shape)}
        wanted, found = (ReferenceEvaluator(m).run(None, x)[0] for m in (given, onnx.load(result)))
        np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance * np.abs(wanted).max())


@pytest.fixture
def given_file(tmp_path: Path):
    def save(model: onnx.ModelProto) -> Path:
        onnx.save(model, tmp_path / "given.onnx")
        return tmp_path / "given.onnx"

    return save


def test_vanillanet_6_reaches_twenty_nodes(given_file, tmp_path: Path) -> None:
    given = vanillanet_6()
    report = simplify(given_file(given), tmp_path / "plain.onnx")
    assert sum(report.before.values()) == 21
    assert report.after == {"Conv": 10, "Gemm": 1, "MaxPool": 3, "ReduceMean": 1, "Relu": 5}
    assert_same(given, tmp_path / "plain.onnx")


def test_vanillanet_6_at_a_fixed_size_averages_in_its_last_conv(given_file, tmp_path: Path) -> None:
    given = vanillanet_6()
    report = simplify(given_file(given), tmp_path / "plain.onnx", fixed_size=True)
    assert report.after == {"Conv": 10, "Flatten": 1, "Gemm": 1, "MaxPool": 3, "Relu": 5}
    assert report.work_after.macs < report.work_before.macs
    assert_same(given, tmp_path / "plain.onnx")


def test_without_that_the_graph_still_takes_other_sizes(given_file, tmp_path: Path) -> None:
    given = vanillanet_6()
    simplify(given_file(given), tmp_path / "plain.onnx")
    plain, x = onnx.load(tmp_path / "plain.onnx"), np.random.default_rng(0).standard_normal((1, 3, 256, 192))
    wanted, found = (ReferenceEvaluator(m).run(None, {"input": x})[0] for m in (given, plain))
    np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-10)


def test_parnet_keeps_no_norm_shuffle_concat_or_transpose(given_file, tmp_path: Path) -> None:
    given = parnet()
    report = simplify(given_file(given), tmp_path / "plain.onnx")
    assert not {"BatchNormalization", "Concat", "Transpose", "Reshape", "Gather", "ReduceMean"} & set(report.after)
    assert report.after["Max"] == 2  # the activations before the fusion, which take the shifts of its norms up
    assert report.work_after.passes < report.work_before.passes
    assert report.work_after.kernels < report.work_before.kernels
    assert_same(given, tmp_path / "plain.onnx")


@pytest.mark.parametrize("make", [vanillanet_6, parnet])
def test_a_second_run_changes_nothing_and_the_first_is_the_same_each_time(given_file, tmp_path: Path, make) -> None:
    source = given_file(make())
    simplify(source, tmp_path / "1.onnx")
    simplify(source, tmp_path / "2.onnx")
    again = simplify(tmp_path / "1.onnx", tmp_path / "3.onnx")
    assert (tmp_path / "1.onnx").read_bytes() == (tmp_path / "2.onnx").read_bytes()
    assert again.passes == ()
    assert again.before == again.after


def test_the_report_names_each_pass_that_did_something(given_file, tmp_path: Path) -> None:
    report = simplify(given_file(vanillanet_6()), tmp_path / "plain.onnx", fixed_size=True)
    counts = {each.name: each.rewrites for each in report.passes}
    assert counts["relu-past-maxpool"] == 3
    assert counts["depthwise-into-pool"] == counts["gemm-head"] == 1
    assert sum(each.nodes_removed for each in report.passes) == 1
    assert "relu-past-maxpool" in str(report)


def test_a_pass_can_be_left_out_and_an_unknown_one_is_refused(given_file, tmp_path: Path) -> None:
    source = given_file(vanillanet_6())
    report = simplify(source, tmp_path / "plain.onnx", skip=["gemm-head"])
    assert report.after["Conv"] == 11
    with pytest.raises(ExportError, match="no pass is called gem-head"):
        simplify(source, tmp_path / "plain.onnx", skip=["gem-head"])


def test_metadata_survives_and_grows(given_file, tmp_path: Path) -> None:
    model = vanillanet_6()
    model.metadata_props.add(key="a", value="1")
    simplify(given_file(model), tmp_path / "plain.onnx", metadata={"b": "2"})
    assert read(tmp_path / "plain.onnx")[1] == {"a": "1", "b": "2"}


def test_pass_names_are_unique_and_every_pass_states_given_and_result() -> None:
    names = [each.name for each in PASSES]
    assert len(set(names)) == len(names)
    for each in PASSES:
        assert "Given " in (type(each).__doc__ or ""), each.name
        assert "Result " in (type(each).__doc__ or ""), each.name


C = 4
STEPS = (
    "conv",
    "depthwise",
    "norm",
    "relu",
    "maxpool",
    "gated",
    "skip",
    "shuffle",
    "concat",
    "scale",
    "leaky",
    "views",
    "silu",
    "avgpool",
    "shift",
    "transposed",
    "fusion",
    "branches",
)


@settings(max_examples=examples(12), deadline=None)
@given(
    steps=st.lists(st.sampled_from(STEPS), min_size=1, max_size=8),
    head=st.booleans(),
    fixed_size=st.booleans(),
    opset=st.sampled_from([14, 17, 18, 21]),  # before 14 the reference evaluator normalizes by the batch
)
def test_any_sequence_of_layers_computes_the_same_after_surgery(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str], head: bool, fixed_size: bool, opset: int
) -> None:
    net, x, size = Net(1, C, 8, 8, opset=opset), "input", 8
    for step in steps:
        if step == "conv":
            x = net.conv(x, C, C, 3, groups=1 + len(net.nodes) % 2)
        elif step == "depthwise":
            x = net.conv(x, C, C, 5, groups=C)
        elif step == "norm":
            x = net.norm(x, C)
        elif step == "relu":
            x = net("Relu", x)
        elif step == "maxpool" and size > 1:
            x, size = net("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]), size // 2
        elif step == "gated":
            x = net("Mul", x, net.doubled(net.gate(x, C, C)))
        elif step == "skip":
            x = net("Add", net.conv(x, C, C, 3), net.norm(x, C))
        elif step == "shuffle":
            x = shuffled(net, x, C, size)
        elif step == "concat":
            x = net.conv(shuffled(net, net("Concat", x, net("Neg", x), axis=1), 2 * C, size), 2 * C, C, 1, groups=2)
        elif step == "scale":
            x = net("Mul", x, net.weight(C, 1, 1))
        elif step == "leaky":
            x = net("LeakyRelu", x, alpha=1.0)
        elif step == "views":
            x = net("Flatten", x)
            x = net("Reshape", x, net.constant(np.array([1, C, size, size])))
        elif step == "silu":
            x = net("Mul", x, net("Sigmoid", x))
        elif step == "avgpool":
            x = net("AveragePool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        elif step == "shift":
            x = net("Add", net.weight(1, C, 1, 1), x)
        elif step == "transposed":  # channels in another order, by two transposes
            x = net("Transpose", x, perm=[1, 0, 2, 3])
            x = net("Gather", x, net.constant(np.array([1, 3, 0, 2])), axis=0)
            x = net("Transpose", x, perm=[1, 0, 2, 3])
        elif step == "fusion":  # as ParNet's: norms of two streams, interleaved, a grouped conv and its gate
            ends = [net.norm(net("Relu", net.conv(x, C, C, 3)), C) for _ in range(2)]
            joined = shuffled(net, net("Concat", *ends, axis=1), 2 * C, size)
            gate = net.doubled(net.gate(joined, 2 * C, C, groups=2))
            x = shuffled(net, net("Relu", net("Mul", net.conv(joined, 2 * C, C, 3, groups=2), gate)), C, size)
        elif step == "branches":  # one value, read in two orders and as it is
            y = net("Relu", net.conv(x, C, C, 3))
            x = net("Add", net.conv(shuffled(net, y, C, size), C, C, 1), net("MaxPool", y, kernel_shape=[1, 1]))
    shape: tuple[int, ...] = (1, C, size, size)
    if head:
        x = net.conv(net.mean(x), C, 3, 1)
        x, shape = net("Flatten", x), (1, 3)
    if not net.nodes:
        return
    given_model = net.model(x, *shape)
    folder = tmp_path_factory.mktemp("random")
    onnx.save(given_model, folder / "given.onnx")

    report = simplify(folder / "given.onnx", folder / "plain.onnx", fixed_size=fixed_size)

    onnx.checker.check_model(str(folder / "plain.onnx"), full_check=True)
    assert [t.name for t in onnx.load(folder / "plain.onnx").graph.output] == [x]
    assert_same(given_model, folder / "plain.onnx", tolerance=1e-9)
    assert report.rounds < 10
    assert report.work_after.moved <= report.work_before.moved
    assert run_passes(graph_from_proto(onnx.load(folder / "plain.onnx")), fixed_size=fixed_size).passes == ()
