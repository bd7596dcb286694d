"""An ONNX graph evaluated by torch → what ONNX Runtime gives for the same nodes."""

import copy
import pickle
import warnings
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper, parser
from onnx.backend.test.case.node import collect_testcases

from plainconv.exporter.count import count_module
from plainconv.exporter.errors import PlainconvError, SourceError
from plainconv.exporter.onnx_file.file import graph_from_proto, read
from plainconv.exporter.onnx_module import OPS, module_from_onnx
from plainconv.exporter.parity.widen import float64_outputs
from plainconv.exporter.surgery.edit import sort

SEED = 0


def model(text: str, opset: int = 20, **weights: Any) -> onnx.ModelProto:
    """A graph in ONNX's own text, with initializers."""
    made = parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> g {text}')
    made.graph.initializer.extend(numpy_helper.from_array(np.asarray(w), name) for name, w in weights.items())
    return made


def module_of(proto: onnx.ModelProto) -> Any:
    graph = graph_from_proto(proto)
    sort(graph)
    return module_from_onnx(graph)


def by_runtime(proto: onnx.ModelProto, *arrays: np.ndarray) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(proto.SerializeToString(), options, ["CPUExecutionProvider"])
    return session.run(None, dict(zip((t.name for t in session.get_inputs()), arrays, strict=True)))


def random(*shape: int, seed: int = SEED) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@torch.no_grad()
def check(proto: onnx.ModelProto, *arrays: np.ndarray) -> None:
    """The module gives what ONNX Runtime gives, and shapes alone where there is no data."""
    module = module_of(proto)
    inputs = tuple(torch.from_numpy(a) for a in arrays)
    found = module(*inputs)
    for y, wanted in zip(found if isinstance(found, tuple) else (found,), by_runtime(proto, *arrays), strict=True):
        assert (tuple(y.shape), y.numpy().dtype) == (wanted.shape, wanted.dtype)
        np.testing.assert_allclose(y.numpy(), wanted, rtol=1e-5, atol=2e-6)
    count_module(module, inputs)
    wide = float64_outputs(module, inputs, may_copy=False)
    for y, narrow in zip(*((t if isinstance(t, tuple) else (t,)) for t in (wide, found)), strict=True):
        assert y.dtype == (torch.float64 if narrow.is_floating_point() else narrow.dtype)
        torch.testing.assert_close(y.to(narrow.dtype), narrow, rtol=1e-4, atol=1e-5)


X = "(float[2,4,9,8] x) => (float[] y)"
W4, W2 = random(6, 4, 3, 3, seed=1), random(6, 2, 3, 2, seed=2)


