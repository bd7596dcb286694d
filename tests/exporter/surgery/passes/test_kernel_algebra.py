"""The kernel algebra on ONNX nodes: Given a training-form graph → Result one convolution for each region."""

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from plainconv.exporter.onnx_file.file import graph_from_proto, infer_shapes
from plainconv.exporter.reparam import reparameterize
from plainconv.exporter.source.randomize import randomized
from plainconv.exporter.surgery.algebra import reparameterize_graph
from plainconv.exporter.surgery.passes.kernel_algebra import KernelAlgebra
from plainconv.exporter.to_onnx.export import graph_from_module

NORM = {"gamma": (4,), "beta": (4,), "mean": (4,), "var": (4,)}
PASS = KernelAlgebra()


def test_parallel_branches_become_one_conv(check_pass) -> None:
    given = """(double[1,4,8,8] x) => (double[1,4,8,8] y) {
        a = Conv<pads=[1,1,1,1]>(x, w) an = BatchNormalization(a, gamma, beta, mean, var)
        b = Conv(x, v, bias) c = BatchNormalization(x, gamma, beta, mean, var)
        ab = Add(an, b) abc = Add(ab, c) y = Relu(abc) }"""
    check_pass(PASS, given, ["Conv", "Relu"], NORM | {"w": (4, 4, 3, 3), "v": (4, 4, 1, 1), "bias": (4,)})


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("branches", [3, 5])
def test_any_number_of_branches_becomes_one_conv(check_pass, branches: int, groups: int) -> None:
    """Given a 1×1 branch, several of 3×3 and a norm, as in MobileOne → Result one Conv; they pay in any order."""
    convs = [f"b{i} = Conv<pads=[1,1,1,1], group={groups}>(x, w{i})" for i in range(branches)]
    sums = [f"s{i + 1} = Add(s{i}, b{i})" for i in range(branches)]
    given = f"""(double[1,4,8,8] x) => (double[1,4,8,8] y) {{
        s0 = Conv<group={groups}>(x, v) {" ".join([*convs, *sums])}
        n = BatchNormalization(x, gamma, beta, mean, var) t = Add(s{branches}, n) y = Relu(t) }}"""
    kernels = {f"w{i}": (4, 4 // groups, 3, 3) for i in range(branches)}
    check_pass(PASS, given, ["Conv", "Relu"], NORM | {"v": (4, 4 // groups, 1, 1)} | kernels)


@pytest.mark.parametrize("between", ["LeakyRelu<alpha=1.0>(c)", "Identity(c)", "Dropout(c)", "PRelu(c, one)"])
def test_a_chain_of_1x1_convs_becomes_one(check_pass, between: str) -> None:
    given = f"""(double[N,4,8,8] x) => (double[N,6,8,8] y) {{
        a = Conv(x, w, bias) c = BatchNormalization(a, gamma, beta, mean, var) d = {between} y = Conv(d, v) }}"""
    weights = NORM | {"w": (4, 4, 1, 1), "bias": (4,), "v": (6, 4, 1, 1), "one": np.ones((4, 1, 1))}
    check_pass(PASS, given, ["Conv"], weights)


def test_a_slope_other_than_1_stays(check_pass) -> None:
    given = """(double[1,4,8,8] x) => (double[1,4,8,8] y) {
        a = Conv(x, w) b = LeakyRelu<alpha=0.5>(a) y = Conv(b, w) }"""
    check_pass(PASS, given, None, {"w": (4, 4, 1, 1)})


def test_a_biased_conv_under_a_padded_one_stays(check_pass) -> None:
    given = """(double[1,4,8,8] x) => (double[1,4,8,8] y) {
        a = Conv(x, v, bias) y = Conv<pads=[1,1,1,1]>(a, w) }"""
    check_pass(PASS, given, None, {"v": (4, 4, 1, 1), "bias": (4,), "w": (4, 4, 3, 3)})


def test_a_pooled_branch_and_uneven_padding(check_pass) -> None:
    given = """(double[1,4,8,8] x) => (double[1,4,4,4] y) {
        a = Conv<pads=[0,0,1,1], strides=[2,2]>(x, w)
        p = AveragePool<kernel_shape=[2,2], strides=[2,2]>(x) b = Conv(p, v)
        s = Sum(a, b) y = Relu(s) }"""
    check_pass(PASS, given, ["Conv", "Relu"], {"w": (4, 4, 3, 3), "v": (4, 4, 1, 1)})


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("pads", [[2], [0, 1], [1, 0, 2], [0]])
def test_a_norm_goes_into_a_conv_whose_ends_are_padded_unlike(check_pass, pads: list[int], stride: int) -> None:
    """Given pads that differ from end to end, on one axis to three → Result one Conv with those pads."""
    rank = len(pads)
    ends = [*pads, *(2 - p for p in pads)]
    size = (9 + 2 - 3) // stride + 1
    given = f"""(double[N,4{",9" * rank}] x) => (double[N,4{f",{size}" * rank}] y) {{
        a = Conv<pads={ends}, strides={[stride] * rank}>(x, w)
        y = BatchNormalization(a, gamma, beta, mean, var) }}"""
    graph = check_pass(PASS, given, ["Conv"], NORM | {"w": (4, 4, *[3] * rank)})
    assert graph.nodes[0].attrs["pads"] == ends


def test_weights_that_two_convs_share_stay_one(check_pass) -> None:
    """Given two uses of one conv and norm → Result two Convs that read the same initializers."""
    given = """(double[1,4,8,8] x, double[1,4,8,8] z) => (double[1,4,8,8] y) {
        a = Conv(x, w) an = BatchNormalization(a, gamma, beta, mean, var) r = Relu(an)
        b = Conv(z, w) bn = BatchNormalization(b, gamma, beta, mean, var) s = Relu(bn) y = Mul(r, s) }"""
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> g {given}')
    for name, shape in (NORM | {"w": (4, 4, 1, 1)}).items():
        values = np.random.default_rng(0).uniform(0.5, 1.5, shape)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    graph = graph_from_proto(model)
    infer_shapes(graph)
    assert len(reparameterize_graph(graph)) == 2
    one, other = (node for node in graph.cleanup().nodes if node.op == "Conv")
    assert one.inputs[1] is other.inputs[1] and one.inputs[2] is other.inputs[2]


@pytest.mark.parametrize("mode", ["reflect", "edge", "wrap"])
def test_padding_that_repeats_the_map(check_pass, mode: str) -> None:
    given = f"""(double[1,4,8,8] x) => (double[1,4,8,8] y) {{
        n = BatchNormalization(x, gamma, beta, mean, var) p = Pad<mode="{mode}">(n, pads) y = Conv(p, w) }}"""
    pads = np.array([0, 0, 1, 1, 0, 0, 1, 1])
    check_pass(PASS, given, ["Pad", "Conv"], NORM | {"pads": pads, "w": (4, 4, 3, 3)})


def test_crops_scales_and_differences(check_pass) -> None:
    given = """(double[1,4,8,8] x) => (double[1,4,6,6] y) {
        a = Conv(x, w) c = Slice(x, starts, ends, axes) d = Mul(c, scale) e = Div(d, two) n = Neg(e)
        s = Sub(a, n) y = Sub(s, scale) }"""
    weights = {
        "w": (4, 4, 3, 3),
        "starts": np.array([1, 1]),
        "ends": np.array([-1, -1]),
        "axes": np.array([2, 3]),
        "scale": (4, 1, 1),
        "two": np.array(2.0),
    }
    check_pass(PASS, given, ["Conv"], weights)


@pytest.mark.parametrize("group", [1, 2, 4])
def test_a_transposed_conv_takes_its_norm(group: int) -> None:
    given = f"""(float[1,4,5,5] x) => (float[1,4,10,10] y) {{
        a = ConvTranspose<strides=[2,2], pads=[1,1,1,1], output_padding=[1,1], group={group}>(x, w, bias)
        y = BatchNormalization(a, gamma, beta, mean, var) }}"""
    check_in_runtime(given, ["ConvTranspose"], NORM | {"w": (4, 4 // group, 3, 3), "bias": (4,)})


def test_a_chain_of_gemms(check_pass) -> None:
    given = """(double[2,4] x) => (double[2,3] y) {
        a = Gemm<alpha=0.5, beta=2.0>(x, w, b) n = BatchNormalization(a, gamma, beta, mean, var)
        m = MatMul(n, v) y = Add(m, c) }"""
    check_pass(PASS, given, ["Gemm"], NORM | {"w": (4, 4), "b": (4,), "v": (4, 3), "c": (3,)})


def test_concatenation_under_a_1x1(check_pass) -> None:
    given = """(double[1,4,8,8] x) => (double[1,2,8,8] y) {
        a = Conv<pads=[1,1,1,1]>(x, w) b = Conv(x, v) c = Concat<axis=1>(a, b) y = Conv(c, j) }"""
    check_pass(PASS, given, ["Conv"], {"w": (4, 4, 3, 3), "v": (4, 4, 1, 1), "j": (2, 8, 1, 1)})


def test_a_value_that_leaves_the_graph_or_a_branch_reads_stays(check_pass) -> None:
    given = """(double[1,4,8,8] x, bool c) => (double[1,4,8,8] y, double[1,4,8,8] b) {
        a = Conv(x, w) b = BatchNormalization(a, gamma, beta, mean, var) d = Conv(b, w)
        y = If(c) <then_branch = t () => (double[1,4,8,8] p) { p = Relu(b) },
                   else_branch = e () => (double[1,4,8,8] q) { q = Relu(d) }> }"""
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> g {given}')
    arrays = {name: np.random.rand(*shape) + 0.5 for name, shape in (NORM | {"w": (4, 4, 1, 1)}).items()}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(a, name) for name, a in arrays.items())
    graph = graph_from_proto(model)
    infer_shapes(graph)
    assert PASS.apply(graph) > 0
    graph.cleanup().toposort()
    assert {t.name for n in graph.nodes for t in n.outputs} >= {"b", "d", "y"}


def test_an_op_of_another_domain_bounds_a_region(check_pass) -> None:
    """Given a node called Conv in a domain of its own → Result it stays, what is around it merges."""
    text = """<ir_version: 10, opset_import: ["" : 20, "mine" : 1]> g (float[1,4,8,8] x) => (float[1,4,8,8] y) {
        a = BatchNormalization(x, gamma, beta, mean, var) b = mine.Conv(a, w) y = Relu(b) }"""
    model = onnx.parser.parse_model(text)
    arrays = {name: np.ones(shape, np.float32) for name, shape in (NORM | {"w": (4, 4, 1, 1)}).items()}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(a, name) for name, a in arrays.items())
    assert PASS.apply(graph_from_proto(model)) == 0


def test_opset_9_pads_are_attributes() -> None:
    given = """(float[1,4,8,8] x) => (float[1,4,8,8] y) {
        p = Pad<pads=[0,0,1,1,0,0,1,1]>(x) a = Conv(p, w) y = BatchNormalization(a, gamma, beta, mean, var) }"""
    check_in_runtime(given, ["Conv"], NORM | {"w": (4, 4, 3, 3)}, opset=9)


def check_in_runtime(text: str, result: list[str], weights: dict[str, tuple[int, ...]], opset: int = 20) -> None:
    """As `check_pass`, for what ONNX's reference evaluator computes wrongly: in float32, by ONNX Runtime."""
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]> g {text}')
    rng = np.random.default_rng(0)
    for name, shape in weights.items():
        values = rng.uniform(0.5, 2, shape) if name == "var" else rng.standard_normal(shape)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values.astype(np.float32), name))
    graph = graph_from_proto(model)
    infer_shapes(graph)
    assert PASS.apply(graph) == 1
    graph.cleanup().toposort()
    assert [n.op for n in graph.nodes] == result
    x = rng.standard_normal([d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]).astype(np.float32)
    want, got = (
        onnxruntime.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
        for m in (model, gs.export_onnx(graph))
    )
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1, bias=False), nn.BatchNorm2d(4))
        self.b = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4))
        self.c = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.a(x) + self.b(x))
        return self.head((self.c(y).relu() + y).mean((2, 3)))


@pytest.mark.parametrize("dynamic", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_file_in_training_form_becomes_what_the_module_does(dynamic: bool) -> None:
    """Given the same network as a module and as ONNX → Result the same convolutions, number by number."""
    module, x = randomized(Branches(), 0).eval(), torch.randn(2, 3, 16, 16)
    graph = graph_from_module(module, x, dynamic_batch=dynamic)
    infer_shapes(graph)
    regions = reparameterize_graph(graph)
    graph.cleanup().toposort()
    plain, report = reparameterize(module, x)
    assert len(report.regions) == 2 and len(regions) == 2
    convs = [n for n in graph.nodes if n.op == "Conv"]
    ours = sorted((float(np.abs(n.inputs[1].values).sum()), n.inputs[1].shape) for n in convs)
    theirs = sorted((float(p.abs().sum()), list(p.shape)) for p in plain.parameters() if p.dim() == 4)
    np.testing.assert_allclose([a for a, _ in ours], [a for a, _ in theirs], rtol=1e-6)
    assert not {"BatchNormalization", "AveragePool"} & {n.op for n in graph.nodes}