@pytest.mark.parametrize("auto", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("strides", ["[1,1]", "[2,3]"])
def test_auto_pad(auto, strides):
    check(model(f'{X} {{ y = Conv<auto_pad="{auto}", strides={strides}>(x, w) }}', w=W4), random(2, 4, 9, 8))
    for pool in ("MaxPool", "AveragePool"):
        check(
            model(f'{X} {{ y = {pool}<kernel_shape=[3,2], auto_pad="{auto}", strides={strides}>(x) }}'),
            random(2, 4, 9, 8),
        )


@pytest.mark.parametrize(
    "attributes",
    [
        "pads=[1,1,1,1]",
        "pads=[0,1,2,3]",
        "pads=[2,0,1,1], strides=[2,1], dilations=[2,1]",
    ],
)
def test_conv(attributes):
    weights = {"w": W2, "b": random(6, seed=3)}
    check(model(f"{X} {{ y = Conv<group=2, {attributes}>(x, w, b) }}", **weights), random(2, 4, 9, 8))


@pytest.mark.parametrize(
    "attributes",
    [
        "pads=[1,1,1,1]",
        "pads=[0,1,2,0], strides=[2,3]",
        "strides=[3,2], output_padding=[2,1], pads=[1,0,0,1]",
        "strides=[2,2], output_shape=[18,17]",
        'strides=[2,2], auto_pad="SAME_UPPER"',
        'strides=[2,2], auto_pad="SAME_LOWER"',
        "dilations=[2,1], group=2",
    ],
)
def test_transposed_conv(attributes):
    groups = 2 if "group" in attributes else 1
    weights = {"w": random(4, 3, 3, 3, seed=1), "b": random(3 * groups, seed=3)}
    check(model(f"{X} {{ y = ConvTranspose<{attributes}>(x, w, b) }}", **weights), random(2, 4, 9, 8))


@pytest.mark.parametrize("ceil", [0, 1])
@pytest.mark.parametrize("pads", ["[0,0,0,0]", "[1,1,1,1]", "[0,1,1,0]"])
@pytest.mark.parametrize("pool", ["MaxPool<", "AveragePool<", "AveragePool<count_include_pad=1, "])
@pytest.mark.parametrize("more", ["strides=[2,3]", "dilations=[2,1]"])
def test_pools(pool, pads, ceil, more):
    text = f"{X} {{ y = {pool}kernel_shape=[3,2], pads={pads}, ceil_mode={ceil}, {more}>(x) }}"
    check(model(text), random(2, 4, 9, 8))


def test_one_and_three_axes():
    for shape in ((2, 3, 11), (1, 2, 5, 6, 7)):
        k = [2] * (len(shape) - 2)
        sizes = ",".join(map(str, shape))
        weights = {"w": random(4, shape[1], *k, seed=1)}
        check(
            model(
                f"(float[{sizes}] x) => (float[] y, float[] z) {{ a = Conv(x, w) y = MaxPool<kernel_shape={k}>(a) "
                f"z = AveragePool<kernel_shape={k}>(a) }}",
                **weights,
            ),
            random(*shape),
        )


@pytest.mark.parametrize("where", ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("to", ["scales", "sizes"])
def test_resize(where, mode, to):
    target = {"scales": np.float32([1, 1, 1.7, 0.6]), "sizes": np.int64([2, 4, 17, 5])}[to]
    names = ("x, , t", "x, , , t")[to == "sizes"]
    text = f'{X} {{ y = Resize<mode="{mode}", coordinate_transformation_mode="{where}">({names}) }}'
    check(model(text, t=target), random(2, 4, 9, 8))


SHAPES_IN_THE_GRAPH = """(float[n,4,9,8] x) => (float[] y) {
    shape = Shape(x) n = Gather<axis=0>(shape, zero) n1 = Unsqueeze(n, zero1) both = Concat<axis=0>(n1, rest)
    flat = Reshape(x, both) high = Slice(shape, two, four) wide = Cast<to=1>(high) twice = Mul(wide, factor)
    up = Floor(twice) sizes = Cast<to=7>(up) head = Slice(shape, zero1, two) all = Concat<axis=0>(head, sizes)
    grown = Resize<mode="nearest">(x, , , all) m = ReduceMean<keepdims=0>(grown, two3) s = MatMul(flat, w)
    y = Add(m, s) }"""


def test_shapes_computed_in_the_graph_are_known():
    """Given Shape → Gather → Concat → Reshape, and sizes by float arithmetic → also without data, and at any batch."""
    proto = model(
        SHAPES_IN_THE_GRAPH,
        zero=np.int64(0),
        zero1=np.int64([0]),
        rest=np.int64([-1]),
        two=np.int64([2]),
        four=np.int64([4]),
        two3=np.int64([2, 3]),
        factor=np.float32([2.5, 1.5]),
        w=random(288, 4, seed=4),
    )
    for batch in (1, 3):
        check(proto, random(batch, 4, 9, 8))


def test_shared_weights_are_not_copied(tmp_path):
    """Given a file → the module, and the graph that surgery gets, read the same memory; BN statistics are buffers."""
    channels = 512
    stats = {k: np.abs(random(channels, seed=i)) + 1 for i, k in enumerate(("gamma", "beta", "mean", "var"))}
    proto = model(
        "(float[1,512,2,2] x) => (float[] y) { a = Conv(x, w) y = BatchNormalization(a, gamma, beta, mean, var) }",
        w=random(channels, channels, 2, 2),
        **stats,
    )
    onnx.save(proto, tmp_path / "m.onnx")
    graph, _ = read(tmp_path / "m.onnx")
    module = module_from_onnx(graph)
    (weight,) = (p for p in module.parameters() if p.dim() == 4)
    assert weight.data_ptr() == graph.tensors()["w"].values.ctypes.data
    assert sum(p.numel() for p in module.parameters()) == channels * channels * 4 + 2 * channels
    assert sum(b.numel() for b in module.buffers()) == 2 * channels


def test_memory_of_a_value_ends_with_its_last_reader():
    module = module_of(model("(float[2] x) => (float[] y) { a = Relu(x) b = Exp(a) c = Add(a, b) y = Neg(c) }"))
    assert [sorted(names) for names in module._last_reads] == [["x"], [], ["a", "b"], ["c"]]


def test_module_can_be_copied_and_pickled():
    module = module_of(model(f"{X} {{ y = Conv(x, w) }}", w=W4))
    x = torch.from_numpy(random(2, 4, 9, 8))
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(other(x), module(x))
    assert copy.deepcopy(module).double()(x.double()).dtype == torch.float64


def test_another_batch_than_it_is_held_to_is_refused():
    module = module_of(model(f"{X} {{ y = Relu(x) }}"))
    module.batches = {"x": 2}
    assert module(torch.ones(2, 3)).shape == (2, 3)
    with pytest.raises(RuntimeError, match="made for a batch of 2"):
        module(torch.ones(3, 3))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("(float[2] x) => (float[] y) { y = NonZero(x) }", "the ONNX op NonZero is not taken"),
        ("(float[2] x) => (float[] y) { a = GRU(x) y = LSTM(a) }", r"the ONNX op GRU \(and 1 more ops\) is not taken"),
        ("(float[1,1,3,3] x, float[4] s) => (float[] y) { y = Resize(x, , s) }", "an input 2 that is computed"),
        ('(float[1,1,3,3] x) => (float[] y) { y = Resize<mode="cubic">(x, , s) }', "Resize 'y' has the mode 'cubic'"),
        (
            "(float[1,1,3,3] x) => (float[] y, int64[] i) { y, i = MaxPool<kernel_shape=[2,2]>(x) }",
            "output Indices",
        ),
        ("(float[2] x) => (string[] y) { y = Cast<to=8>(x) }", "the type STRING"),
    ],
)
def test_what_is_not_taken_is_one_line_with_a_remedy(text, says):
    with pytest.raises(SourceError, match=says) as refused:
        module = module_of(model(text, **({"s": np.float32([1, 1, 2, 2])} if "cubic" in text else {})))
        module(*(torch.ones(1, 1, 3, 3) for _ in module.input_names))
    assert "exporter simplify FILE" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_old_opsets_are_refused_and_failures_name_the_node():
    with pytest.raises(SourceError, match="has opset 6, wanted 7 or later"):
        module_of(model(f"{X} {{ y = Relu(x) }}", opset=6))
    with pytest.raises(RuntimeError, match="MatMul 'y': "):
        module_of(model("(float[2,3] x) => (float[] y) { y = MatMul(x, x) }"))(torch.ones(2, 3))


# ------------------------------------------------------------------ the models that ONNX tests backends with


@pytest.fixture(scope="module")
def cases() -> list[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # expected outputs are computed with infinities and NaN
        return list(collect_testcases(None))


def survey(cases: list[Any]) -> tuple[dict[str, int], list[str]]:
    counts = {"same": 0, "refused": 0}
    wrong = []
    for case in cases:
        feeds = case.data_sets[0][0]
        if not {n.op_type for n in case.model.graph.node} <= {*OPS, "Constant"}:
            continue
        proto = onnx.ModelProto()
        proto.CopyFrom(case.model)
        try:
            for tensor, values in zip(list(proto.graph.input)[1:], feeds[1:], strict=True):
                proto.graph.initializer.append(numpy_helper.from_array(values, tensor.name))
                proto.graph.input.remove(tensor)
            wanted = by_runtime(proto, *feeds[:1])
        except Exception:  # a sequence, a type that ONNX Runtime has no kernel for
            continue
        if not all(isinstance(y, np.ndarray) for y in wanted):
            continue
        try:
            found = module_of(proto)(*(torch.from_numpy(np.asarray(a)) for a in feeds[:1]))
        except (PlainconvError, TypeError):  # TypeError: numbers that torch has no type for
            counts["refused"] += 1
            continue
        except RuntimeError as error:
            if "not implemented for 'UInt" in str(error) or "_empty_set" in case.name:
                counts["refused"] += 1  # torch computes nothing in these types, and no maximum of nothing
            else:
                wrong.append(f"{case.name}: {error}")
            continue
        eps = 1e-3 if "16" in str(wanted[0].dtype) else 1e-5
        for y, y_wanted in zip(found if isinstance(found, tuple) else (found,), wanted, strict=False):
            same = y.shape == y_wanted.shape and np.allclose(y.numpy(), y_wanted, 2 * eps, eps / 5, equal_nan=True)
            if not same:
                wrong.append(case.name)
        counts["same"] += 1
    return counts, wrong


def test_backend_models_of_the_ops_taken(cases):
    """Every third model of an op that is taken gives what ONNX Runtime gives, inputs but the first as constants."""
    counts, wrong = survey(cases[::3])
    assert not wrong
    assert counts["same"] > 150


@pytest.mark.slow
def test_all_backend_models_of_the_ops_taken(cases):
    counts, wrong = survey(cases)
    print(counts)
    assert not wrong
    assert counts["same"] > 450
